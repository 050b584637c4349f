"""Vectors as a trained recommender has them, by a seed: items in groups of very unequal size, users between their items.

64 dimensions of falling weight (1 / sqrt(j), then rotated), 40 genres, 2 sqrt(n) groups around them whose sizes follow Zipf's
law, items around their group. A user is the mean of five items out of two groups. All of unit length.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["DIMENSIONS", "items", "users"]

DIMENSIONS = 64
_GENRES = 40
_CHUNK = 100_000

Vectors = NDArray[np.float32]


def items(n: int, seed: int) -> tuple[Vectors, NDArray[np.int64]]:
    """Item vectors, shape (n, 64), and the group of each, shape (n,)."""
    rng = np.random.default_rng(seed)
    scale = (1.0 + np.arange(DIMENSIONS)) ** -0.5
    scale *= np.sqrt(DIMENSIONS) / np.linalg.norm(scale)
    turn = np.linalg.qr(rng.standard_normal((DIMENSIONS, DIMENSIONS)))[0]
    groups = int(2 * np.sqrt(n))
    genres = rng.standard_normal((_GENRES, DIMENSIONS)) * scale
    centres = genres[rng.integers(0, _GENRES, groups)] + 0.8 * rng.standard_normal((groups, DIMENSIONS)) * scale
    share = 1.0 / (1.0 + np.arange(groups))
    group = rng.choice(groups, n, p=share / share.sum())
    vectors = np.empty((n, DIMENSIONS), np.float32)
    for start in range(0, n, _CHUNK):
        at = group[start : start + _CHUNK]
        spread = rng.standard_normal((at.size, DIMENSIONS)) * scale
        vectors[start : start + at.size] = _unit((centres[at] + 0.8 * spread) @ turn)
    return vectors, group


def users(vectors: Vectors, group: NDArray[np.int64], n: int, seed: int) -> Vectors:
    """User vectors, shape (n, 64)."""
    rng = np.random.default_rng([seed, 1])
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(int(group.max()) + 2))
    found = np.empty((n, DIMENSIONS), np.float32)
    for i in range(n):
        first, second = group[rng.integers(0, len(vectors), 2)]
        own = np.concatenate([rng.integers(starts[g], starts[g + 1], m) for g, m in ((first, 3), (second, 2))])
        found[i] = vectors[order[own]].mean(axis=0)
    return _unit(found)


def _unit(x: NDArray[np.floating]) -> Vectors:  # type: ignore[type-arg]
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)
