"""What a bandit has learned reaches a replica: it follows the evidence in the online store, and keeps what it read last."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from reco_ray.serve.path.looking import Looks
from reco_ray.slate import LearningStage
from reco_ray.store import BanditState, BanditStore, OnlineStore

__all__ = ["INTERVAL_S", "Evidences", "ExploreMetrics", "LearningFollower", "keep_learning"]

INTERVAL_S = 1.0
_WANT_EVERY_S = 3_600.0


class ExploreMetrics(Protocol):
    """Where it is counted what is drawn; `monitoring.metrics.serving.ExploreMetrics` in production."""

    def drawn(self, places: Mapping[str, int]) -> None:
        """So many places were drawn from each source since the last call."""


class Evidences(Protocol):
    """The part of `store.BanditStore` that is needed."""

    def read(self) -> BanditState:
        """What the store holds."""

    def want(self, now_s: float) -> None:
        """Say that it is learned from."""


class LearningFollower:
    """Hands over the evidence as it changes, and lets the streams know that somebody reads it."""

    def __init__(
        self, store: Evidences, stage: LearningStage, metrics: ExploreMetrics, clock: Callable[[], float] = time.time
    ) -> None:
        self._store, self._stage, self._metrics, self._clock = store, stage, metrics, clock
        self._seen: tuple[bytes, ...] = ()
        self._looks = Looks("a bandit's choices")

    def look(self) -> None:
        """Catch up where that is possible; what fails is said once, and tried again by the next look."""
        self._metrics.drawn(self._stage.drawn_from())
        self._looks.once(self._catch_up)

    def _catch_up(self) -> None:
        found, now_s = self._store.read(), self._clock()
        if now_s - found.wanted_s > _WANT_EVERY_S:
            self._store.want(now_s)
        if found.parts != self._seen:
            self._stage.learn(found.parts)
            self._seen = found.parts


def keep_learning(stage: object, store_url: str, namespace: str, metrics: ExploreMetrics) -> threading.Event:
    """Let a stage choose by what was learned until the returned event is set; one that does not learn stays as it is.

    While the store is away it chooses by what was read last, and before that among its sources alike.
    """
    stop = threading.Event()
    if not store_url or not isinstance(stage, LearningStage) or not stage.learns:
        return stop
    store = OnlineStore(store_url, namespace)
    follower = LearningFollower(BanditStore(store), stage, metrics)
    follower.look()

    def run() -> None:
        while not stop.wait(INTERVAL_S):
            follower.look()
        store.blocking_calls.close()

    threading.Thread(target=run, name="bandit", daemon=True).start()
    return stop
