"""One ScaNN searcher with the rows that stand in it, which come and go."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reco_ray.recall.index.exact import best_in
from reco_ray.recall.index.places import Places
from reco_ray.recall.index.searcher import exact_searcher, leaves_for, tree_searcher
from reco_ray.recall.index.shards import Answer
from reco_ray.recall.index.tuning import Tuning, tune

__all__ = ["LiveSearcher", "Masks"]

Masks = Sequence[NDArray[np.bool_] | None]
"""Per query what may be found, by row, and None for everything."""

# To bring one candidate by the tree costs what scoring so many allowed items exactly costs: 2.9 to 4.6 with 10^5 and 10^6 items
# and k of 100 and 500, by `benchmarks/recall.py --parts filters` (docs/decisions/0018).
_SCORED_PER_FETCHED = 3.5
_MARGIN = 1.3  # more is fetched than the share of allowed items asks for, because chance brings less at times
_MORE = 8  # times as much is fetched next when too few were allowed


class LiveSearcher:
    """Search by row over a changing set. Not safe for threads; `VectorIndex` takes care of that.

    Args:
        searcher: ScaNN's. rows: that stand in it, by place. tuning: how far it is searched.
    """

    def __init__(self, searcher: Any, rows: NDArray[np.int64], tuning: Tuning) -> None:
        self.searcher, self.tuning = searcher, tuning
        self._native = searcher.searcher  # its wrapper would keep ids of its own, and pickle them
        self.places = Places(rows)

    @classmethod
    def build(
        cls, vectors: NDArray[np.float32], rows: NDArray[np.int64], exact: bool, target: float, seed: int, threads: int = 0
    ) -> "LiveSearcher":
        """Index vectors that stand for some rows, both of length n."""
        if exact:
            return cls(exact_searcher(vectors), rows, Tuning(len(vectors), 0, target, seed))
        leaves = leaves_for(len(vectors))
        searcher = tree_searcher(vectors, leaves, threads)
        return cls(searcher, rows, tune(searcher, vectors, leaves, target, seed))

    def put(self, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add rows, or replace the vectors of those that are there; rows are distinct."""
        old = [self.places.find(row) for row in rows.tolist()]
        expected = [self.places.append(row) if at is None else at for row, at in zip(rows.tolist(), old, strict=True)]
        found = self._native.upsert(old, np.ascontiguousarray(vectors, np.float32), 1)
        if list(found) != expected:
            raise RuntimeError(f"scann put new vectors at {list(found)[:9]}, expected {expected[:9]}; build the index anew")

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Take rows out; those that are not there are passed over."""
        for row in rows.tolist():
            if self.places.find(row) is not None:
                self._native.delete([self.places.remove(row)])

    def search(self, queries: NDArray[np.float32], k: int) -> Answer:
        """The best of all rows, shapes (q, min(k, rows)); -1 and -inf where a tree brings fewer."""
        k = min(k, len(self.places))
        if k == 0:
            return np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
        if self.tuning.leaves:
            leaves, rescored = self.tuning.reach(k)
            places, scores = self.searcher.search_batched(queries, k, rescored, leaves)
        else:
            places, scores = self.searcher.search_batched(queries, k)
        found = np.isfinite(scores)
        rows = np.where(found, self.places.rows[np.where(found, places, 0)], -1)
        return rows, np.where(found, scores, -np.inf).astype(np.float32)

    def search_among(self, queries: NDArray[np.float32], k: int, allowed: Masks | None, vectors: NDArray[np.float32]) -> Answer:
        """`search` for the queries without a mask, `search_allowed` for each of the others; shapes (q, <= k)."""
        if allowed is None or all(mask is None for mask in allowed):
            return self.search(queries, k)
        rows = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        plain = [i for i, mask in enumerate(allowed) if mask is None]
        parts = [(plain, self.search(queries[plain], k))] if plain else []
        masked = [(i, mask) for i, mask in enumerate(allowed) if mask is not None]
        parts += [([i], self.search_allowed(queries[i], k, mask, vectors)) for i, mask in masked]
        for at, (found, own) in parts:
            rows[at, : found.shape[1]], scores[at, : found.shape[1]] = found, own
        return rows, scores

    def search_allowed(
        self, query: NDArray[np.float32], k: int, allowed: NDArray[np.bool_], vectors: NDArray[np.float32]
    ) -> Answer:
        """The best of the rows of a mask, shapes (1, min(k, rows of the mask)).

        Few are scored exactly. Of many, the tree brings more than asked for and those not allowed are dropped. Too few are left
        when the allowed ones are far from this query; then it brings more, until scoring all of them exactly costs less.

        Args:
            query: shape (d,). allowed: by row; rows behind its end are not allowed. vectors: by row, shape (n, d).
        """
        size = min(allowed.size, self.places.live.size)
        mask = allowed[:size] & self.places.live[:size]
        n, m = len(self.places), int(np.count_nonzero(mask))
        k = min(k, m)
        wanted = int(_MARGIN * k * n / m) + 1 if m else n
        while self.tuning.leaves and wanted < n and _SCORED_PER_FETCHED * wanted < m:
            rows, scores = self.search(query[None], wanted)
            passed = (rows[0] >= 0) & (rows[0] < size)
            passed[passed] = mask[rows[0][passed]]
            if np.count_nonzero(passed) >= k:
                return rows[:, passed][:, :k], scores[:, passed][:, :k]
            wanted *= _MORE
        return best_in(vectors[:size], mask, query[None], k)
