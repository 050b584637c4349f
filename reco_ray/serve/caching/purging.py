"""Purges that others ordered reach this replica's cache."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from reco_ray.serve.caching.cache import SlateCache
from reco_ray.serve.caching.refresh import Refresher
from reco_ray.store import Purges

__all__ = ["PurgeFollower"]

log = logging.getLogger(__name__)


class PurgeFollower:
    """Follows the list of purges in the online store; while that is away nothing new can be ordered.

    Args:
        since: `store.SlateStore.purges_since`.
        told: called after each look, also one that failed.
    """

    def __init__(
        self,
        since: Callable[[str], Awaitable[Purges]],
        cache: SlateCache,
        refresher: Refresher,
        told: Callable[[], None] = lambda: None,
        interval_s: float = 1.0,
    ) -> None:
        self._since, self._cache, self._refresher = since, cache, refresher
        self._told, self._interval_s = told, interval_s
        self._last_id = ""

    async def run(self) -> None:
        """Follow until cancelled; no error ends it."""
        while True:
            try:
                await self.refresh()
            except Exception as exc:
                log.debug("purges could not be read: %s: %s", type(exc).__name__, exc)
            self._told()
            await asyncio.sleep(self._interval_s)

    async def refresh(self) -> None:
        """Look once, and drop what was purged."""
        found = await self._since(self._last_id)
        self._last_id = found.last_id
        if found.everything:
            self._cache.purge()
        for user in found.users:
            self.purge_user(user)
        for release in found.releases:
            self._cache.purge_release(release)

    def purge_user(self, user: str) -> None:
        """Drop what is a user's (digest) here; who has just ordered it need not wait for the next look."""
        self._cache.purge_user(user)
        self._refresher.forget(user)
