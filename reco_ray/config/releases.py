"""Releases: how many stay."""

from dataclasses import dataclass

from reco_ray.config.checks import between

__all__ = ["ReleasesConfig"]


@dataclass(kw_only=True)
class ReleasesConfig:
    """``keep``: of the releases published last, how many `reco releases prune` leaves whether they are used or not."""

    keep: int = 5

    def __post_init__(self) -> None:
        between("releases.keep", self.keep, 1, 100_000)
