"""The gate of one gateway replica: follows the keys in the online store and lets requests pass or not.

A key that is made or revoked counts within about a second. While the store is away the last keys read stay in force;
before any were read nobody passes.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from reco_ray.serve.guard.keys import KeyRing
from reco_ray.serve.guard.limits import RateLimits
from reco_ray.serve.http import problems
from reco_ray.serve.http.problems import HttpProblem
from reco_ray.store import KeyRecord, Scope

__all__ = ["Gate", "GateMetrics"]

log = logging.getLogger(__name__)


class GateMetrics(Protocol):
    """Where refusals are counted."""

    def rejected(self, reason: str) -> None:
        """A request was refused as ``unauthorized``, ``forbidden`` or ``rate_limited``."""


class Gate:
    """Admits requests by the keys last read.

    Args:
        poll: reads the keys, and returns the same tuple while they are the same; whatever it raises means the store is away.
        rate, burst: requests per second, and at once, of a key that names none.
        clock: seconds since 1970, for the ends of keys.
        interval_s: between polls.
    """

    def __init__(
        self,
        poll: Callable[[], Awaitable[tuple[KeyRecord, ...]]],
        *,
        rate: float,
        burst: int,
        metrics: GateMetrics | None = None,
        limits: RateLimits | None = None,
        clock: Callable[[], float] = time.time,
        interval_s: float = 1.0,
    ) -> None:
        self._poll, self._rate, self._burst, self._metrics = poll, rate, burst, metrics
        self._limits, self._clock, self._interval_s = limits or RateLimits(), clock, interval_s
        self._records: tuple[KeyRecord, ...] | None = None
        self._ring: KeyRing | None = None
        self._store_answers = True

    @property
    def ready(self) -> bool:
        """Whether the keys were read at least once."""
        return self._ring is not None

    def admit(self, header: bytes | None, scope: Scope) -> str:
        """Return the id of the key that ``Authorization: {header}`` holds.

        Raises: HttpProblem: as `KeyRing.admit`, or ``not-ready`` (503) before the keys were read.
        """
        if self._ring is None:
            raise problems.not_ready("the API keys have not been read from the online store yet; try again")
        try:
            return self._ring.admit(header, scope, self._clock())
        except HttpProblem as exc:
            if self._metrics is not None:
                self._metrics.rejected(exc.kind.replace("-", "_"))
            raise

    async def run(self) -> None:
        """Follow the keys until cancelled; no error ends it."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._interval_s)

    async def refresh(self) -> None:
        """Read the keys once."""
        try:
            records = await self._poll()
            if records is not self._records:
                self._ring = KeyRing(records, self._limits, rate=self._rate, burst=self._burst)
                self._records = records
                log.info("%d API keys", len(records))
        except Exception as exc:
            if self._store_answers:
                log.warning("the API keys cannot be read (%s); those read last stay in force", type(exc).__name__)
            self._store_answers = False
        else:
            self._store_answers = True
