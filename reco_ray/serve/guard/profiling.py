"""Where profiling is switched off: by the surface that a request is for, and by the region that it comes from."""

import re

from reco_ray.config import UnprofiledConfig
from reco_ray.events.personal import coarse_location
from reco_ray.serve.http.contract import Context

__all__ = ["region_of", "unprofiled"]

# BCP 47, and POSIX with its underscore: a language, perhaps an extended one, a script, then the region
_LOCALE = re.compile(r"[A-Za-z]{2,8}(?:[-_][A-Za-z]{3}){0,3}(?:[-_][A-Za-z]{4})?[-_]([A-Za-z]{2})(?![A-Za-z0-9])")


def unprofiled(config: UnprofiledConfig, surface: str, context: Context) -> bool:
    """Whether requests of a surface and a context are those of nobody. All that it looks at is in the cache's key."""
    if surface in config.surfaces or context.surface in config.surfaces:
        return True
    if not config.regions:
        return False
    region = region_of(context)
    return region in config.regions or region.partition("-")[0] in config.regions


def region_of(context: Context) -> str:
    """The code of ISO 3166 that the location is, or else the one in the locale; empty where neither says."""
    place = coarse_location(context.location)
    if place is not None and place[0].isalpha():
        return place
    found = _LOCALE.match(context.locale or "")
    return found[1].upper() if found else ""
