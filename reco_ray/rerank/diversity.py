"""Diversity: spread a slate over categories."""

import numpy as np
from numpy.typing import NDArray

from reco_ray.rules import Bounds

__all__ = ["main_category", "mmr"]

_LAST = np.float32(-1e30)
_TRIES = 3


def mmr(
    scores: NDArray[np.float32],
    vectors: NDArray[np.float32],
    k: int,
    diversity: float,
    cap: int = 0,
    bounds: Bounds | None = None,
) -> NDArray[np.int64]:
    """Pick ``k`` positions, each time the one with the best of score minus likeness to what was picked.

    value = (1 - diversity) * score - diversity * max cosine to the picked. With diversity 0 and no cap this is the given order.

    Args:
        scores: best first, standardised, shape (n,).
        vectors: unit rows (zero rows are like nothing), shape (n, d).
        cap: at most so many items of one main category (the largest entry of a row); 0 means no cap. When nothing else is
            left the cap gives way, so that a slate is not cut short.
        bounds: of the rules; they never give way, so that fewer than ``k`` may be picked.
    Reference: Carbonell and Goldstein 1998, Maximal Marginal Relevance.
    """
    n = scores.shape[0]
    if bounds is not None:
        return _within(bounds, scores, vectors, k, diversity, cap)
    if diversity == 0 and cap == 0:
        return np.arange(min(k, n))
    k = min(k, n)
    value = (1 - diversity) * scores
    alike = diversity * (vectors @ vectors.T)
    near = np.zeros(n, np.float32)  # likeness to what was picked, times its weight
    picked = np.empty(k, np.int64)
    if not cap:
        for place in range(k):
            picked[place] = best = int((value - near).argmax())
            value[best] = -np.inf
            np.maximum(near, alike[best], out=near)
        return picked
    main = main_category(vectors)
    counts: dict[int, int] = {}
    for place in range(k):
        gain = value - near
        full = [category for category, count in counts.items() if count >= cap and category >= 0]
        capped = np.where(np.isin(main, full), -np.inf, gain)
        picked[place] = best = int((capped if np.isfinite(capped).any() else gain).argmax())
        value[best] = -np.inf
        counts[int(main[best])] = counts.get(int(main[best]), 0) + 1
        np.maximum(near, alike[best], out=near)
    return picked


def _within(
    bounds: Bounds, scores: NDArray[np.float32], vectors: NDArray[np.float32], k: int, diversity: float, cap: int
) -> NDArray[np.int64]:
    """`mmr` within the bounds of rules: the cap gives way before them."""
    n = scores.shape[0]
    known = np.where(np.isfinite(scores), scores, _LAST)  # a pinned item may have no score
    value = np.asarray((1 - diversity) * known, np.float32)
    gains = np.empty_like(value)
    weighted = np.asarray(diversity * vectors, np.float32)
    near = np.zeros(n, np.float32)
    main = main_category(vectors) if cap else np.empty(0, np.int64)
    picked: list[int] = []
    while len(picked) < min(k, n):
        best = bounds.pinned.get(len(picked), -1)
        if best < 0:
            may = bounds.allowed(picked)
            if cap and picked:
                full = np.bincount(main[picked] + 1, minlength=vectors.shape[1] + 1) >= cap
                full[0] = False
                spread = may & ~full[main + 1]
                may = spread if spread.any() else may
            np.subtract(value, near, out=gains)
            best = _best(gains, may)
            if best < 0:
                break
        picked.append(best)
        value[best] = -np.inf
        if diversity:
            np.maximum(near, weighted @ vectors[best], out=near)
    return np.array(picked, np.int64)


def _best(gains: NDArray[np.float32], may: NDArray[np.bool_]) -> int:
    """The item of the largest gain among those that may be picked, -1 where none may; spoils ``gains``."""
    for _ in range(_TRIES):  # mostly the first one may: cheaper than a mask over all
        best = int(gains.argmax())
        if may[best]:
            return best
        gains[best] = -np.inf
    best = int(np.where(may, gains, -np.inf).argmax())
    return best if may[best] and gains[best] > -np.inf else -1


def main_category(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """The main category of each item, -1 where it has none, shape (n,)."""
    n, d = vectors.shape
    return np.where(vectors.any(axis=1), vectors.argmax(axis=1), -1) if d else np.full(n, -1)
