"""Releases: parts built by other rooms come in, one immutable bundle with a manifest goes out; serving and batch open it.

`bundle` seals and verifies, `build` assembles the stages into a folder.
"""

from reco_ray.release.build import assemble
from reco_ray.release.bundle import (
    Manifest,
    features_of,
    newest,
    open_release,
    read_part,
    release_ids,
    release_uri,
    seal,
    user_view,
    verify,
)

__all__ = [
    "Manifest",
    "assemble",
    "features_of",
    "newest",
    "open_release",
    "read_part",
    "release_ids",
    "release_uri",
    "seal",
    "user_view",
    "verify",
]
