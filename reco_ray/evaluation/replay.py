"""Replay: requests run through the stages of two releases, and the first stage that makes a difference.

A stage is compared by what it hands on: recall its candidates in order, with their scores; rank the scores; rerank the slate.
Items are compared by their ids, as releases number them in their own ways.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reco_ray.slate import Pipeline, SwitchedStage
from reco_ray.store import NO_FLAGS, RANKER, Flags
from reco_ray.types import Candidates, Request, Slate

__all__ = ["ReplayReport", "compare_releases", "kendall_tau", "overlap"]

STAGES = ("recall", "rank", "rerank")


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """Two releases side by side.

    Attributes:
        identical: requests whose slates agree in every id, place and bit of the scores.
        first_difference: requests by the first stage that differs.
        overlap, tau, score_shift: means over requests: of the slates' items that both have, of Kendall's tau over those, and
            of the scores of the second less the first over those; NaN where no request has any.
        p50_ms, p95_ms: of each stage, for the first and the second release.
    """

    requests: int
    identical: int
    first_difference: dict[str, int]
    overlap: float
    tau: float
    score_shift: float
    p50_ms: dict[str, tuple[float, float]]
    p95_ms: dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    found: Candidates
    ids: tuple[str, ...]
    scores: NDArray[np.float32]
    slate: Slate
    ms: tuple[float, float, float]


def compare_releases(
    first: tuple[Pipeline, Sequence[str]],
    second: tuple[Pipeline, Sequence[str]],
    requests: Sequence[Request],
    flags: Sequence[Flags] = (),
) -> ReplayReport:
    """Run each request through both, one at a time, as a gateway does for somebody who is alone.

    Args:
        first, second: the stages, and the ids of the catalogue's items by row.
        requests: at least one; with the users' rows of when they were asked.
        flags: for each request what is switched off; nothing by default.
    Raises: ValueError: there is no request.
    """
    if not requests:
        raise ValueError("replay: found no request, expected some")
    differ: Counter[str] = Counter()
    overlaps, taus, shifts, times = [], [], [], []
    for request, off in zip(requests, flags or [NO_FLAGS] * len(requests), strict=True):
        a, b = (_run(*each, request, off) for each in (first, second))
        if (stage := _first_difference(a, b)) is not None:
            differ[stage] += 1
        overlaps.append(overlap(a.slate.item_ids, b.slate.item_ids))
        taus.append(kendall_tau(a.slate.item_ids, b.slate.item_ids))
        before = dict(zip(a.slate.item_ids, a.slate.scores.tolist(), strict=True))
        common = [s - before[i] for i, s in zip(b.slate.item_ids, b.slate.scores.tolist(), strict=True) if i in before]
        shifts.extend(common)
        times.append((a.ms, b.ms))
    took = np.array(times)
    p50, p95 = (
        {stage: (float(q[0, i]), float(q[1, i])) for i, stage in enumerate(STAGES)}
        for q in np.quantile(took, (0.5, 0.95), axis=0)
    )
    n = len(requests)
    return ReplayReport(
        n, n - differ.total(), dict(differ), _mean(overlaps), _mean(taus), _mean(shifts), p50_ms=p50, p95_ms=p95
    )


def overlap(a: Sequence[str], b: Sequence[str]) -> float:
    """Share of the longer slate's items that the other one has too; 1 for two empty ones."""
    return len(set(a) & set(b)) / max(len(a), len(b)) if a or b else 1.0


def kendall_tau(a: Sequence[str], b: Sequence[str]) -> float:
    """Agreement of the order of the items that both have, in [-1, 1]; NaN with less than two of them."""
    from scipy.stats import kendalltau

    place = {item: at for at, item in enumerate(b)}
    common = [place[item] for item in a if item in place]
    return float(kendalltau(range(len(common)), common).statistic) if len(common) > 1 else float("nan")


def _run(pipeline: Pipeline, item_ids: Sequence[str], request: Request, flags: Flags) -> _Run:
    for stage in (pipeline.recall, pipeline.rerank):
        if isinstance(stage, SwitchedStage):
            stage.switch(flags)
    started = time.perf_counter()
    (found,) = pipeline.recall.recall([request])
    recalled = time.perf_counter()
    (scores,) = [found.scores] if RANKER in flags.off else pipeline.rank.score([request], [found])
    ranked = time.perf_counter()
    (slate,) = pipeline.rerank.arrange([request], [found], [scores])
    arranged = time.perf_counter()
    ms = (1e3 * (recalled - started), 1e3 * (ranked - recalled), 1e3 * (arranged - ranked))
    return _Run(found, tuple(item_ids[row] for row in found.item_idx.tolist()), scores, slate, ms)


def _first_difference(a: _Run, b: _Run) -> str | None:
    if a.ids != b.ids or not _same(a.found.scores, b.found.scores):
        return "recall"
    if not _same(a.scores, b.scores):
        return "rank"
    return None if a.slate.item_ids == b.slate.item_ids and _same(a.slate.scores, b.slate.scores) else "rerank"


def _same(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    """Bit for bit."""
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def _mean(values: Sequence[float]) -> float:
    found = np.array(values, np.float64)
    found = found[~np.isnan(found)]
    return float(found.mean()) if found.size else float("nan")
