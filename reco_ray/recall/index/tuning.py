"""How far a tree is searched: measured against exact search when the index is built, and kept with it.

Two numbers decide: the leaves that are searched, and how many candidates per wanted item are scored again exactly. The build
takes the smallest of each with which the recall of a sample of queries reaches the target, for two sizes of answers.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reco_ray.recall.index.exact import best_of

__all__ = ["Reach", "Tuning", "recall_at", "tune"]

log = logging.getLogger(__name__)

_SIZES = (100, 500)
_RESCORED = (2, 3, 4, 6, 8, 12)
_GROWTH = 1.25  # of leaves from one point of the curve to the next
_HALF = 250  # queries of each kind
_SAME = 1e-5  # by so much two sums of the same products may differ


@dataclass(frozen=True, slots=True)
class Reach:
    """What the best ``k`` took: leaves searched, candidates rescored per wanted item, and the recall that came of it."""

    k: int
    leaves: int
    rescored: int
    recall: float


@dataclass(frozen=True, slots=True, eq=False)
class Tuning:
    """What was measured of an index.

    Attributes:
        rows: that stood in it. leaves: of its tree, 0 for brute force. target: of recall. seed: of the sample.
        reaches: by k, ascending; none for brute force.
        curve: per k and number of leaves searched ``{k, leaves, rescored, recall, queries_per_s}``; queries in one batch on the
            machine that built.
    """

    rows: int
    leaves: int
    target: float
    seed: int
    reaches: tuple[Reach, ...] = ()
    curve: tuple[dict[str, float], ...] = ()

    def reach(self, k: int) -> tuple[int, int]:
        """Leaves to search and candidates to rescore for the best ``k``.

        Between and beyond the measured sizes leaves follow the power law through them, and never hold less than 4 k items. Less
        than the smallest measured size searches as far as that one: few of few rescored would miss more.
        """
        below = [r for r in self.reaches if r.k <= k] or [self.reaches[0]]
        first, last = self.reaches[0], self.reaches[-1]
        power = np.log(last.leaves / first.leaves) / np.log(last.k / first.k) if last.k > first.k else 1.0
        leaves = max(first.leaves * max(1.0, k / first.k) ** power, 4 * k * self.leaves / self.rows)
        return min(int(np.ceil(leaves)), self.leaves), max(below[-1].rescored * k, first.rescored * first.k)

    def to_json(self) -> dict[str, Any]:
        """For the bundle."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Tuning":
        """Of what `to_json` made."""
        reaches = tuple(Reach(**each) for each in found["reaches"])
        return cls(**{**found, "reaches": reaches, "curve": tuple(found["curve"])})


def _sample_queries(vectors: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Queries to measure with, shape (q, d): items as they are (similar items), then means of three (mixed tastes).

    The second half is harder than users are, whose items resemble each other: what holds there holds for them.
    """
    rng = np.random.default_rng(seed)
    alone = vectors[rng.integers(0, len(vectors), _HALF)]
    mixed = vectors[rng.integers(0, len(vectors), (_HALF, 3))].mean(axis=1)
    mixed /= np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-12)
    return np.concatenate([alone, mixed])


def tune(searcher: Any, vectors: NDArray[np.float32], leaves: int, target: float, seed: int) -> Tuning:
    """Find how far to search so that each half of the sample reaches the target.

    Args:
        searcher: ScaNN's tree over the vectors. vectors: shape (n, d). leaves: of the tree.
    """
    queries = _sample_queries(vectors, seed)
    sizes = [k for k in _SIZES if k <= len(vectors) // 4] or [max(1, min(_SIZES[0], len(vectors) // 4))]
    exact = best_of(vectors, queries, sizes[-1])
    reaches, curve = [], []
    for k in sizes:
        rescored = _rescored(searcher, vectors, queries, exact[:, :k], leaves, target)
        points = []
        for searched in _steps(leaves):
            points.append(_point(searcher, vectors, queries, exact[:, :k], searched, rescored))
            if points[-1]["recall"] >= (1 + target) / 2:
                break
        enough = next((p for p in points if p["recall"] >= target), points[-1])
        if enough["recall"] < target:
            log.warning("recall@%d is %.4f with all %d leaves, below the target of %.3f", k, enough["recall"], leaves, target)
        reaches.append(Reach(k, int(enough["leaves"]), rescored, enough["recall"]))
        curve += points
    log.info("%d vectors in %d leaves: %s", len(vectors), leaves, reaches)
    return Tuning(len(vectors), leaves, target, seed, tuple(reaches), tuple(curve))


def recall_at(
    found: NDArray[np.int64], exact: NDArray[np.int64], vectors: NDArray[np.float32], queries: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Share of the best items that was found, shape (q,): those that score as high as the last of the exact answer.

    Scores are compared, not rows, because of items that are equal, such as products of one name, any is right.

    Args:
        found: rows, distinct, -1 for none, shape (q, k). exact: shape (q, k), none missing. vectors: shape (n, d).
        queries: shape (q, d).
    """
    bar = np.einsum("qd,qd->q", vectors[exact[:, -1]], queries)
    scores = np.einsum("qkd,qd->qk", vectors[found], queries)
    good = (found >= 0) & (scores >= (bar - _SAME * np.maximum(1, np.abs(bar)))[:, None])
    return np.asarray(np.minimum(good.sum(axis=1) / exact.shape[1], 1), np.float64)


def _rescored(
    searcher: Any,
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    exact: NDArray[np.int64],
    leaves: int,
    target: float,
) -> int:
    """The fewest candidates per wanted item that leave half of what the target allows to be missed to the leaves."""
    for rescored in _RESCORED:
        if _point(searcher, vectors, queries, exact, leaves, rescored)["recall"] >= (1 + target) / 2:
            break
    return rescored


def _point(
    searcher: Any,
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    exact: NDArray[np.int64],
    leaves: int,
    rescored: int,
) -> dict[str, float]:
    k = exact.shape[1]
    began = time.perf_counter()
    rows, scores = searcher.search_batched(queries, k, rescored * k, leaves)
    took = time.perf_counter() - began
    recalls = recall_at(np.where(np.isfinite(scores), rows.astype(np.int64), -1), exact, vectors, queries)
    worse = min(recalls[:_HALF].mean(), recalls[_HALF:].mean())
    return {
        "k": k,
        "leaves": leaves,
        "rescored": rescored,
        "recall": round(float(worse), 4),
        "queries_per_s": round(len(queries) / took),
    }


def _steps(leaves: int) -> Sequence[int]:
    steps = [1]
    while steps[-1] < leaves:
        steps.append(min(leaves, max(steps[-1] + 1, int(steps[-1] * _GROWTH))))
    return steps
