"""From contributions of columns to reasons that people can read."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reco_ray.features import CONTEXT_COLUMNS, ITEM_COLUMNS, USER_COLUMNS

__all__ = ["Reason", "reasons_of"]

_OWN = {
    "recall_score": "how well the sources together speak for it",
    "recall_place": "its place among all candidates",
    "taste_share": "how much of what the user has done is of its categories",
    "taste_lift": "whether the user likes its categories better than others",
    "year_distance": "how far its year is from the user's usual ones",
    "value_distance": "its mean rating against those that the user gives",
    "popularity_distance": "its popularity against that of what the user turned to",
    "had_before": "whether the user has had it",
    "had_times": "how often it is among the user's newest items",
    "had_ago": "how many items ago the user had it",
    "had_days": "on how many days the user has had it",
    "had_first": "how long the user has known it",
    "had_last": "how long ago the user had it last",
    "similar_max": "its likeness to the nearest of the last items",
    "similar_mean": "its likeness to the last items together",
    "interest": "what it has in common with the user's newest items",
    "similar_last": "its likeness to the very last item",
}
_SOURCES = {
    "two_tower": "what people of like histories turn to",
    "sequential": "what comes next after the user's last items",
    "mf": "what people of overlapping tastes take",
    "content": "what reads like the user's items",
    "repeat": "what the user has had again and again",
    "covisit": "what is taken together with the user's items",
    "popular": "what most people take",
    "trending": "what many take just now",
    "fresh": "what is new",
}
_VIEWS = {column.name: column.description for column in (*ITEM_COLUMNS, *USER_COLUMNS, *CONTEXT_COLUMNS)}


@dataclass(frozen=True, slots=True)
class Reason:
    """What one column of the ranker's matrix did for one candidate.

    Attributes:
        value: of the column; None where it is missing.
        effect: on the score, against the average candidate of the same request; positive speaks for the item.
        text: what the column is, in words.
    """

    column: str
    value: float | None
    effect: float
    text: str


def reasons_of(
    columns: Sequence[str], values: NDArray[np.float32], effects: NDArray[np.float32], most: int = 5
) -> tuple[Reason, ...]:
    """Pick the columns of most effect, the strongest first; those without any are left out.

    Args:
        columns: names, as `RankFeatures.columns`. values, effects: of one candidate, shape (len(columns),).
    """
    order = np.argsort(-np.abs(effects), kind="stable")[:most]
    return tuple(
        Reason(
            columns[at],
            float(values[at]) if np.isfinite(values[at]) else None,
            float(effects[at]),
            _words(columns[at]),
        )
        for at in order.tolist()
        if effects[at] != 0
    )


def _words(column: str) -> str:
    known = _OWN.get(column) or _VIEWS.get(column)
    if known:
        return known
    for suffix, said in (("_inverse_rank", "its place in"), ("_score", "its score in")):
        if column.endswith(suffix):
            source = column.removesuffix(suffix)
            return f"{said} {_SOURCES.get(source, f'the list of {source}')}"
    return column
