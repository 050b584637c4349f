"""Diversity: spread a slate over categories."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["mmr"]


def mmr(scores: NDArray[np.float32], vectors: NDArray[np.float32], k: int, diversity: float, cap: int = 0) -> NDArray[np.int64]:
    """Pick ``k`` positions, each time the one with the best of score minus likeness to what was picked.

    value = (1 - diversity) * score - diversity * max cosine to the picked. With diversity 0 and no cap this is the given order.

    Args:
        scores: best first, standardised, shape (n,).
        vectors: unit rows (zero rows are like nothing), shape (n, d).
        cap: at most so many items of one main category (the largest entry of a row); 0 means no cap. When nothing else is
            left the cap gives way, so that a slate is not cut short.
    Reference: Carbonell and Goldstein 1998, Maximal Marginal Relevance.
    """
    n = scores.shape[0]
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
    main = np.where(vectors.any(axis=1), vectors.argmax(axis=1), -1) if vectors.shape[1] else np.full(n, -1)
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
