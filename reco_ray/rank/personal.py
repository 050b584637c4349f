"""Which requests a ranker scores, and which keep recall's order; the same for every model."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from reco_ray.types import Candidates, Request

__all__ = ["has_history", "score_personal"]

Scores = list[NDArray[np.float32]]


def has_history(request: Request) -> bool:
    """Whether models were trained on the like of it: not on neighbours of an item, nor lists for users without a history."""
    return not request.similar_to and bool(request.user.history.size or request.session)


def score_personal(
    requests: Sequence[Request],
    candidates: Sequence[Candidates],
    n_items: int,
    predict: Callable[[Sequence[Request], Sequence[Candidates]], Sequence[NDArray[np.float32]]],
) -> tuple[Scores, int]:
    """Score the requests with a history; the others keep recall's order, and an unknown item gets the least score.

    Args:
        n_items: rows from here on are not known to the model yet.
        predict: scores of such requests' candidates, all of known rows, in their order.
    Returns: scores per request, and how many candidates were unknown.
    """
    personal = [i for i, request in enumerate(requests) if has_history(request) and len(candidates[i])]
    scores, unknown = [c.scores for c in candidates], 0
    if not personal:
        return scores, unknown
    found = predict([requests[i] for i in personal], [_within(candidates[i], n_items) for i in personal])
    for i, part in zip(personal, found, strict=True):
        scores[i] = part
        if (late := candidates[i].item_idx >= n_items).any():
            part[late] = part[~late].min(initial=0)
            unknown += int(np.count_nonzero(late))
    return scores, unknown


def _within(candidates: Candidates, n: int) -> Candidates:
    """The candidates with other items in place of those whose rows, ``n`` and up, are not known here yet."""
    known = candidates.item_idx < n
    return candidates if known.all() else replace(candidates, item_idx=np.where(known, candidates.item_idx, 0).astype(np.int32))
