"""Exact search in NumPy: what approximate answers are measured against, and the way of small sets."""

import numpy as np
from numpy.typing import NDArray

from reco_ray.recall.index.shards import Answer, merge_shards

__all__ = ["CHUNK", "best_in", "best_of"]

CHUNK = 65_536  # vectors a product; with 64 dimensions 16 MB


def best_of(vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """The ``k`` rows of largest inner product per query, best first, shape (q, min(k, n)).

    Args:
        vectors: shape (n, d). queries: shape (q, d).
    """
    everything = np.ones(CHUNK, np.bool_)
    found: Answer = (np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32))
    for start in range(0, len(vectors), CHUNK):
        chunk = vectors[start : start + CHUNK]
        found = merge_shards([found, best_in(chunk, everything[: len(chunk)], queries, k, start)], k)
    return found[0]


def best_in(
    vectors: NDArray[np.float32], mask: NDArray[np.bool_], queries: NDArray[np.float32], k: int, start: int = 0
) -> Answer:
    """Score the rows of a mask exactly; rows and inner products of the best ``k``, shapes (q, min(k, rows of the mask)).

    Args:
        vectors: shape (n, d). mask: shape (n,). queries: shape (q, d).
        start: row number of the first vector.
    """
    rows = np.flatnonzero(mask)
    chosen = vectors if rows.size == len(vectors) else vectors[rows]
    scores = queries @ chosen.T
    return merge_shards([(np.broadcast_to(rows + start, scores.shape), scores)], k)
