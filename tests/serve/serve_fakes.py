"""A release of fakes: 500 items, each stage at work for about as long as a real one. Loaded by replicas by import path."""

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from reco_ray.serve.path.loading import ReleaseLoader as ReleaseLoader
from reco_ray.types import Candidates, Request, Slate

ITEMS = 500
SOURCES = 5
KNOWN_ITEM = "item-7"


def burn(ms: float) -> None:
    """Keep the processor busy."""
    until = time.perf_counter() + ms / 1e3
    while time.perf_counter() < until:
        pass


def sleep(ms: float) -> None:
    """Take as long without the processor: two replicas do twice as much, however few cores there are."""
    time.sleep(ms / 1e3)


def number(item_id: str) -> int:
    """The number of an item; 0 for one that there is not."""
    digits = item_id.removeprefix("item-")
    return int(digits) if digits.isdigit() else 0


class FakeLoader:
    """``root`` is ``fake:`` and milliseconds of work per row in recall, rank, rerank, e.g. ``fake:0.3,1.3,0.5``."""

    work: Callable[[float], None] = staticmethod(burn)

    def __init__(self, root: str, release_id: str) -> None:
        self._ms = [float(ms) for ms in root.partition(":")[2].split(",")]

    def recall(self) -> "FakeRecall":
        return FakeRecall(self._ms[0], self.work)

    def rank(self) -> "FakeRank":
        return FakeRank(self._ms[1], self.work)

    def rerank(self) -> "FakeRerank":
        return FakeRerank(self._ms[2], self.work)


class SleepingLoader(FakeLoader):
    """The same, asleep."""

    work = staticmethod(sleep)


class BrokenLoader(FakeLoader):
    """Its ranker cannot be loaded."""

    def rank(self) -> "FakeRank":
        raise RuntimeError("this ranker is broken on purpose")


class FlakyLoader(FakeLoader):
    """Its ranker fails every third time."""

    def rank(self) -> "FakeRank":
        return FlakyRank(self._ms[1], self.work)


class FakeRecall:
    """Finds the first 300 items, rotated by the length of the user's id, the session and interests named like items."""

    names = tuple(f"source-{i}" for i in range(SOURCES))

    def __init__(self, ms: float, work: Callable[[float], None] = burn) -> None:
        self._ms, self._work = ms, work

    def recall(self, requests: Sequence[Request]) -> list[Candidates]:
        self._work(self._ms * len(requests))
        return [self._one(request) for request in requests]

    def watch(self, report: Callable[[str, str, float], None]) -> None:
        """It does not search."""

    def _one(self, request: Request) -> Candidates:
        n = 0 if request.similar_to and request.similar_to != KNOWN_ITEM else 300
        start = len(request.user_id) + sum(number(item) for item in (*request.session, *request.interests))
        idx = ((np.arange(n) + start) % ITEMS).astype(np.int32)
        ranks = np.full((n, SOURCES), -1, np.int16)
        ranks[:, 0] = np.arange(n)
        scores = np.linspace(1, 0, n, dtype=np.float32)
        source_scores = np.full((n, SOURCES), np.nan, np.float32)
        return Candidates(idx, scores, np.ones(n, np.uint16), ranks, source_scores)


class FakeRank:
    """Likes high numbers, counted from where the user's first feature says."""

    n_sources = SOURCES

    def __init__(self, ms: float, work: Callable[[float], None] = burn) -> None:
        self._ms, self._work = ms, work

    def score(self, requests: Sequence[Request], candidates: Sequence[Candidates]) -> list[NDArray[np.float32]]:
        self._work(self._ms * len(requests))
        starts = [int(request.user.features[0]) if request.user.as_of else 0 for request in requests]
        found = zip(candidates, starts, strict=True)
        return [((each.item_idx - start) % ITEMS + start).astype(np.float32) for each, start in found]


class FlakyRank(FakeRank):
    """Fails every third time."""

    _calls = 0

    def score(self, requests: Sequence[Request], candidates: Sequence[Candidates]) -> list[NDArray[np.float32]]:
        self._calls += 1
        if self._calls % 3 == 0:
            raise RuntimeError("this ranker fails on purpose")
        return super().score(requests, candidates)


class FakeRerank:
    """Sorts, and says what it does not know."""

    def __init__(self, ms: float, work: Callable[[float], None] = burn) -> None:
        self._ms, self._work = ms, work

    def arrange(
        self, requests: Sequence[Request], candidates: Sequence[Candidates], scores: Sequence[NDArray[np.float32]]
    ) -> list[Slate]:
        self._work(self._ms * len(requests))
        return [_slate(request, found, score) for request, found, score in zip(requests, candidates, scores, strict=True)]


def _slate(request: Request, found: Candidates, scores: NDArray[np.float32]) -> Slate:
    excluded = {*request.exclude, *request.session}
    order = [at for at in np.argsort(-scores, kind="stable") if f"item-{found.item_idx[at]}" not in excluded][: request.k]
    items = found.item_idx[order]
    degraded = () if request.user.as_of or request.similar_to or request.interests else ("unknown_user",)
    if request.similar_to and len(found) == 0:
        degraded = ("unknown_item",)
    return Slate(
        request_id=request.request_id,
        item_ids=tuple(f"item-{i}" for i in items),
        titles=tuple(f"Title {i}" for i in items),
        scores=scores[order].astype(np.float32),
        propensities=np.ones(len(items), np.float32),
        reasons=tuple(("popular",) for _ in items),
        degraded=degraded,
    )
