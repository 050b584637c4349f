"""How releases go wrong in production while their bundle is fine: their ranker raises now and then, or takes longer.

Replicas load it by import path (`LOADER`), as they load `ReleaseLoader`. A release without a file under ``root/bad`` is left
as it is.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reco_ray.hashing import unit_interval
from reco_ray.serve.path.loading import ReleaseLoader
from reco_ray.slate import RankStage
from reco_ray.types import Candidates, Request

__all__ = ["LOADER", "BadLoader", "spoil"]

LOADER = "benchmarks.rollout_bad:BadLoader"
_SALT = "raises"


def spoil(root: str, release_id: str, *, raises: float = 0.0, sleep_s: float = 0.0) -> None:
    """Let a release's ranker raise on a share of the requests, or sleep before each batch, from its next start on."""
    folder = Path(root) / "bad"
    folder.mkdir(exist_ok=True)
    (folder / f"{release_id}.json").write_text(json.dumps({"raises": raises, "sleep_s": sleep_s}))


class BadLoader(ReleaseLoader):
    """Loads the stages of a release as `spoil` has it."""

    def __init__(self, root: str, release_id: str) -> None:
        super().__init__(root, release_id)
        file = Path(root) / "bad" / f"{release_id}.json"
        self._bad: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    def rank(self) -> RankStage:
        return _Rank(super().rank(), **self._bad) if self._bad else super().rank()


class _Rank:
    def __init__(self, stage: RankStage, raises: float, sleep_s: float) -> None:
        self._stage, self._raises, self._sleep_s = stage, raises, sleep_s

    @property
    def n_sources(self) -> int:
        return self._stage.n_sources

    def score(self, requests: Sequence[Request], candidates: Sequence[Candidates]) -> list[NDArray[np.float32]]:
        if any(unit_interval(request.request_id, _SALT) < self._raises for request in requests):
            raise RuntimeError("the ranker raises on purpose")
        time.sleep(self._sleep_s)
        return self._stage.score(requests, candidates)
