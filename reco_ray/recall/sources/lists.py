"""Sources that are lists for many: popular, trending. They need no history, so they serve unknown users too."""

import numpy as np
from numpy.typing import NDArray

from reco_ray.arrays import best_first
from reco_ray.config import SourceName
from reco_ray.features import Catalogue
from reco_ray.recall.query import Hits, Query
from reco_ray.recall.sources.segments import SEGMENTED, Segments

__all__ = ["ListSource"]

_NOWHERE = np.empty(0, np.int64)


class ListSource:
    """The best items by one number: for people of one taste where their segment has a list, otherwise for all alike.

    Items of the categories that a user without a history says to like come first.

    Args:
        scores: of every item, larger is better, shape (n_items,). tie_keys: `hashing.item_keys`, shape (n_items,).
        in_category: not 0 where item i has category c, shape (n_items, C).
        name: of the source among the lists of ``segments``.
    """

    def __init__(
        self,
        scores: NDArray[np.float32],
        tie_keys: NDArray[np.uint64],
        in_category: NDArray[np.float32],
        name: str = "",
        segments: Segments | None = None,
    ) -> None:
        self._order, self._scores = best_first(scores, tie_keys), scores
        self._name, self._segments = name, segments
        # places in the order by category: a mask over all items would cost a request 10 ms with 92,000 of them
        places, columns = np.nonzero(in_category[self._order])
        self._places = places[np.argsort(columns, kind="stable")]
        self._offsets = np.concatenate([[0], np.cumsum(np.bincount(columns, minlength=in_category.shape[1]))])

    @classmethod
    def of(cls, name: SourceName, catalogue: Catalogue, segments: Segments | None = None) -> "ListSource":
        """Build the source ``popular`` (decayed count) or ``trending`` (short decay)."""
        scores = catalogue.column(SEGMENTED[name.value])
        return cls(scores, catalogue.keys, catalogue.in_category, name.value, segments)

    def recall(self, queries: list[Query], k: int) -> list[Hits]:
        """Walk down the list past what is hidden; contract of `query.Source`."""
        return [self._of_segment(query, k) or self._walk(query, k) for query in queries]

    def _of_segment(self, query: Query, k: int) -> Hits | None:
        """What the list of the user's segment holds; None without one, and where it ends too soon."""
        if self._segments is None or query.similar_to is not None or query.liked:
            return None
        found = self._segments.list_for(self._name, query.taste)
        if found is None:
            return None
        rows, scores = found
        visible = np.flatnonzero(query.visible(rows))[:k]
        whole = visible.size == k or rows.size == self._order.size
        return (rows[visible], scores[visible]) if whole else None

    def _walk(self, query: Query, k: int) -> Hits:
        if query.similar_to is not None:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        most = k + query.hidden.size
        first = self._first(query, most) if query.liked else _NOWHERE
        if query.allowed is not None:
            places = np.flatnonzero(query.allowed[self._order])
        else:
            places = np.arange(min(most + first.size, self._order.size))
        if first.size:
            places = np.concatenate([first, np.setdiff1d(places, first, assume_unique=True)])
        head = self._order[places[:most]]
        found = head[query.visible(head)][:k]
        return found, self._scores[found]

    def _first(self, query: Query, most: int) -> NDArray[np.int64]:
        """Places of items of the liked categories, ascending: ``most`` of them, and with filters all that pass."""
        passing = query.allowed
        ranges = [(self._offsets[column], self._offsets[column + 1]) for column in query.liked]
        if passing is None:
            ranges = [(start, min(start + most, end)) for start, end in ranges]
        found = np.unique(np.concatenate([self._places[start:end] for start, end in ranges]))
        return found[:most] if passing is None else found[passing[self._order[found]]]
