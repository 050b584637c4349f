"""Live items reach a replica: it follows their changes in the online store, from all there are on."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from reco_ray.serve.path.looking import Looks
from reco_ray.slate import LiveStage
from reco_ray.store import Cursor, ItemChanges, ItemStore, LiveItem, OnlineStore

__all__ = ["INTERVAL_S", "ItemFollower", "ItemMetrics", "keep_items_live"]

INTERVAL_S = 0.5


class ItemMetrics(Protocol):
    """Where it is counted how items come; `monitoring.metrics.serving.ItemMetrics` in production."""

    def taken(self, lags_s: Sequence[float]) -> None:
        """Changes are in force here, so many seconds after they were made."""

    def unknown(self, candidates: int) -> None:
        """So many more candidates were passed over, because their items were not known yet."""


class ItemFollower:
    """Hands over the changes of live items in order, each once. From one thread at a time; others wait.

    Args:
        since: `store.ItemStore.since`. take: called with changes.
        metrics: told of what comes after the first look: that is what was there when this replica came.
    """

    def __init__(
        self,
        since: Callable[[Cursor], ItemChanges],
        take: Callable[[Sequence[LiveItem]], None],
        metrics: ItemMetrics,
    ) -> None:
        self._since, self._take, self._metrics = since, take, metrics
        self._cursor, self._lock, self._looks = Cursor(), threading.Lock(), Looks("live items")
        self.complete = False

    def catch_up(self) -> None:
        """Take all that there is; ``complete`` from then on.

        Raises: NotReadyError: the store is away; what was taken is in force, and the next call goes on from there.
        """
        with self._lock:
            more = True
            while more:
                changes = self._since(self._cursor)
                read = time.monotonic()
                if changes.items:
                    self._take(changes.items)
                    late = changes.now + time.monotonic() - read
                    if self.complete:
                        self._metrics.taken([late - change.changed for change in changes.items])
                self._cursor, more = changes.cursor, changes.more
            self.complete = True

    def look(self) -> None:
        """Catch up where that is possible; what fails is said once, and tried again by the next look."""
        self._looks.once(self.catch_up)


def keep_items_live(stages: Sequence[object], store_url: str, namespace: str, metrics: ItemMetrics) -> threading.Event:
    """Let stages know all live items, and then those that come, until the returned event is set.

    Those that are no `slate.LiveStage` stay as they are.

    Raises: NotReadyError: the store is away, so that it is not known which items must not be shown.
    """
    stop = threading.Event()
    live = [stage for stage in stages if isinstance(stage, LiveStage)]
    if not store_url or not live:
        return stop
    store = OnlineStore(store_url, namespace)

    def take(changes: Sequence[LiveItem]) -> None:
        for stage in live:
            stage.follow(changes)

    follower = ItemFollower(ItemStore(store).since, take, metrics)
    follower.catch_up()

    def run() -> None:
        passed = 0
        while not stop.wait(INTERVAL_S):
            follower.look()
            now = sum(stage.unknown for stage in live)
            if now > passed:
                metrics.unknown(now - passed)
            passed = now
        store.blocking_calls.close()

    threading.Thread(target=run, name="live items", daemon=True).start()
    return stop
