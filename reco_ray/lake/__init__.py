"""The lake: raw data come in, Delta tables under ``root/lake`` go out; every job reads and writes through here.

`storage` is the one way to files under ``root``, `tables` to Delta, `sources` turns people's files into the contract's tables.
"""

from reco_ray.lake.tables import append_events, content_hash, exists, read, replace, table_uri, version

__all__ = ["append_events", "content_hash", "exists", "read", "replace", "table_uri", "version"]
