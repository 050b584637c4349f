"""Waking a release whose stages have no replica: one call per stage that stays open until somebody answers it.

Serve starts the first replica when a call waits at none, but sees the waiting calls once a second only; a request that gives up
after its share of 150 ms leaves no trace. And the stages would wake one after the other, as each waits for the one before.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

__all__ = ["Waker"]

log = logging.getLogger(__name__)

_QUIET_S = 5.0  # far below any time after which a stage is let go to zero, so that one at zero is always quiet


class Waker:
    """Knocks at all stages of one release when one of them is called that has not answered for a while.

    A knock at a stage that is awake returns at once and costs a call without arguments; at most one per stage is open.

    Args:
        knocks: per stage, a call that any replica answers; however long it waits.
        clock: monotonic seconds.
    """

    def __init__(
        self, knocks: Mapping[str, Callable[[], Awaitable[None]]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._knocks, self._clock = knocks, clock
        self._answered: dict[str, float] = {}
        self._open: dict[str, asyncio.Task[None]] = {}

    def calling(self, stage: str) -> None:
        """Note that ``stage`` is about to be called."""
        if self._clock() - self._answered.get(stage, -_QUIET_S) >= _QUIET_S:
            self.wake()

    def answered(self, stage: str) -> None:
        """Note that ``stage`` answered."""
        self._answered[stage] = self._clock()

    def wake(self) -> None:
        """Knock wherever no knock is open."""
        for stage in self._knocks:
            if stage not in self._open:
                self._open[stage] = asyncio.get_running_loop().create_task(self._knock(stage))

    async def _knock(self, stage: str) -> None:
        try:
            await self._knocks[stage]()
        except Exception as exc:  # the release was taken away, or its replica died: the next call knocks again
            log.info("a knock at %s was not answered: %s: %s", stage, type(exc).__name__, exc)
        else:
            self.answered(stage)
        finally:
            del self._open[stage]
