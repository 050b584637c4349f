"""A release's stages with a switch: slow, hanging or failing for as long as a file under ``root`` says so.

Replicas load it by import path (`LOADER`), as they load `ReleaseLoader`. Without the file the stages are those of the release.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reco_ray.recall.query import Hits, Query, Source
from reco_ray.serve.path.loading import ReleaseLoader
from reco_ray.slate import RankStage, RecallStage
from reco_ray.types import Candidates, Request

__all__ = ["LOADER", "RANKER", "FaultyLoader", "Switch"]

LOADER = "benchmarks.faults:FaultyLoader"
RANKER = "ranker"
_LOOK_S = 0.05


class Switch:
    """The file: what goes wrong, and until when.

    Each process looks at its time of change at most every 50 ms, so that a fault which is off costs nothing.
    """

    def __init__(self, root: str, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = Path(root) / "faults.json", clock
        self._looked, self._changed = -1e9, 0
        self._fault: dict[str, Any] = {}

    def write(self, target: str, seconds: float, *, sleep_s: float = 0.0) -> None:
        """Let a stage or source sleep before each batch, or fail where ``sleep_s`` is 0, for ``seconds`` from now."""
        fault = {"target": target, "until": self._clock() + seconds, "sleep_s": sleep_s}
        half = self._path.with_suffix(".half")
        half.write_text(json.dumps(fault))
        os.replace(half, self._path)

    def pass_through(self, target: str) -> None:
        """Do to a batch of ``target`` what is to be done now.

        Raises: RuntimeError: the target fails.
        """
        if (now := self._clock()) - self._looked >= _LOOK_S:
            self._looked = now
            self._look()
        if self._fault.get("target") != target or now >= self._fault["until"]:
            return
        if not self._fault["sleep_s"]:
            raise RuntimeError(f"{target} fails on purpose")
        time.sleep(self._fault["sleep_s"])

    def _look(self) -> None:
        try:
            changed = self._path.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if changed != self._changed:
            self._changed, self._fault = changed, json.loads(self._path.read_text())


class FaultyLoader(ReleaseLoader):
    """Loads the stages of a release behind a switch."""

    def __init__(self, root: str, release_id: str) -> None:
        super().__init__(root, release_id)
        self._switch = Switch(root)

    def recall(self) -> RecallStage:
        stage: Any = super().recall()
        stage.sources = {name: _Source(name, source, self._switch) for name, source in stage.sources.items()}
        found: RecallStage = stage
        return found

    def rank(self) -> RankStage:
        return _Rank(super().rank(), self._switch)


class _Source:
    def __init__(self, name: str, source: Source, switch: Switch) -> None:
        self._name, self._source, self._switch = name, source, switch

    def recall(self, queries: list[Query], k: int) -> list[Hits]:
        self._switch.pass_through(self._name)
        return self._source.recall(queries, k)


class _Rank:
    def __init__(self, stage: RankStage, switch: Switch) -> None:
        self._stage, self._switch = stage, switch

    @property
    def n_sources(self) -> int:
        return self._stage.n_sources

    def score(self, requests: Sequence[Request], candidates: Sequence[Candidates]) -> list[NDArray[np.float32]]:
        self._switch.pass_through(RANKER)
        return self._stage.score(requests, candidates)
