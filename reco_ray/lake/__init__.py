"""The lake: raw data come in, Delta tables under ``root/lake`` go out; every job reads and writes through here.

`storage` is the one way to files under ``root``, `tables` and `appending` to Delta, `compact` keeps files few; `sources` turns
people's files into the contract's tables.
"""

from reco_ray.lake.appending import TableAppender, append_events
from reco_ray.lake.tables import content_hash, exists, read, replace, table_uri, version

__all__ = ["TableAppender", "append_events", "content_hash", "exists", "read", "replace", "table_uri", "version"]
