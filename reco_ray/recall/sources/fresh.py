"""The fresh source: new items, drawn in turn, so that each is shown to somebody and its quality becomes known."""

import numpy as np
from numpy.typing import NDArray

from reco_ray.arrays import best_first
from reco_ray.features import Catalogue, Growth
from reco_ray.recall.query import Hits, Query

__all__ = ["FreshSource"]


class FreshSource:
    """Some of the newest items: those that nobody met yet, then by the time since the first event, then by year.

    Which ones, the query's ``turn`` says: over many turns each item of the pool comes equally often. Those that are drawn stand
    newest first; items of the categories that a user says to like are drawn before the others. Half of the places are for what
    came while it is loaded, the newest of that, in every turn.

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
        self._size, self._released = pool, len(scores)
        self._hold(shown[best_first(scores[shown], tie_keys[shown], pool)], scores, tie_keys, in_category)

    @classmethod
    def of(cls, catalogue: Catalogue, pool: int) -> "FreshSource":
        """Build the source from a catalogue."""
        return cls(_scores(catalogue), catalogue.keys, catalogue.in_category, catalogue.available, pool)

    def put(self, catalogue: Catalogue, growth: Growth) -> None:
        """Contract of `query.Live`: what was put last is the newest."""
        new = growth.put[growth.put >= self._released][::-1]
        rows = np.concatenate([new, self._pool[~np.isin(self._pool, new)]])[: self._size]
        self._hold(rows, _scores(catalogue), catalogue.keys, catalogue.in_category)

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Contract of `query.Live`; what is in the release may come back, and is hidden as long."""
        kept = (self._pool < self._released) | ~np.isin(self._pool, rows)
        self._keep(self._pool[kept], self._scores[kept], self._in_category[kept], self._keys[kept])

    def _hold(
        self,
        rows: NDArray[np.int64],
        scores: NDArray[np.float32],
        tie_keys: NDArray[np.uint64],
        in_category: NDArray[np.float32],
    ) -> None:
        own = scores[rows]
        own = np.maximum.accumulate(own[::-1])[::-1]  # what came since is newer, whatever its year
        self._keep(rows, own, in_category[rows] > 0, tie_keys[rows])

    def _keep(
        self,
        rows: NDArray[np.int64],
        scores: NDArray[np.float32],
        in_category: NDArray[np.bool_],
        tie_keys: NDArray[np.uint64],
    ) -> None:
        self._pool, self._scores, self._in_category, self._keys = rows, scores, in_category, tie_keys
        self._ring = np.argsort(tie_keys, kind="stable")  # an order that says nothing of the items
        self._came = int(np.count_nonzero(rows >= self._released))

    def recall(self, queries: list[Query], k: int) -> list[Hits]:
        """Draw for each query; contract of `query.Source`."""
        return [self._draw(query, k) for query in queries]

    def _draw(self, query: Query, k: int) -> Hits:
        if query.similar_to is not None or not self._pool.size:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        ring = np.roll(self._ring, -(query.turn % self._ring.size))
        ring = ring[query.visible(self._pool[ring])]
        came = np.sort(ring[ring < self._came])[: (k + 1) // 2]
        ring, k = ring[~np.isin(ring, came)], k - came.size
        liked = self._in_category[ring][:, list(query.liked)].any(axis=1)
        first, rest = ring[liked][:k], ring[~liked]
        drawn = np.concatenate([came, np.sort(first), np.sort(rest[: k - first.size])])  # places in the pool: newest first
        return self._pool[drawn], self._scores[drawn]


def _scores(catalogue: Catalogue) -> NDArray[np.float32]:
    return np.asarray(0.01 * catalogue.column("item_year") - catalogue.column("item_age_days"), np.float32)
