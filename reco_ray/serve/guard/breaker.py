"""A circuit breaker: what fails again and again is left alone for a while, and asked by single probes until it answers."""

import time
from collections.abc import Callable

__all__ = ["Breaker"]

_IN_A_ROW = 5
_LEAST_CALLS = 10
_FAILED_SHARE = 0.5
_LASTING_S = 0.3
_WINDOW_S = 2.0
_PROBES = 3


class Breaker:
    """Guards one dependency: a stage of a release, or the store.

    Closed, all calls pass. It opens when the last 5 calls or more failed, or half of at least 10 within 2 s, provided that
    the failures last: the first of them came 0.3 s before. Calls share batches, and one batch that is late, or one stall of
    the process, fails dozens at once without anything being down. Open, no call passes for ``pause_s``, which doubles up to
    ``max_pause_s`` each time a probe fails. After the pause one call at a time passes as a probe, and three good ones close it.

    Args:
        max_pause_s: short, as it is also how long a dependency that is back may go unnoticed; a probe costs one call.
        clock: seconds, monotonic.
    """

    def __init__(self, *, pause_s: float = 1.0, max_pause_s: float = 2.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._first_pause_s, self._max_pause_s, self._clock = pause_s, max_pause_s, clock
        self._pause_s = pause_s
        self._open_until: float | None = None  # None: closed
        self._probe_until = 0.0  # a probe that never reports gives its turn up then
        self._good_probes = 0
        self._in_a_row, self._first_in_a_row, self._first_failed = 0, 0.0, 0.0
        self._calls, self._failures, self._calls_before, self._failures_before = 0, 0, 0, 0
        self._since = clock()

    @property
    def open(self) -> bool:
        """Whether calls are held back, single probes apart."""
        return self._open_until is not None

    def allow(self) -> bool:
        """Whether a call may be made now; whoever is told so reports by `succeeded` or `failed`, unless it was cancelled."""
        if self._open_until is None:
            return True
        now = self._clock()
        if now < self._open_until or now < self._probe_until:
            return False
        self._probe_until = now + self._pause_s
        return True

    def succeeded(self) -> None:
        """A call answered."""
        self._in_a_row = 0
        if self._open_until is None:
            self._count(failed=False)
        elif self._clock() >= self._open_until:  # not an answer that was on its way when it opened
            self._probe_until = 0.0
            self._good_probes += 1
            if self._good_probes >= _PROBES:
                self._open_until, self._pause_s = None, self._first_pause_s
                self._clear()

    def failed(self) -> None:
        """A call failed or was late."""
        now = self._clock()
        if self._open_until is not None:
            if now >= self._open_until:
                self._pause_s = min(self._max_pause_s, 2 * self._pause_s)
                self._open(now)
            return
        if self._in_a_row == 0:
            self._first_in_a_row = now
        self._in_a_row += 1
        self._count(failed=True)
        calls, failures = self._calls + self._calls_before, self._failures + self._failures_before
        in_a_row = self._in_a_row >= _IN_A_ROW and now - self._first_in_a_row >= _LASTING_S
        many = calls >= _LEAST_CALLS and failures >= _FAILED_SHARE * calls and now - self._first_failed >= _LASTING_S
        if in_a_row or many:
            self._open(now)

    def _open(self, now: float) -> None:
        self._open_until, self._probe_until, self._good_probes = now + self._pause_s, 0.0, 0

    def _count(self, *, failed: bool) -> None:
        """Count in two halves of the window, of which the older is forgotten as a whole."""
        now = self._clock()
        if (age := now - self._since) >= _WINDOW_S / 2:
            kept = age < _WINDOW_S
            self._calls_before, self._failures_before = (self._calls, self._failures) if kept else (0, 0)
            self._calls, self._failures, self._since = 0, 0, now
        if failed and self._failures + self._failures_before == 0:
            self._first_failed = now
        self._calls += 1
        self._failures += failed

    def _clear(self) -> None:
        self._in_a_row, self._calls, self._failures = 0, 0, 0
        self._calls_before, self._failures_before = 0, 0
        self._since = self._clock()
