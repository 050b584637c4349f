"""Back-pressure: whether the gateway may take events just now, by how far the sink is behind."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

from reco_ray.errors import NotReadyError
from reco_ray.events.bus import EVENTS, LAKE

__all__ = ["EventsRefused", "LagMetrics", "LagWatch", "Lags"]

log = logging.getLogger(__name__)

_LAG_RETRY_S = 5


class EventsRefused(NotReadyError):
    """A batch cannot be taken now; none of it is acknowledged, and the same batch may be sent again.

    Attributes:
        reason: ``bus``, ``lag`` or ``busy``.
        retry_after_s: when to try again.
    """

    def __init__(self, reason: str, detail: str, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.reason, self.retry_after_s = reason, retry_after_s


class Lags(Protocol):
    """The part of `events.bus.Producer` that is needed."""

    async def lags(self, topic: str, reader: str) -> Mapping[int, int]:
        """Records of each partition that ``reader`` has not committed."""


class LagMetrics(Protocol):
    """Where the lag is shown."""

    def lag(self, partition: int, records: int) -> None:
        """So many records of a partition wait for the sink."""


class LagWatch:
    """Follows the lag. While the bus does not say it, the last value stands: whether the bus takes records its answer tells.

    Args:
        max_lag: of one partition.
        interval_s: between questions.
    """

    def __init__(self, bus: Lags, max_lag: int, metrics: LagMetrics, interval_s: float = 1.0) -> None:
        self._bus, self._max_lag, self._metrics, self._interval_s = bus, max_lag, metrics, interval_s
        self._lags: Mapping[int, int] = {}
        self._answers = True

    def check(self) -> None:
        """Pass while the sink keeps up.

        Raises: EventsRefused: a partition is too far behind.
        """
        lag = max(self._lags.values(), default=0)
        if lag > self._max_lag:
            detail = f"found {lag} events waiting for the lake, expected at most {self._max_lag}; send the batch again later"
            raise EventsRefused("lag", detail, _LAG_RETRY_S)

    async def run(self) -> None:
        """Follow until cancelled; no error ends it."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._interval_s)

    async def refresh(self) -> None:
        """Ask once."""
        try:
            self._lags = await self._bus.lags(EVENTS, LAKE)
        except Exception as exc:
            if self._answers:
                log.warning("the bus does not say its lag (%s: %s); the last one stands", type(exc).__name__, exc)
            self._answers = False
            return
        self._answers = True
        for partition, records in self._lags.items():
            self._metrics.lag(partition, records)
