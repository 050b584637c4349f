"""Sources that are one list for everybody: popular, trending, fresh. They need no history, so they serve unknown users."""

import numpy as np
from numpy.typing import NDArray

from reco_ray.arrays import best_first
from reco_ray.config import SourceName
from reco_ray.features import Catalogue
from reco_ray.recall.query import Hits, Query

__all__ = ["ListSource"]


class ListSource:
    """The best items by one number, for all alike; but items of the categories that a user says to like come first.

    Args:
        scores: of every item, larger is better, shape (n_items,). tie_keys: `hashing.item_keys`, shape (n_items,).
        strangers_only: answer only for users without a history; others are served by what they did.
    """

    def __init__(self, scores: NDArray[np.float32], tie_keys: NDArray[np.uint64], strangers_only: bool = False) -> None:
        self._order = best_first(scores, tie_keys)
        self._scores, self._strangers_only = scores, strangers_only

    @classmethod
    def of(cls, name: SourceName, catalogue: Catalogue) -> "ListSource":
        """Build the source ``popular`` (decayed count), ``trending`` (short decay) or ``fresh`` (newest, by first year)."""
        if name is SourceName.fresh:
            # newest first; among equals the ones already known to somebody, for a first slate of unknown quality
            scores = catalogue.years + np.float32(0.1) * catalogue.column("item_events")
        else:
            scores = catalogue.column("item_decayed" if name is SourceName.popular else "item_trending")
        return cls(scores.astype(np.float32), catalogue.keys, strangers_only=name is SourceName.fresh)

    def recall(self, queries: list[Query], k: int) -> list[Hits]:
        """Walk down the list past what is hidden; contract of `query.Source`."""
        return [self._walk(query, k) for query in queries]

    def _walk(self, query: Query, k: int) -> Hits:
        if query.similar_to is not None or (self._strangers_only and query.history.size):
            return np.empty(0, np.int64), np.empty(0, np.float32)
        order = self._order if query.allowed is None else self._order[query.allowed[self._order]]
        if query.preferred is not None:
            first = query.preferred[order]
            order = np.concatenate([order[first], order[~first]])
        head = order[: k + query.hidden.size]
        found = head[query.visible(head)][:k]
        return found, self._scores[found]
