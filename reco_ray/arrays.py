"""Operations on score arrays that more than one room needs."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["best_first", "gather_rows", "lookup"]


def best_first(scores: NDArray[np.float32], tie_keys: NDArray[np.uint64], k: int | None = None) -> NDArray[np.int64]:
    """Return positions ordered by score, best first, at most ``k``.

    Non-finite scores sort last, so that they can fill no slot that a finite score wants. Ties break by ``tie_keys``, a
    stable hash of the item id and never the id itself: ids leak time and order.

    Args:
        scores: shape (n,).
        tie_keys: shape (n,), `hashing.item_keys` of the same items.
        k: upper bound; all when None.
    """
    clean = np.where(np.isfinite(scores), scores, -np.inf)
    n = clean.shape[0]
    if k is not None and 0 < k < n // 4:
        # partition first, but keep every position that ties with the k-th: the tie rule decides among them
        threshold = np.partition(clean, n - k)[n - k]
        keep = np.flatnonzero(clean >= threshold)
        return keep[np.lexsort((tie_keys[keep], -clean[keep]))][:k]
    return np.lexsort((tie_keys, -clean))[:k]


def lookup(sorted_keys: NDArray[np.uint64], keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Find each key's position in ``sorted_keys``; -1 where it is absent. Shape (n,)."""
    if sorted_keys.size == 0 or keys.size == 0:
        return np.full(keys.shape, -1, np.int64)
    at = np.minimum(np.searchsorted(sorted_keys, keys), sorted_keys.size - 1)
    return np.where(sorted_keys[at] == keys, at, -1)


def gather_rows(offsets: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Address the entries of some rows of a ragged (CSR) array.

    Args:
        offsets: shape (n_rows + 1,).
        rows: the rows wanted, shape (m,).
    Returns: positions of the entries, shape (e,), and for each the position in ``rows`` that it belongs to, shape (e,).
    """
    starts, lengths = offsets[rows], offsets[rows + 1] - offsets[rows]
    owner = np.repeat(np.arange(rows.size), lengths)
    within = np.arange(owner.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(starts, lengths) + within, owner
