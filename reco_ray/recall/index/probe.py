"""Recall of live searches, measured beside them: a small share is searched again exactly, in a thread of its own."""

import logging
import random
import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from reco_ray.recall.index.tuning import recall_at
from reco_ray.recall.index.vectors import VectorIndex
from reco_ray.recall.query import Query

__all__ = ["Probe", "Report", "selectivity"]

log = logging.getLogger(__name__)

_REST = 49  # times as long as the last measurement took: 2% of one core at most

Report = Callable[[str, float], None]
"""Takes the bucket of `selectivity` and the recall, 0..1."""


def selectivity(allowed: int, n: int) -> str:
    """Bucket of the share of items that a filter lets pass."""
    share = allowed / max(1, n)
    return ">10%" if share > 0.1 else "1-10%" if share >= 0.01 else "<1%"


class Probe:
    """Samples searches and reports their recall.

    One search is measured at a time, and none in the time of rest after it: what is offered meanwhile is dropped, so that
    requests never wait and nothing piles up. Rows put or removed between the two searches count as misses.

    Args:
        report: called from the thread. share: of the searches. seed: of the sample.
    """

    def __init__(self, index: VectorIndex, report: Report, share: float = 0.01, seed: int = 0) -> None:
        self._index, self._report, self._share = index, report, share
        self._random = random.Random(seed)
        self._busy = threading.Lock()
        self._rests_until = 0.0

    def offer(self, point: NDArray[np.float32], query: Query, k: int, found: NDArray[np.int64]) -> None:
        """A query was answered: found (<= k,) are the rows it got."""
        if self._random.random() >= self._share or time.monotonic() < self._rests_until:
            return
        if self._busy.acquire(blocking=False):
            threading.Thread(target=self._measure, args=(point, query, k, found), name="index-probe", daemon=True).start()

    def _measure(self, point: NDArray[np.float32], query: Query, k: int, found: NDArray[np.int64]) -> None:
        began = time.monotonic()
        try:
            n = len(self._index.vectors)
            mask = np.ones(n, np.bool_) if query.allowed is None else query.allowed[:n].copy()
            bucket = "all" if query.allowed is None else selectivity(int(np.count_nonzero(mask)), n)
            mask[query.hidden[query.hidden < mask.size]] = False
            exact = self._index.exact(point, k, mask)
            if exact.size:
                self._report(bucket, float(recall_at(found[None], exact[None], self._index.vectors, point[None])[0]))
        except Exception:
            log.exception("the recall of a search could not be measured")
        finally:
            now = time.monotonic()
            self._rests_until = now + _REST * (now - began)
            self._busy.release()
