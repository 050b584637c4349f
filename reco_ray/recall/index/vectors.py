"""Nearest vectors by inner product: the index of a release, and what changed in it since it was loaded."""

import logging
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reco_ray.recall.index.exact import CHUNK, best_in
from reco_ray.recall.index.files import known, read_index, write_index
from reco_ray.recall.index.live import LiveSearcher, Masks
from reco_ray.recall.index.locks import SharedLock
from reco_ray.recall.index.places import grown
from reco_ray.recall.index.shards import Answer, merge_shards
from reco_ray.recall.index.tuning import Tuning

__all__ = ["VectorIndex"]

log = logging.getLogger(__name__)

_REBUILT_AFTER = 0.2  # of the rows changed; recall after 10% is measured in docs/decisions/0018
_CAUGHT_UP = 100  # changes: a few ms for which searches wait


class VectorIndex:
    """Search over vectors by row (item_idx): those of a release, and rows put and removed since.

    Threads may search, put and remove at the same time: a search sees each put and each remove whole or not at all, and all
    that returned before it began. Rows that were removed are never in an answer. After many changes the tree is built anew in a
    thread, while the old one answers; then they change places in one step.

    Args:
        vectors: by row, unit length, float32, shape (n, d); taken over, not copied.
        searcher: over these rows.
    """

    def __init__(self, vectors: NDArray[np.float32], searcher: LiveSearcher) -> None:
        self._vectors, self._n, self._searcher = vectors, len(vectors), searcher
        self._lock = SharedLock()
        self._changed = 0
        self._journal: list[tuple[NDArray[np.int64], NDArray[np.float32] | None]] | None = None
        self._rebuilding: threading.Thread | None = None

    @classmethod
    def build(cls, vectors: NDArray[np.float32], exact_below: int, recall_target: float = 0.98, seed: int = 0) -> "VectorIndex":
        """Index the vectors; below ``exact_below`` of them by brute force, which is exact and the same in every build.

        Above by a tree, searched as far as recall@100 (and @500) against exact search on a sample needs to reach the target.
        Rows without a vector (zeros: the model knows nothing of them) are not indexed, and found by no search.
        """
        rows = known(vectors)
        indexed = vectors if rows.size == len(vectors) else vectors[rows]
        return cls(vectors, LiveSearcher.build(indexed, rows, rows.size < exact_below, recall_target, seed))

    def save(self, folder: Path, name: str) -> None:
        """Write vectors, index and its tuning into a release's folder, where several indexes may stand under their names.

        Raises: RuntimeError: rows were put or removed; the places of ScaNN's rows are kept nowhere.
        """
        if self._changed or not np.array_equal(self._searcher.places.rows, known(self.vectors)):
            raise RuntimeError(f"index {name} has changed since it was built, expected an unchanged one; build it anew")
        write_index(folder, name, self.vectors, self._searcher)

    @classmethod
    def load(cls, folder: Path, name: str) -> "VectorIndex":
        """Read what `save` wrote; raises as `files.read_index`."""
        return cls(*read_index(folder, name))

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Vectors by row, shape (n, d): of removed rows the last one, of rows never put zeros."""
        return self._vectors[: self._n]

    @property
    def tuning(self) -> Tuning:
        """How far the index is searched and what was measured."""
        return self._searcher.tuning

    def __len__(self) -> int:
        """Rows that can be found."""
        return len(self._searcher.places)

    def search(self, queries: NDArray[np.float32], k: int, allowed: Masks | None = None) -> Answer:
        """Return the best ``k`` rows and inner products per query, shapes (q, <= k); -1 and -inf pad short answers.

        Args:
            allowed: per query a mask by row of what may be found, or None for everything. A row behind a mask's end may not.
        """
        with self._lock.read():
            return self._searcher.search_among(queries, k, allowed, self._vectors)

    def exact(self, query: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """What `search` would find for one query if it were exact, shape (<= k,); in steps, so that nothing waits long."""
        best: Answer = (np.empty((1, 0), np.int64), np.empty((1, 0), np.float32))
        start = 0
        while start < self._n:
            with self._lock.read():
                stop = min(start + CHUNK, self._n, self._searcher.places.live.size)
                mask = self._searcher.places.live[start:stop]
                if allowed is not None:
                    mask = mask[: max(0, allowed.size - start)] & allowed[start:stop]
                best = merge_shards([best, best_in(self._vectors[start : start + mask.size], mask, query[None], k, start)], k)
            start += CHUNK
        rows, _ = best
        return np.asarray(rows[0], np.int64)

    def put(self, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add rows or replace their vectors; of a row that is named twice the last vector counts.

        Args:
            rows: shape (m,). vectors: unit length or zeros, which no search finds, shape (m, d).
        Raises: ValueError: shapes do not fit, a row is negative or a vector not finite; nothing was changed then.
        """
        expected = (rows.size, self._vectors.shape[1])
        if vectors.shape != expected or not np.isfinite(vectors).all() or (rows < 0).any():
            raise ValueError(
                f"put {rows.size} rows with vectors of shape {vectors.shape}, expected rows >= 0, finite, {expected}"
            )
        distinct, last = np.unique(rows[::-1], return_index=True)
        if distinct.size:
            self._change(distinct.astype(np.int64), vectors[::-1][last].astype(np.float32))

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Take rows out; those that are not there are passed over."""
        if rows.size:
            self._change(np.unique(rows).astype(np.int64), None)

    def rebuild(self) -> threading.Thread:
        """Start to build the searcher anew, unless that is under way; the thread that does it, which ends with the exchange."""
        with self._lock.write():
            if self._rebuilding is None or not self._rebuilding.is_alive():
                self._rebuilding = threading.Thread(target=self._rebuild, name="index-rebuild", daemon=True)
                self._rebuilding.start()
            return self._rebuilding

    def _change(self, rows: NDArray[np.int64], vectors: NDArray[np.float32] | None) -> None:
        with self._lock.write():
            if vectors is not None:
                n = max(self._n, int(rows[-1]) + 1)
                self._vectors = grown(self._vectors, n, 0)
                self._vectors[rows] = vectors
                self._n = n
            _apply(self._searcher, rows, vectors)
            if self._journal is not None:
                self._journal.append((rows, vectors))
            self._changed += rows.size
            due = self._searcher.tuning.leaves > 0 and self._changed > _REBUILT_AFTER * self._searcher.tuning.rows
        if due:
            self.rebuild()

    def _rebuild(self) -> None:
        with self._lock.write():
            rows = np.sort(self._searcher.places.rows)
            vectors, tuning, changed = self._vectors[rows], self._searcher.tuning, self._changed
            self._journal = []
        try:
            exact = not tuning.leaves or not rows.size
            fresh = LiveSearcher.build(vectors, rows, exact, tuning.target, tuning.seed, threads=1)
            while not self._exchange(fresh, changed):
                pass
            log.info("built an index of %d rows anew after %d changes", rows.size, changed)
        except Exception:
            log.exception("an index of %d rows could not be built anew; the old one goes on", rows.size)
        finally:
            self._journal = None

    def _exchange(self, fresh: LiveSearcher, changed: int) -> bool:
        """Let the new searcher catch up with what changed meanwhile, and take the old one's place when that was little."""
        with self._lock.write():
            journal, self._journal = self._journal or [], []
            if last := len(journal) <= _CAUGHT_UP:
                for change in journal:
                    _apply(fresh, *change)
                self._searcher, self._changed = fresh, self._changed - changed
        if not last:
            for change in journal:
                _apply(fresh, *change)
        return last


def _apply(searcher: LiveSearcher, rows: NDArray[np.int64], vectors: NDArray[np.float32] | None) -> None:
    there = np.zeros(rows.size, np.bool_) if vectors is None else vectors.any(axis=1)
    searcher.remove(rows[~there])
    if vectors is not None:
        searcher.put(rows[there], vectors[there])
