"""An index in parts: which part holds an item, and one answer out of the answers of all."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["merge_shards", "shard_of"]

Answer = tuple[NDArray[np.int64], NDArray[np.float32]]


def shard_of(keys: NDArray[np.uint64], shards: int) -> NDArray[np.int64]:
    """Part of each item by its `hashing.item_keys`, shape (n,): stable, and even whatever the order of the catalogue."""
    return (keys % np.uint64(shards)).astype(np.int64)


def merge_shards(answers: Sequence[Answer], k: int) -> Answer:
    """The best ``k`` of the answers of parts that share no row, shapes (q, k) or less where all have less.

    Best first; of equal scores in the order of the parts. Exact: what one index over all rows would say, if each part answers
    with its own best ``k``.

    Args:
        answers: per part rows, -1 where it has no more, and inner products, each of shape (q, k of the part).
    """
    rows = np.concatenate([r for r, _ in answers], axis=1)
    scores = np.where(rows >= 0, np.concatenate([s for _, s in answers], axis=1), -np.inf).astype(np.float32)
    k = min(k, rows.shape[1])
    if k < rows.shape[1]:  # all that ties with the k-th would be sorted too: partition is enough, order does not matter yet
        top = np.sort(np.argpartition(-scores, k - 1, axis=1)[:, :k], axis=1) if k else np.empty((len(rows), 0), np.int64)
        rows, scores = np.take_along_axis(rows, top, axis=1), np.take_along_axis(scores, top, axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
