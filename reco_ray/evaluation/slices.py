"""For whom a stage does worse: users by what is known of them, items by how popular they are (fairness deltas)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reco_ray.evaluation.bootstrap import Interval, confidence_interval, unpaired_difference
from reco_ray.evaluation.metrics import recall_at_k

__all__ = ["Slice", "auc", "by_history", "by_popularity"]

_HEAD = 0.2
Lists = Sequence[NDArray[np.int32]]


@dataclass(frozen=True, slots=True)
class Slice:
    """A stage's metric over some of the users, or of what they took.

    Attributes:
        of: what divides, e.g. "users by history". name: of this part.
        users: in it, with a value. delta: mean here less the mean of the other users or items; below 0 is worse off.
    """

    of: str
    name: str
    stage: str
    metric: str
    users: int
    value: Interval
    delta: Interval


def by_history(stage: str, ndcg: NDArray[np.float64], history: NDArray[np.int64], seed: int, n: int = 1000) -> list[Slice]:
    """NDCG of the third of the users with the shortest histories, the middle and the longest.

    Args:
        ndcg, history: per user, shape (U,); the history counts the items that a request carried.
    """
    low, high = np.quantile(history, [1 / 3, 2 / 3], method="lower") if history.size else (0, 0)
    parts = (
        (f"up to {low:.0f} items", history <= low),
        (f"up to {high:.0f} items", (history > low) & (history <= high)),
        (f"more than {high:.0f} items", history > high),
    )
    return [
        Slice(
            "users by history",
            name,
            stage,
            "ndcg",
            int(inside.sum()),
            confidence_interval(ndcg[inside], seed, n),
            unpaired_difference(ndcg[inside], ndcg[~inside], seed, n),
        )
        for name, inside in parts
        if inside.any()
    ]


def by_popularity(
    stage: str, lists: Lists, relevant: Lists, events: NDArray[np.int64], k: int, seed: int, n: int = 1000
) -> list[Slice]:
    """Recall@k of what users took among the fifth of the items with most events, the other items, and those without any.

    Args:
        events: of each item before the test, shape (n_items,); rows past its end are items that came later.
    """
    order = np.argsort(-events, kind="stable")
    bucket = np.full(events.size, 1)
    bucket[order[: max(1, int(events.size * _HEAD))]] = 0
    bucket[events == 0] = 2
    values = []
    for at in range(3):
        own = [r[_bucket_of(bucket, r) == at] for r in relevant]
        have = np.array([r.size > 0 for r in own], np.bool_)
        kept = np.flatnonzero(have).tolist()
        found = np.full(len(relevant), np.nan)
        if kept:
            found[kept] = recall_at_k([lists[i] for i in kept], [own[i] for i in kept], k)
        values.append(found)
    names = ("the most popular fifth", "the other items", "items without an event before")
    return [
        Slice(
            "items by popularity",
            name,
            stage,
            "recall",
            int(np.isfinite(values[at]).sum()),
            confidence_interval(values[at], seed, n),
            unpaired_difference(values[at], np.concatenate([values[other] for other in range(3) if other != at]), seed, n),
        )
        for at, name in enumerate(names)
        if np.isfinite(values[at]).any()
    ]


def auc(scores: NDArray[np.float32], relevant: NDArray[np.bool_]) -> float:
    """Share of the pairs of a relevant and another candidate that the scores put right, ties half; NaN without such pairs."""
    from scipy.stats import rankdata  # takes 0.5 s to import; serving does without

    p, n = int(relevant.sum()), int(relevant.size)
    if p in (0, n):
        return float("nan")
    ranks = rankdata(np.nan_to_num(scores, nan=-np.inf, posinf=np.inf, neginf=-np.inf))
    return float((ranks[relevant].sum() - p * (p + 1) / 2) / (p * (n - p)))


def _bucket_of(bucket: NDArray[np.int64], rows: NDArray[np.int32]) -> NDArray[np.int64]:
    return np.where(rows < bucket.size, bucket[np.minimum(rows, bucket.size - 1)], 2)
