"""Looks at the online store from time to time: what fails is said once, until one succeeds again."""

import logging
from collections.abc import Callable

from reco_ray.errors import RecoError

__all__ = ["Looks"]

log = logging.getLogger(__name__)


class Looks:
    """Looks of one kind. ``what`` stays as it is where they fail."""

    def __init__(self, what: str) -> None:
        self._what, self._answers = what, True

    def once(self, catch_up: Callable[[], None]) -> None:
        """Catch up where that is possible; no error leaves."""
        try:
            catch_up()
            self._answers = True
        except RecoError as exc:
            self._failed(f": {exc}", unforeseen=False)
        except Exception:
            self._failed("", unforeseen=True)

    def _failed(self, why: str, *, unforeseen: bool) -> None:
        if self._answers:
            log.warning("%s stay as they are%s", self._what, why, exc_info=unforeseen)
        self._answers = False
