"""What a replica knows of its load: its own work, and what the gateways say of the queue behind each batch.

Pure, with the clock passed in. `autoscaling` turns the reports of all replicas into a number of replicas.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from reco_ray.serve.autoscaling import BUSY, DELAY_MS, ROWS_PER_S, ROWS_QUEUED, WINDOW_S

__all__ = ["LoadWindow", "Queue", "batches_in_flight"]

Queue = tuple[str, int, float]
"""What travels with a batch: who sends it, rows that still queue behind it there, milliseconds that its oldest row queued."""

_BATCHES_PER_REPLICA = 2  # one at work, one that waits at the replica so that it need not
_MIN_AGE_S = 1.0


class LoadWindow:
    """The last few seconds of one replica.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._batches: deque[tuple[float, float, int, Queue | None]] = deque()  # start, end, rows, queue

    @contextmanager
    def batch(self, rows: int, queue: Queue | None) -> Iterator[None]:
        """Time one batch; one that fails was work as well."""
        start = self._clock()
        try:
            yield
        finally:
            self._batches.append((start, self._clock(), rows, queue))
            self._forget()

    def stats(self) -> dict[str, float]:
        """Return what Serve's ``record_autoscaling_stats`` reports.

        ``busy``: share of time at work, 0 to 1. ``rows_per_s``: rows answered. ``delay_ms``: mean over the batches of how long
        their oldest row queued. ``rows_queued``: rows left behind by the batches, mean per gateway, added up over the gateways.
        """
        self._forget()
        now = self._clock()
        begin = now - min(WINDOW_S, max(_MIN_AGE_S, now - self._started))
        told = [queue for *_, queue in self._batches if queue is not None]
        left: dict[str, list[int]] = {}
        for sender, queued, _ in told:
            left.setdefault(sender, []).append(queued)
        return {
            BUSY: min(1.0, sum(end - max(start, begin) for start, end, *_ in self._batches) / (now - begin)),
            ROWS_PER_S: sum(rows for _, _, rows, _ in self._batches) / (now - begin),
            DELAY_MS: sum(delay for *_, delay in told) / len(told) if told else 0.0,
            ROWS_QUEUED: sum(sum(queued) / len(queued) for queued in left.values()),
        }

    def _forget(self) -> None:
        begin = self._clock() - WINDOW_S
        while self._batches and self._batches[0][1] <= begin:
            self._batches.popleft()


def batches_in_flight(replicas: int, gateways: int) -> int:
    """Return how many batches one gateway may have out at a stage: its part of two per replica, at least one."""
    return max(1, math.ceil(_BATCHES_PER_REPLICA * replicas / max(1, gateways)))
