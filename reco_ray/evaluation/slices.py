"""For whom a stage does worse: users by what is known of them, items by how popular they are (fairness deltas)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reco_ray.evaluation.bootstrap import Interval, confidence_interval, unpaired_difference
from reco_ray.evaluation.metrics import recall_at_k
from reco_ray.lake.cohorts import NOT_TOLD

__all__ = ["Slice", "auc", "by_category", "by_cohort", "by_history", "by_popularity"]

_HEAD = 0.2
_LEAST = 20
_CATEGORIES = 8
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
        _of_users("users by history", name, stage, ndcg, inside, ~inside, seed, n) for name, inside in parts if inside.any()
    ]


def by_cohort(
    stage: str, ndcg: NDArray[np.float64], attribute: str, cohorts: Sequence[str], seed: int, n: int = 1000
) -> list[Slice]:
    """NDCG of users by what they told of themselves, against the others who told; a cohort of fewer than twenty is not shown.

    Who tells is another kind of user than who does not, often with a longer history, so those stand apart.

    Args:
        ndcg: per user, shape (U,). cohorts: of the same users, or `NOT_TOLD`.
    """
    of = np.array(cohorts, np.str_)
    names, sizes = np.unique(of, return_counts=True)
    told = of != NOT_TOLD
    return [
        _of_users(f"users by {attribute}", str(name), stage, ndcg, of == name, told & (of != name), seed, n)
        for name, size in zip(names, sizes, strict=True)
        if size >= _LEAST
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
    names = ("the most popular fifth", "the other items", "items without an event before")
    inside = [[_bucket_of(bucket, r) == at for r in relevant] for at in range(3)]
    return _of_items("items by popularity", names, inside, stage, lists, relevant, k, seed, n)


def by_category(
    stage: str,
    lists: Lists,
    relevant: Lists,
    in_category: NDArray[np.float32],
    names: Sequence[str],
    k: int,
    seed: int,
    n: int = 1000,
) -> list[Slice]:
    """Recall@k of what users took in each of the eight categories of which they took most; an item may be in several.

    Args:
        in_category: 1 where item i has category c, shape (n_items, C); rows past its end are items that came later.
    """
    known = np.vstack([in_category > 0, np.zeros((1, in_category.shape[1]), np.bool_)])
    member = [known[np.minimum(r, len(in_category))] for r in relevant]
    taken = np.sum([m.sum(axis=0) for m in member], axis=0) if member else np.zeros(len(names), np.int64)
    shown = [at for at in np.argsort(-taken, kind="stable")[:_CATEGORIES].tolist() if taken[at]]
    inside = [[m[:, at] for m in member] for at in shown]
    return _of_items("items by category", [names[at] for at in shown], inside, stage, lists, relevant, k, seed, n)


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


def _of_users(
    of: str,
    name: str,
    stage: str,
    ndcg: NDArray[np.float64],
    inside: NDArray[np.bool_],
    others: NDArray[np.bool_],
    seed: int,
    n: int,
) -> Slice:
    delta = unpaired_difference(ndcg[inside], ndcg[others], seed, n)
    return Slice(of, name, stage, "ndcg", int(inside.sum()), confidence_interval(ndcg[inside], seed, n), delta)


def _of_items(
    of: str,
    names: Sequence[str],
    inside: Sequence[Sequence[NDArray[np.bool_]]],
    stage: str,
    lists: Lists,
    relevant: Lists,
    k: int,
    seed: int,
    n: int,
) -> list[Slice]:
    """Of each part that anybody took of; ``inside`` says for each part and user which of the relevant items belong to it."""
    found = []
    for name, of_part in zip(names, inside, strict=True):
        own, rest = (
            _recall(lists, [r[of_user == side] for r, of_user in zip(relevant, of_part, strict=True)], k)
            for side in (True, False)
        )
        if have := int(np.isfinite(own).sum()):
            delta = unpaired_difference(own, rest, seed, n)
            found.append(Slice(of, name, stage, "recall", have, confidence_interval(own, seed, n), delta))
    return found


def _recall(lists: Lists, relevant: Lists, k: int) -> NDArray[np.float64]:
    """Recall@k per user; NaN where nothing is relevant."""
    found = np.full(len(relevant), np.nan)
    have = [at for at, r in enumerate(relevant) if r.size]
    if have:
        found[have] = recall_at_k([lists[at] for at in have], [relevant[at] for at in have], k)
    return found
