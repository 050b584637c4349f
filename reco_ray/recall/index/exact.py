"""Exact search in NumPy: what approximate answers are measured against, and the way of small sets."""

import numpy as np
from numpy.typing import NDArray

from reco_ray.recall.index.shards import Answer, merge_shards

__all__ = ["CHUNK", "best_in", "best_of"]

_BLOCK = 4_096  # rows gathered at a time: they stay in the cache, and a product this small wakes no other thread
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
    scores = np.empty((len(queries), rows.size), np.float32)
    for at in range(0, rows.size, _BLOCK):
        block = slice(at, at + _BLOCK)
        chosen = vectors[block] if rows.size == len(vectors) else vectors[rows[block]]
        np.matmul(queries, chosen.T, out=scores[:, block])
    top = np.argpartition(scores, rows.size - k, axis=1)[:, rows.size - k :] if k < rows.size else np.arange(rows.size)[None]
    top = np.broadcast_to(top, (len(queries), top.shape[1]))
    return merge_shards([(rows[top] + start, np.take_along_axis(scores, top, axis=1))], k)
