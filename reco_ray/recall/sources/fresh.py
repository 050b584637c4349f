"""The fresh source: new items, drawn in turn, so that each is shown to somebody and its quality becomes known."""

import numpy as np
from numpy.typing import NDArray

from reco_ray.arrays import best_first
from reco_ray.features import Catalogue
from reco_ray.recall.query import Hits, Query

__all__ = ["FreshSource"]


class FreshSource:
    """Some of the newest items: those that nobody met yet, then by the time since the first event, then by year.

    Which ones, the query's ``turn`` says: over many turns each item of the pool comes equally often. Those that are drawn stand
    newest first; items of the categories that a user says to like are drawn before the others.

    Args:
        scores: of every item, the newest the largest, shape (n_items,). tie_keys: `hashing.item_keys`, shape (n_items,).
        in_category: not 0 where item i has category c, shape (n_items, C).
        available: whether an item may be shown, shape (n_items,). pool: how many items count as new.
    """

    def __init__(
        self,
        scores: NDArray[np.float32],
        tie_keys: NDArray[np.uint64],
        in_category: NDArray[np.float32],
        available: NDArray[np.bool_],
        pool: int,
    ) -> None:
        shown = np.flatnonzero(available)
        self._pool = shown[best_first(scores[shown], tie_keys[shown], pool)]
        self._scores, self._in_category = scores[self._pool], in_category[self._pool] > 0
        self._ring = np.argsort(tie_keys[self._pool], kind="stable")  # an order that says nothing of the items

    @classmethod
    def of(cls, catalogue: Catalogue, pool: int) -> "FreshSource":
        """Build the source from a catalogue."""
        scores = 0.01 * catalogue.column("item_year") - catalogue.column("item_age_days")
        return cls(scores.astype(np.float32), catalogue.keys, catalogue.in_category, catalogue.available, pool)

    def recall(self, queries: list[Query], k: int) -> list[Hits]:
        """Draw for each query; contract of `query.Source`."""
        return [self._draw(query, k) for query in queries]

    def _draw(self, query: Query, k: int) -> Hits:
        if query.similar_to is not None or not self._pool.size:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        ring = np.roll(self._ring, -(query.turn % self._ring.size))
        ring = ring[query.visible(self._pool[ring])]
        liked = self._in_category[ring][:, list(query.liked)].any(axis=1)
        first, rest = ring[liked][:k], ring[~liked]
        drawn = np.concatenate([np.sort(first), np.sort(rest[: k - first.size])])  # places in the pool: newest first
        return self._pool[drawn], self._scores[drawn]
