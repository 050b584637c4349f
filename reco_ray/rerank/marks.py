"""What a slate says of itself: what is less than full, and items that the release does not know."""

from dataclasses import replace

import numpy as np

from reco_ray.recall.query import Query
from reco_ray.types import Candidates, Request, Slate

__all__ = ["degraded", "with_unknown"]


def degraded(request: Request, candidates: Candidates, query: Query, found: int, unknown: int) -> tuple[str, ...]:
    """Name what is less than full.

    Args:
        found, unknown: items of the slate that the release knows, and items of the caller's that it does not.
    """
    marks = [f"source_missing:{name}" for name in candidates.missing]
    if request.similar_to:
        marks += ["unknown_item"] if not query.history.size else []
    elif not query.history.size and not query.liked:  # interests are what a first slate is made of
        marks.append("no_consent" if not request.consent else "unknown_user")
    if unknown:
        marks.append("unknown_items")
    if found + unknown < min(request.k, len(request.items) or request.k):
        marks.append("short_slate")
    return tuple(marks)


def with_unknown(slate: Slate, unknown: tuple[str, ...]) -> Slate:
    """The slate with the caller's items behind it that the release does not know, unscored."""
    n = len(unknown)
    return replace(
        slate,
        item_ids=slate.item_ids + unknown,
        titles=slate.titles + ("",) * n,
        scores=np.concatenate([slate.scores, np.full(n, np.nan, np.float32)]),
        propensities=np.concatenate([slate.propensities, np.ones(n, np.float32)]),
        reasons=slate.reasons + (("unknown_item",),) * n,
    )
