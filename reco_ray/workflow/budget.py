"""Budgets of a job: how long it may take, and what the CPUs may cost that it holds meanwhile."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from reco_ray.errors import NotReadyError

__all__ = ["Bill", "within"]

_LOOK_S = 1.0


class Bill:
    """What a job has cost so far: CPUs that the cluster holds beyond those of its start, and one for the driver.

    What other jobs take on the same cluster meanwhile counts in: a bound on the cost, not an account of it.

    Args:
        reserved: CPUs held now. price: of one for an hour.
    """

    def __init__(self, reserved: Callable[[], float], price: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._reserved, self._price, self._clock = reserved, price, clock
        self._before, self._at = reserved(), clock()
        self.cpu_hours = 0.0

    @property
    def cost(self) -> float:
        """In the currency of the price."""
        return self.cpu_hours * self._price

    def look(self) -> None:
        """Charge the time since the last look at what is held now."""
        now = self._clock()
        try:
            held = max(0.0, self._reserved() - self._before)
        except Exception:  # the cluster is starting or ending: the driver alone
            held = 0.0
        self.cpu_hours += (1.0 + held) * (now - self._at) / 3600
        self._at = now


@contextlib.contextmanager
def within(seconds: float, again_s: float = 10.0, bill: Bill | None = None, max_cost: float = 0.0) -> Iterator[None]:
    """Interrupt the block when its time or its money is spent, by SIGALRM; in another thread than the main one, never.

    Args:
        seconds, max_cost: 0: no such limit.
        again_s: how often it is repeated, as what it interrupts may take it for an error of its own, and go on.
        bill: looked at each second; its cost is right at the end in any case.
    Raises: NotReadyError: it is.
    """
    main = threading.current_thread() is threading.main_thread()
    started, stop, said = time.monotonic(), threading.Event(), ""

    def over(_number: int, _frame: FrameType | None) -> None:
        if not stop.is_set():
            raise NotReadyError(said)

    def watch() -> None:
        nonlocal said
        while not stop.wait(min(_LOOK_S, max(0.001, started + seconds - time.monotonic())) if seconds else _LOOK_S):
            if bill is not None:
                bill.look()
            if seconds and time.monotonic() - started >= seconds:
                said = f"found it unfinished after {seconds:g} s, expected an end; raise retrain.max_wall_s"
            elif max_cost and bill is not None and bill.cost >= max_cost:
                spent = f"{bill.cost:.4g} ({bill.cpu_hours:.4g} CPU-hours)"
                said = f"found it unfinished after {spent}, expected at most {max_cost:g}; raise retrain.max_cost"
            if said:
                said = f"retrain: {said}: finished steps stay"
                break
        while said and main and not stop.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
            stop.wait(again_s)

    before = signal.signal(signal.SIGALRM, over) if main else None
    thread = threading.Thread(target=watch, name="budget", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        if main:
            signal.signal(signal.SIGALRM, before)
        if bill is not None:
            bill.look()
