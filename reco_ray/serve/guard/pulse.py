"""How far an event loop is behind: a task that wakes at an interval, and what has passed since it should have.

A loop with more ready requests than it can answer runs them all before anything else wakes, so that a queue in front of it
shows only as a beat that does not come. Whoever asks in the middle of such a turn sees it grow, and refuses the rest cheaply.
"""

import asyncio
import time
from collections.abc import Callable

__all__ = ["Pulse"]


class Pulse:
    """The beat of one loop.

    Args:
        interval_s: between beats. told: called with the lag in seconds of each beat that came late by more than half of it.
        clock: seconds, monotonic.
    """

    def __init__(
        self, told: Callable[[float], None], interval_s: float = 0.05, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._told, self._interval_s, self._clock = told, interval_s, clock
        self._due: float | None = None

    def behind_s(self) -> float:
        """Seconds by which the next beat is overdue; 0 while it is not, and before the first."""
        return 0.0 if self._due is None else max(0.0, self._clock() - self._due)

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            self._due = self._clock() + self._interval_s
            await asyncio.sleep(self._interval_s)
            if (lag := self.behind_s()) > self._interval_s / 2:
                self._told(lag)
