"""What a slate says of itself: why each item is there, what is less than full, and items that the release does not know."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from reco_ray.recall.query import Query
from reco_ray.rerank.bandit import DRAWN
from reco_ray.rerank.inventory import Prepared
from reco_ray.rerank.policy import Filled
from reco_ray.types import Candidates, Request, Slate

__all__ = ["degraded", "reasons", "with_unknown"]


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


def reasons(sources: Sequence[str], ready: Prepared, filled: Filled) -> list[tuple[str, ...]]:
    """Why each item stands at its place.

    Args:
        sources: names of the recall sources by bit.
    """
    chosen, push = filled.chosen, ready.push
    about = (ready.bits[chosen], ready.boost[chosen] != 0, filled.explored, filled.origins)
    told = list(zip(*(each.tolist() for each in about), strict=True))
    named = {each: _reason(sources, *each) for each in set(told)}  # few differ
    found = [named[each] for each in told]
    if push is not None:
        found = [(*why, "exposure") if moved else why for why, moved in zip(found, push[chosen].tolist(), strict=True)]
    for place, rule in filled.pins:
        found[place] = (*found[place], f"rule:{rule}")
    return found


def _reason(sources: Sequence[str], bits: int, boosted: bool, explored: bool, origin: int) -> tuple[str, ...]:
    names = tuple(name for s, name in enumerate(sources) if bits >> s & 1)
    origins = [DRAWN + sources[origin]] if origin >= 0 else []
    return (*names, *(["boost"] if boosted else []), *(["explore"] if explored else []), *origins)


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
