"""Whether the features that requests read hold the events of the last seconds, by user view and partition of the bus."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from reco_ray.events.bus import partition_of
from reco_ray.features import VIEWS

__all__ = ["Freshness", "FreshnessMetrics"]

log = logging.getLogger(__name__)

_LIMIT_S = {view.name: view.freshness_s for view in VIEWS}


class FreshnessMetrics(Protocol):
    """Where ages go."""

    def fresh(self, view: str, age_s: float) -> None:
        """The features of a view lack events of so many seconds, in the partition that is furthest behind."""


class Freshness:
    """Follows how far the streams have come.

    A view that no stream keeps is as it was published and never late; while the store is away the last word stays.

    Args:
        read: view -> time up to which all events are in its features, seconds since 1970, by partition; None where no stream
            keeps it.
        views: the user views that requests read.
    """

    def __init__(
        self,
        read: Callable[[str], Awaitable[Sequence[float | None]]],
        views: Callable[[], set[str]],
        metrics: FreshnessMetrics,
        interval_s: float = 2.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._read, self._views, self._metrics, self._interval_s, self._clock = read, views, metrics, interval_s, clock
        self._late: dict[str, tuple[bool, ...]] = {}
        self._store_answers = True

    def late(self, view: str, user_id: str) -> bool:
        """Whether a user's features lack events that came longer ago than the view's limit."""
        late = self._late.get(view, ())
        return any(late) and late[partition_of(user_id, len(late))]

    async def run(self) -> None:
        """Follow until cancelled; no error ends it."""
        while True:
            try:
                await self.refresh()
                self._store_answers = True
            except Exception as exc:
                if self._store_answers:
                    log.warning("how fresh the features are is not known: %s: %s", type(exc).__name__, exc)
                self._store_answers = False
            await asyncio.sleep(self._interval_s)

    async def refresh(self) -> None:
        """Look once."""
        found = {}
        for view in sorted(self._views()):
            until, now = await self._read(view), self._clock()
            ages = [0.0 if each is None else max(0.0, now - each) for each in until]
            found[view] = tuple(age > _LIMIT_S["user"] for age in ages)
            if any(each is not None for each in until):
                self._metrics.fresh(view, max(ages))
            if any(found[view]) != any(self._late.get(view, ())):
                self._tell(view, max(ages))
        self._late = found

    def _tell(self, view: str, age_s: float) -> None:
        limit_s = _LIMIT_S["user"]
        if age_s > limit_s:
            log.error(
                "features of view %s: found them %.0f s behind, expected at most %.0f s; look at `reco features status`",
                *(view, age_s, limit_s),
            )
        else:
            log.info("features of view %s are fresh again", view)
