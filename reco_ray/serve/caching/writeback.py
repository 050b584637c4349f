"""Writes to the online store behind the answers: gathered, so that a store which syncs each write does so once for many."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from reco_ray.store import FinishedSlate, Precomputed

__all__ = ["Writeback"]

log = logging.getLogger(__name__)

Served = tuple[str, NDArray[np.uint64]]
Write = Callable[
    [Sequence[tuple[str, str, FinishedSlate]], Sequence[tuple[str, Precomputed]], Sequence[Served]], Awaitable[int]
]


class Writeback:
    """Gathers slates and writes them in one round trip per pause. They are copies: what cannot be written is dropped.

    Args:
        write: `store.SlateStore.write`.
        most: slates waiting at one time; more are dropped.
    """

    def __init__(self, write: Write, pause_s: float = 0.05, most: int = 1000) -> None:
        self._write, self._pause_s, self._most = write, pause_s, most
        self._slates: dict[tuple[str, str], FinishedSlate] = {}
        self._precomputed: dict[str, Precomputed] = {}
        self._served: list[Served] = []
        self._some = asyncio.Event()
        self.written = self.dropped = 0

    def slate(self, user: str, field: str, slate: FinishedSlate) -> None:
        """Write a finished answer soon.

        Args:
            user: `hashing.user_digest`.
        """
        if self._fits():
            self._slates[user, field] = slate

    def precomputed(self, user: str, slate: Precomputed) -> None:
        """Write a precomputed slate soon."""
        if self._fits():
            self._precomputed[user] = slate

    def served(self, user: str, keys: NDArray[np.uint64]) -> None:
        """Remember soon that a user was served items of these keys; arguments as `slate`."""
        if self._fits():
            self._served.append((user, keys))

    async def run(self) -> None:
        """Write until cancelled; no error ends it."""
        while True:
            await self._some.wait()
            await asyncio.sleep(self._pause_s)
            await self.flush()

    async def flush(self) -> None:
        """Write what waits; what the store does not take is dropped and counted."""
        slates = [(user, field, slate) for (user, field), slate in self._slates.items()]
        precomputed = list(self._precomputed.items())
        served = self._served
        self._slates, self._precomputed, self._served = {}, {}, []
        self._some.clear()
        taken = 0
        try:
            taken = await self._write(slates, precomputed, served) if slates or precomputed or served else 0
        except Exception as exc:
            log.debug("slates could not be written: %s: %s", type(exc).__name__, exc)
        self.written += taken
        self.dropped += len(slates) + len(precomputed) + len(served) - taken

    def _fits(self) -> bool:
        if len(self._slates) + len(self._precomputed) + len(self._served) >= self._most:
            self.dropped += 1
            return False
        self._some.set()
        return True
