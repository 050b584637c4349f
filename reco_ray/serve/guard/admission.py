"""Load shedding: a limit on a gateway replica's requests at work that follows the queue, so that latency cannot collapse."""

import time
from collections.abc import Callable

__all__ = ["Admission"]

_ADJUST_S = 0.1
_DOWN = 0.85


class Admission:
    """Lets requests in while the queue before the first stage moves.

    The limit falls by 15%, at most ten times a second, while rows wait longer than ``target_s`` for their first stage or the
    event loop lags by as much; it grows by one for each batch that left in time while the limit was in use. A stage that is
    slow for another reason than load queues behind recall and does not count: the ladder answers that.

    Args:
        target_s: tolerated wait, a part of the deadline.
        least, most: bounds of the limit.
        clock: seconds, monotonic.
    Reference: Chiu and Jain 1989, additive increase and multiplicative decrease; Nichols and Jacobson 2012 (CoDel), to steer by
    the time spent queueing and not by its length.
    """

    def __init__(
        self, target_s: float, *, least: int = 8, most: int = 256, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._target_s, self._least, self._most, self._clock = target_s, least, most, clock
        self._limit = float(most)
        self._lowered_at = -1e9
        self.at_work = 0

    @property
    def limit(self) -> int:
        """Requests that may be at work at once."""
        return int(self._limit)

    def enter(self) -> bool:
        """Take a place; False when there is none. Whoever got one gives it back by `leave`."""
        if self.at_work >= self._limit:
            return False
        self.at_work += 1
        return True

    def leave(self) -> None:
        """Give the place back."""
        self.at_work -= 1

    def waited(self, seconds: float) -> None:
        """The oldest row of a batch waited so long for the first stage, or the event loop lagged so much."""
        if seconds > self._target_s:
            now = self._clock()
            if now - self._lowered_at >= _ADJUST_S:
                # from what is really at work: a limit that nobody reached says nothing
                self._limit = max(self._least, _DOWN * min(self._limit, self.at_work))
                self._lowered_at = now
        elif self.at_work >= 0.8 * self._limit:
            self._limit = min(self._most, self._limit + 1)
