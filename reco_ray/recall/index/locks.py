"""A lock that many readers share and one writer has to itself."""

import contextlib
import threading
from collections.abc import Iterator

__all__ = ["SharedLock"]


class SharedLock:
    """Searches read together, a change is alone. A waiting writer goes before readers that come later; it is not re-entrant."""

    def __init__(self) -> None:
        self._state = threading.Condition()
        self._readers, self._writing, self._waiting = 0, False, 0

    @contextlib.contextmanager
    def read(self) -> Iterator[None]:
        """Hold together with other readers."""
        with self._state:
            self._state.wait_for(lambda: not self._writing and not self._waiting)
            self._readers += 1
        try:
            yield
        finally:
            with self._state:
                self._readers -= 1
                self._state.notify_all()

    @contextlib.contextmanager
    def write(self) -> Iterator[None]:
        """Hold alone."""
        with self._state:
            self._waiting += 1
            self._state.wait_for(lambda: not self._writing and not self._readers)
            self._waiting -= 1
            self._writing = True
        try:
            yield
        finally:
            with self._state:
                self._writing = False
                self._state.notify_all()
