"""Metrics of ranked lists.

``recommended`` holds one array of distinct ``item_idx`` per user, best first, of any length; only its first ``k`` items
count. ``relevant`` holds what each of these users took, distinct, at least one item. Accuracy metrics and `novelty` and
`intra_list_diversity` return one number per user, shape (U,), so that intervals can be taken over users; a user for whom
a metric is not defined gets NaN. `catalogue_coverage` and `gini` are one number for all lists together.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reco_ray.arrays import lookup

__all__ = [
    "catalogue_coverage",
    "gini",
    "hit_rate_at_k",
    "intra_list_diversity",
    "ndcg_at_k",
    "novelty",
    "recall_at_k",
    "reciprocal_rank_at_k",
]

Lists = Sequence[NDArray[np.int32]]
Floats = NDArray[np.float64]


def recall_at_k(recommended: Lists, relevant: Lists, k: int) -> Floats:
    """Measure which share of a user's relevant items is in the first ``k``.

    Recall = hits / number of relevant items, and not / min(k, that number): a user with more than ``k`` relevant items
    cannot reach 1, and a longer list never has less recall than a shorter one.
    """
    found = _gain_matrix(recommended, relevant, k) > 0
    share: Floats = found.sum(axis=1) / _lengths(relevant)
    return share


def ndcg_at_k(recommended: Lists, relevant: Lists, k: int, gains: Sequence[NDArray[np.float32]] | None = None) -> Floats:
    """Measure how near to the top the relevant items are: 1 when the best of them fill the list in the best order.

    DCG = sum of gain / log2(position + 1), position from 1, divided by that of the ideal list of min(k, relevant) items.
    Gains are used as they are given, with no exponent.

    Args:
        gains: worth of each relevant item, in the order of ``relevant``, finite, >= 0; all 1 when None. A user whose
            gains are all 0 has no ideal list and gets NaN.
    Reference: Järvelin and Kekäläinen 2002, Cumulated gain-based evaluation of IR techniques.
    """
    discount = 1 / np.log2(np.arange(k) + 2)
    found = _gain_matrix(recommended, relevant, k, gains) @ discount
    best = _ideal_matrix(relevant, k, gains) @ discount
    share: Floats = np.divide(found, best, out=np.full(best.shape, np.nan), where=best > 0)
    return np.minimum(share, 1.0, out=share)


def reciprocal_rank_at_k(recommended: Lists, relevant: Lists, k: int) -> Floats:
    """Return 1 / position of the first relevant item, 0 when none is in the first ``k``; its mean is MRR."""
    found = _gain_matrix(recommended, relevant, k) > 0
    # argmax is 0 where nothing is found; the product turns that into 0
    share: Floats = found.any(axis=1) / (found.argmax(axis=1) + 1)
    return share


def hit_rate_at_k(recommended: Lists, relevant: Lists, k: int) -> Floats:
    """Return 1 for a user with a relevant item in the first ``k``, else 0."""
    found = _gain_matrix(recommended, relevant, k) > 0
    return np.asarray(found.any(axis=1), np.float64)


def novelty(recommended: Lists, item_counts: NDArray[np.int64], k: int) -> Floats:
    """Measure how surprising a list is: mean self-information of its first ``k`` items, in bits.

    -log2(p) with p = (count + 1) / (sum of counts + number of items): an item never seen has a finite value. An empty
    list gives NaN.

    Args:
        item_counts: events per item in the training data, shape (n_items,).
    """
    bits = -np.log2((item_counts + 1.0) / (item_counts.sum() + item_counts.size))
    items = _pad(recommended, k)
    present = items >= 0
    total, n = np.where(present, bits[items], 0.0).sum(axis=1), present.sum(axis=1)
    mean: Floats = np.divide(total, n, out=np.full(n.shape, np.nan), where=n > 0)
    return mean


def intra_list_diversity(recommended: Lists, categories: NDArray[np.float32], k: int) -> Floats:
    """Measure how unlike each other the first ``k`` items are: 1 - mean cosine over all pairs.

    An item without a category is unlike every other. Lists of fewer than two items have no pair and give NaN.

    Args:
        categories: weight of each category per item, >= 0, shape (n_items, C).
    """
    norms = np.linalg.norm(categories.astype(np.float64), axis=1, keepdims=True)
    unit = np.divide(categories, norms, out=np.zeros(categories.shape), where=norms > 0)
    result = np.full(len(recommended), np.nan)
    for user, items in enumerate(recommended):
        n = min(k, items.size)
        if n >= 2:
            rows = unit[items[:n]]
            # sum of all pairs' cosines = |sum of vectors|^2 - sum of |vector|^2: no n x n matrix
            total = rows.sum(axis=0)
            result[user] = 1 - (total @ total - np.einsum("ij,ij->", rows, rows)) / (n * (n - 1))
    return np.clip(result, 0.0, 1.0, out=result)


def catalogue_coverage(recommended: Lists, n_items: int, k: int) -> float:
    """Return the share of the catalogue that is in the first ``k`` of at least one user."""
    return float(np.count_nonzero(_exposures(recommended, n_items, k)) / n_items)


def gini(recommended: Lists, n_items: int, k: int) -> float:
    """Measure how unequally the catalogue is shown: 0 when all items are shown as often, near 1 when few get all.

    Items never shown count. NaN when nothing is shown at all.
    """
    counts = np.sort(_exposures(recommended, n_items, k))
    if counts.sum() == 0:
        return float("nan")
    place = np.arange(1, n_items + 1)
    return float(2 * (place @ counts) / (n_items * counts.sum()) - (n_items + 1) / n_items)


def _lengths(lists: Sequence[NDArray[np.int32]]) -> NDArray[np.int64]:
    return np.fromiter((len(items) for items in lists), np.int64, len(lists))


def _pad(recommended: Lists, k: int) -> NDArray[np.int64]:
    """Lay the first ``k`` items out as a matrix, -1 where a list is shorter, shape (U, k)."""
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1")
    lengths = np.minimum(_lengths(recommended), k)
    padded = np.full((len(recommended), k), -1, np.int64)
    if lengths.sum() > 0:
        flat = np.concatenate([items[:k] for items in recommended])
        if flat.min() < 0:
            raise ValueError(f"recommended: found row {int(flat.min())}, expected rows of the catalogue, >= 0")
        padded[np.arange(k) < lengths[:, None]] = flat
    return padded


def _exposures(recommended: Lists, n_items: int, k: int) -> NDArray[np.int64]:
    items = _pad(recommended, k)
    return np.bincount(items[items >= 0], minlength=n_items).astype(np.int64)


def _gain_matrix(recommended: Lists, relevant: Lists, k: int, gains: Sequence[NDArray[np.float32]] | None = None) -> Floats:
    """Return the gain of each place of each list, 0 where the item is not relevant, shape (U, k)."""
    if len(recommended) != len(relevant):
        raise ValueError(f"found {len(recommended)} lists and {len(relevant)} users with relevant items: must agree")
    lengths = _lengths(relevant)
    if (lengths == 0).any():
        raise ValueError(f"user {int(lengths.argmin())} has no relevant item; leave such users out")
    items = _pad(recommended, k)
    if not len(relevant):
        return np.zeros(items.shape)
    flat = np.concatenate(relevant).astype(np.int64)
    if flat.min() < 0:
        # a negative row would run into the previous user's keys
        raise ValueError(
            f"relevant: found row {int(flat.min())}, expected rows >= 0; give an item outside of the catalogue a row of its "
            "own past the last one, so that it counts as missed"
        )
    width = int(max(flat.max(), items.max())) + 1
    # one key per (user, item), so that all users are looked up at once
    wanted = (np.repeat(np.arange(len(relevant)), lengths) * width + flat).astype(np.uint64)
    order = np.argsort(wanted)
    keys = (np.arange(len(relevant))[:, None] * width + items)[items >= 0].astype(np.uint64)
    for name, found in (("relevant", wanted), ("recommended", keys)):
        if np.unique(found).size != found.size:
            raise ValueError(f"{name}: found an item twice for one user, expected distinct items")
    at = lookup(wanted[order], keys)
    result = np.zeros(items.shape)
    result[items >= 0] = np.where(at >= 0, _flat_gains(relevant, gains)[order][at], 0.0)
    return result


def _ideal_matrix(relevant: Lists, k: int, gains: Sequence[NDArray[np.float32]] | None) -> Floats:
    """Return the gains of the best possible list, shape (U, k)."""
    lengths, flat = _lengths(relevant), _flat_gains(relevant, gains)
    owner = np.repeat(np.arange(len(relevant)), lengths)
    order = np.lexsort((-flat, owner))
    place = np.arange(flat.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    result = np.zeros((len(relevant), k))
    kept = place < k
    result[owner[kept], place[kept]] = flat[order][kept]
    return result


def _flat_gains(relevant: Lists, gains: Sequence[NDArray[np.float32]] | None) -> Floats:
    if gains is None:
        return np.ones(int(_lengths(relevant).sum()))
    if not np.array_equal(_lengths(gains), _lengths(relevant)):  # type: ignore[arg-type]
        raise ValueError("gains and relevant differ in length, expected one gain for each relevant item")
    flat = np.concatenate(gains).astype(np.float64) if len(gains) else np.zeros(0)
    if not np.isfinite(flat).all() or (flat < 0).any():
        raise ValueError("gains: found a negative or non-finite one, expected finite gains >= 0")
    return flat
