"""Raw data that an import reads: a file of one's own or a public set comes in, frames with the fields of an event go out.

`raw` opens what the configuration names, `mapping` gives columns their names and types, `identity` makes ids. Nothing here
judges an event: that is the contract's part (`events.columns`).
"""

from reco_ray.lake.sources.files import read_file
from reco_ray.lake.sources.identity import number_repeats
from reco_ray.lake.sources.mapping import bare_items, bare_users, map_events, map_items, map_users
from reco_ray.lake.sources.raw import Raw, open_source, raw_paths

__all__ = [
    "Raw",
    "bare_items",
    "bare_users",
    "map_events",
    "map_items",
    "map_users",
    "number_repeats",
    "open_source",
    "raw_paths",
    "read_file",
]
