"""The releases that one gateway replica can send requests to, and which user goes to which.

The traffic record says what should run; this follows it. A release that appears is connected and warmed in the background
before it gets a request; one that is named without being loaded yet lends its users to the release with most traffic.
While the store is away, the last record stays in force.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from reco_ray.errors import NotReadyError
from reco_ray.hashing import unit_interval, user_digest
from reco_ray.rollout.variants import CANARY, HOLDOUT, MAIN, OVERRIDE
from reco_ray.serve.guard.breaker import Breaker
from reco_ray.serve.path.pipeline import Stages
from reco_ray.slate import PopularList
from reco_ray.store import Traffic

__all__ = ["Assigned", "Connected", "Fleet", "Route", "choose"]

log = logging.getLogger(__name__)

Connected = tuple[Stages[Any, Any, Any], PopularList | None]

_MAX_BACKOFF_S = 10.0
_LINGER_S = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """A loaded release: its stages with a breaker for each, its popular list, and the user view its models were trained on."""

    release: str
    user_view: str
    stages: Stages[Any, Any, Any]
    popular: PopularList | None = None
    breakers: Mapping[str, Breaker] = field(
        default_factory=lambda: {stage: Breaker() for stage in ("recall", "rank", "rerank")}
    )


@dataclass(frozen=True, slots=True, eq=False)
class Assigned:
    """Who answers a request, and by which way; ``popular``: with the popular list, and nothing that was trained."""

    route: Route
    variant: str
    popular: bool = False


def choose(traffic: Traffic, key: str) -> str:
    """Return the release that ``key`` (a user) belongs to.

    Depends only on the key, the weights and the salt: a stable point in [0, 1) falls into one share. Shares lie in the order of
    release ids, so that with two releases a change of weights moves only the users whose share changed hands.

    Raises: ValueError: no release has any weight.
    """
    live = [(release, weight) for release, weight in sorted(traffic.weights.items()) if weight > 0]
    if not live:
        raise ValueError("no release has any traffic")
    if len(live) > 1:
        point, border = unit_interval(key, traffic.salt), 0.0
        for release, weight in live:
            border += weight
            if point < border:
                return release
    return live[-1][0]


class Fleet:
    """Follows the traffic record.

    Args:
        poll: reads the record; whatever it raises means that the store is away.
        connect: makes a release's stages and warms them, and reads its popular list; slow, and called once per release.
        interval_s: between polls.
    """

    def __init__(
        self,
        poll: Callable[[], Awaitable[Traffic]],
        connect: Callable[[str], Awaitable[Connected]],
        interval_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._poll, self._connect, self._interval_s, self._clock = poll, connect, interval_s, clock
        self._routes: dict[str, Route] = {}
        self._main: Route | None = None
        self._retry_at: dict[str, tuple[float, float]] = {}  # release -> (time, pause) after a failed connect
        self._loading: dict[str, asyncio.Task[None]] = {}
        self.traffic = Traffic()
        self.store_answers = False

    @property
    def loaded(self) -> list[str]:
        """Releases that can answer now, sorted."""
        return sorted(self._routes)

    @property
    def stages(self) -> dict[str, Stages[Any, Any, Any]]:
        """The stages of the releases that can answer now."""
        return {release: route.stages for release, route in self._routes.items()}

    @property
    def main(self) -> str:
        """The loaded release with most traffic; empty when nothing is loaded."""
        return self._main.release if self._main else ""

    def missing(self) -> list[str]:
        """Releases that should get traffic and are not loaded, sorted."""
        return sorted(r for r, weight in self.traffic.weights.items() if weight > 0 and r not in self._routes)

    def assign(self, user_id: str, other: str) -> Assigned:
        """Return who answers a user: as their override says, else their holdout, else their share.

        Args:
            other: what falls to a share where nobody is known.
        Raises: NotReadyError: no release is loaded.
        """
        route = self.route(user_id or other)
        traffic, main = self.traffic, self._main or route
        if user_id and traffic.overrides and (named := self._named(traffic.overrides.get(user_digest(user_id)))):
            return Assigned(named, OVERRIDE)
        holdout = traffic.holdout
        if user_id and holdout is not None and unit_interval(user_id, f"{HOLDOUT} {holdout.salt}") < holdout.share:
            return Assigned(self._routes.get(holdout.release, main), HOLDOUT, holdout.popular)
        return Assigned(route, MAIN if route is main else CANARY)

    def _named(self, to: str | None) -> Route | None:
        """The release that an override means: ``canary`` is the one with less traffic, or in the shadow."""
        if to == MAIN:
            return self._main
        if to == CANARY:
            weights, shadow = self.traffic.weights, self.traffic.shadow
            less = sorted((weight, release) for release, weight in weights.items() if weight > 0 and release != self.main)
            to = less[0][1] if less else shadow.release if shadow is not None else None
        return self._routes.get(to) if to else None

    def route(self, key: str) -> Route:
        """Return the release that answers ``key``.

        Raises: NotReadyError: none is loaded.
        """
        if self._main is None:
            if not self.traffic.weights:
                raise NotReadyError("no release gets traffic; deploy one with jobs/deploy_release.py")
            raise NotReadyError(f"release {', '.join(self.missing())} is being loaded; try again")
        if len(self._routes) == 1 or not self.traffic.weights:
            return self._main
        return self._routes.get(choose(self.traffic, key), self._main)

    def loaded_route(self, release: str) -> Route | None:
        """A release by its name; None where it is not loaded."""
        return self._routes.get(release)

    def check_health(self) -> None:
        """Raise when the stages of a release cannot run in this process any more."""
        for route in self._routes.values():
            route.stages.check_health()

    async def run(self) -> None:
        """Follow the record until cancelled; no error ends it."""
        while True:
            try:
                await self.refresh()
            except Exception:
                log.exception("following the traffic record failed; trying again")
            await asyncio.sleep(self._interval_s)

    async def refresh(self) -> None:
        """Read the record once, load what is new, drop what has gone."""
        try:
            traffic = await self._poll()
        except Exception as exc:
            if self.store_answers:
                log.warning("the online store does not answer (%s); the last traffic record stays", type(exc).__name__)
            self.store_answers = False
        else:
            self.store_answers = True
            if traffic.version != self.traffic.version:
                log.info("traffic record %d: %s", traffic.version, dict(traffic.weights))
                self.traffic = traffic
                self._retry_at.clear()  # whoever wrote it may have mended what failed
        for release in self.traffic.weights:
            due = self._clock() >= self._retry_at.get(release, (0.0, 0.0))[0]
            if due and release not in self._routes and release not in self._loading:
                # in a task of its own: a release that hangs must not hold up a rollback
                self._loading[release] = asyncio.create_task(self._load(release))
        self._settle()

    async def load_now(self, timeout_s: float) -> None:
        """Read the record and wait until what it names is loaded or has failed, at most ``timeout_s``."""
        await self.refresh()
        if self._loading:
            await asyncio.wait(self._loading.values(), timeout=timeout_s)

    async def _load(self, release: str) -> None:
        started = time.monotonic()
        try:
            stages, popular = await self._connect(release)
        except Exception as exc:
            pause = min(_MAX_BACKOFF_S, 2 * self._retry_at.get(release, (0.0, 0.25))[1])
            self._retry_at[release] = (self._clock() + pause, pause)
            log.warning("release %s cannot be loaded, next try in %.1f s: %s: %s", release, pause, type(exc).__name__, exc)
            return
        finally:
            self._loading.pop(release, None)
        self._retry_at.pop(release, None)
        view = self.traffic.user_views.get(release)
        if view is None:
            return  # not named any more
        self._routes[release] = Route(release, view, stages, popular)
        log.info("release %s is loaded and warm after %.1f s", release, time.monotonic() - started)
        self._settle()

    def _settle(self) -> None:
        """Choose the main release; let go of releases that are not named any more, once one that is named can answer."""
        weights = self.traffic.weights
        named = [release for release in self._routes if release in weights]
        if not named:
            return
        self._main = self._routes[max(named, key=lambda release: (weights[release], release))]
        if weights[self._main.release] > 0:
            for release in set(self._routes) - set(weights):
                gone = self._routes.pop(release)
                # requests that are on their way through its stages end first
                asyncio.get_running_loop().call_later(_LINGER_S, gone.stages.close)
                log.info("release %s was let go", release)
