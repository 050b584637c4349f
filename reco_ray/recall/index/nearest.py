"""From points in a vector space to hits: what all sources share that search an index."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reco_ray.recall.index.probe import Probe
from reco_ray.recall.index.vectors import VectorIndex
from reco_ray.recall.query import Hits, Query

__all__ = ["nearest"]

_EXTRA = 3  # at most so many times k is fetched beyond k to search past what is hidden


def nearest(
    index: VectorIndex, points: NDArray[np.float32], queries: Sequence[Query], k: int, probe: Probe | None = None
) -> list[Hits]:
    """The best ``k`` items that each query may see.

    What is hidden is fetched too and dropped. A query that this leaves short is asked again over all that it may see.

    Args:
        points: unit length, one per query, shape (q, d).
        probe: is offered every answer.
    """
    if not queries:
        return []
    extra = max(min(query.hidden.size, _EXTRA * k) for query in queries)
    rows, scores = index.search(points, k + extra, [query.allowed for query in queries])
    hits = [_visible(query, r, s, k) for query, r, s in zip(queries, rows, scores, strict=True)]
    for i, query in enumerate(queries):
        if hits[i][0].size < k and query.hidden.size > extra:
            mask = np.ones(len(index.vectors), np.bool_) if query.allowed is None else query.allowed.copy()
            mask[query.hidden[query.hidden < mask.size]] = False
            again, own = index.search(points[i : i + 1], k, [mask])
            hits[i] = _visible(query, again[0], own[0], k)
        if probe is not None:
            probe.offer(points[i], query, k, hits[i][0])
    return hits


def _visible(query: Query, rows: NDArray[np.int64], scores: NDArray[np.float32], k: int) -> Hits:
    mask = rows >= 0
    mask[mask] = query.visible(rows[mask])
    return rows[mask][:k], scores[mask][:k]
