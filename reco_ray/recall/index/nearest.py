"""From points to the nearest visible items of each query: the search that the embedding sources share."""

import numpy as np
from numpy.typing import NDArray

from reco_ray.recall.index.vectors import VectorIndex
from reco_ray.recall.query import Hits, Query

__all__ = ["nearest"]


def nearest(index: VectorIndex, points: NDArray[np.float32], queries: list[Query], k: int) -> list[Hits]:
    """Search once for all queries; what they hide or filter out is searched past.

    Args:
        points: one per query, shape (q, d), q >= 1.
    """
    filtered = any(query.allowed is not None for query in queries)
    extra = max(min(query.hidden.size, 3 * k) for query in queries)
    rows, scores = index.search(points, index.vectors.shape[0] if filtered else k + extra)
    out: list[Hits] = []
    for query, found, own in zip(queries, rows, scores, strict=True):
        mask = found >= 0
        mask[mask] = query.visible(found[mask])
        out.append((found[mask][:k], own[mask][:k].astype(np.float32)))
    return out
