"""The fence as one gateway replica follows it: users whose events are refused, and who are nobody for a while."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from reco_ray.hashing import user_digest
from reco_ray.store import Fence

__all__ = ["FenceFollower"]

log = logging.getLogger(__name__)


class FenceFollower:
    """Follows the fence; while the store is away the one read last stays up.

    Args:
        poll: `store.FenceStore.poll` with the replica as reader; whatever it raises means the store is away.
        interval_s: between polls. What is read by one poll is said to be in force by the next.
    """

    def __init__(self, poll: Callable[[], Awaitable[Fence]], interval_s: float = 1.0) -> None:
        self._poll, self._interval_s = poll, interval_s
        self._fence = Fence()
        self._store_answers = True

    def drops(self, user: str, ts_us: int, received_us: int) -> bool:
        """As `store.Fence.drops`."""
        return bool(self._fence.entries) and self._fence.drops(user, ts_us, received_us)

    def hides(self, user_id: str) -> bool:
        """Whether requests of a user (id) are those of nobody just now: what is known of them is being erased."""
        return bool(self._fence.entries) and self._fence.running(user_digest(user_id))

    async def run(self) -> None:
        """Follow until cancelled; no error ends it."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._interval_s)

    async def refresh(self) -> None:
        """Read it once."""
        try:
            self._fence = await self._poll()
        except Exception as exc:
            if self._store_answers:
                log.warning("the fence cannot be read (%s); the one read last stays up", type(exc).__name__)
            self._store_answers = False
        else:
            self._store_answers = True
