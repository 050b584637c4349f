"""What the gateway does with a request, apart from HTTP and Ray.

Pick the release, look into the cache, read the user, run the stages, and where they fail go down the ladder.
"""

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from reco_ray.errors import NotReadyError
from reco_ray.rerank.bandit import drawn_in
from reco_ray.rollout.variants import APART, HOLDOUT
from reco_ray.rules import NO_RULES, Standing
from reco_ray.serve.caching.cache import SlateCache
from reco_ray.serve.caching.cache_key import SlateKey, cache_key
from reco_ray.serve.caching.withdrawn import Withdrawn
from reco_ray.serve.guard.admission import Admission
from reco_ray.serve.guard.breaker import Breaker
from reco_ray.serve.http import cursors, problems
from reco_ray.serve.http.answers import Answer, Asked, caller_order, finish, rank_request, recommend_request, similar_request
from reco_ray.serve.http.contract import (
    Context,
    RankBody,
    ReadinessAnswer,
    RecommendationsBody,
    ReleaseAnswer,
    ReleasesAnswer,
    SimilarItemsBody,
)
from reco_ray.serve.path.fleet import Assigned, Fleet, Route
from reco_ray.serve.path.ladder import Ladder, PrecomputedSlates, rung_of
from reco_ray.serve.path.pipeline import Deadline, Observer, Run, StageFailed, run_stages
from reco_ray.store import NO_FLAGS, NO_INTERESTS, NOT_SERVED, RANKER, FinishedSlate, Flags, Interests
from reco_ray.types import EMPTY_USER, Request, Slate, UserRow

__all__ = ["GatewayService", "Store"]

B = TypeVar("B", RecommendationsBody, RankBody)


class Store(PrecomputedSlates, Protocol):
    """The part of the online store that a request needs."""

    async def user_and_slate(
        self, user_id: str, view: str, field: str
    ) -> tuple[UserRow, FinishedSlate | None, Interests, NDArray[np.uint64]]:
        """Read a user's row, the slate that another replica made for the same request, the interests that count, and keys of
        the items served lately."""

    async def alive(self) -> bool:
        """Whether the store answers."""


class GatewayService:
    """Answers the calls of /v1.

    Args:
        topology: shown in ``GET /v1/releases``.
        replica: names this process in ``/readyz``, so that a deployer can tell replicas apart.
        usual_s: budget of a request that names none; who gives less than half of it is in a hurry, and what is late for them
            is not shared with others, nor held against the stages.
        hides: whether a user's requests are those of nobody just now.
        unprofiled: whether requests of a surface and a context are those of nobody.
        withdrawn: items that no answer may hold, whatever it comes from.
        items_known: whether those are known; until then this replica is not ready.
        rules: version of the rules in force, and how many starts and ends of campaigns lie behind. standing: the rules.
        flags: what is switched off.
        late: whether the features of a view lack a user's events of the last seconds.
        mirror: told of each request that stages answered, with the view of its user's row, the slate, and whether a ranker
            had a part in it; does nothing that takes time.
    """

    def __init__(
        self,
        store: Store,
        fleet: Fleet,
        cache: SlateCache,
        observer: Observer,
        admission: Admission,
        *,
        topology: str,
        replica: str,
        usual_s: float = 0.0,
        hides: Callable[[str], bool] = lambda _: False,
        unprofiled: Callable[[str, Context], bool] = lambda _, __: False,
        late: Callable[[str, str], bool] = lambda _, __: False,
        withdrawn: Withdrawn | None = None,
        items_known: Callable[[], bool] = lambda: True,
        rules: Callable[[], tuple[int, int]] = lambda: (0, 0),
        standing: Callable[[], Standing] = lambda: NO_RULES,
        mirror: Callable[[Request, str, Slate, bool], None] = lambda *_: None,
        flags: Callable[[], Flags] = lambda: NO_FLAGS,
    ) -> None:
        self._store, self._fleet, self._cache, self._observer, self._admission = store, fleet, cache, observer, admission
        self._topology, self._replica, self._usual_s = topology, replica, usual_s
        self._hides, self._unprofiled, self._late = hides, unprofiled, late
        self._withdrawn, self._items_known = Withdrawn() if withdrawn is None else withdrawn, items_known
        self._rules, self._flags, self._mirror = rules, flags, mirror
        self._ladder = Ladder(cache, store, self._withdrawn, standing, flags)
        self._store_breaker = Breaker()
        self._keys = cursors.SlateKeys()

    async def recommend(self, body: RecommendationsBody, request_id: str, budget_s: float) -> Answer:
        """Answer ``/v1/recommendations``.

        Raises: HttpProblem: the cursor is not this user's or too old, nothing is loaded, overload, or no rung of the ladder has
            anything.
        """
        body = self._seen_by(body)
        shown = cursors.read(body.cursor, body.user_id, time.time()) if body.cursor else cursors.NOTHING_SHOWN
        to, run = self._start(body.user_id, request_id, budget_s)
        route, variant = to.route, to.variant
        (version, phase), flags = self._rules(), self._flags().version
        of = f"{variant}.popular" if to.popular else variant
        of = f"{of}.{version}.{phase}" if version else of
        key = cache_key(body, route.release, f"{of}.f{flags}" if flags else of, shown)
        asked = Asked(body.user_id, body.surface, body.context, body.consent)

        async def make() -> FinishedSlate:
            return await self._make(to, body, request_id, key, run, asked, shown)

        try:
            found = await self._cache.answer(key, make, run.deadline.left("answer"), hasty=run.hasty)
        except TimeoutError as exc:
            slate = self._ladder.at_once(
                route, recommend_request(body, request_id, shown=shown), variant, ["late", *self._refusal(body)], key
            )
            if slate is None:
                raise problems.stage_failed("the answer", "late") from exc
            asked = Asked(body.user_id, body.surface, body.context, body.consent)  # the other one is still being written to
            return Answer(request_id, slate, variant, asked=asked, next_cursor=self._next(slate, shown, body.user_id))
        slate = self._withdrawn.out_of(found.slate)  # the stages may not have heard yet
        timings, cursor = run.taken() if found.how == "made" else {}, self._next(found.slate, shown, body.user_id)
        return Answer(request_id, slate, variant, timings, found.how, asked, cursor)

    async def similar(self, body: SimilarItemsBody, request_id: str, budget_s: float) -> Answer:
        """Answer ``/v1/similar-items``.

        Raises: HttpProblem: as `recommend`, or the release does not know the item.
        """
        to, run = self._start("", body.item_id, budget_s)
        route, variant = to.route, to.variant
        request = similar_request(body, request_id)
        asked = Asked()
        slate = await self._live(route, variant, request, run, [], None, None, asked, explain=False)
        if "unknown_item" in slate.degraded:
            raise problems.unknown_item(body.item_id)
        return Answer(request_id, self._withdrawn.out_of(slate), variant, run.taken(), asked=asked)

    async def rank(self, body: RankBody, request_id: str, budget_s: float) -> Answer:
        """Answer ``/v1/rank``; where recall or rerank gives nothing, in the caller's own order.

        Raises: HttpProblem: nothing is loaded.
        """
        body = self._seen_by(body)
        to, run = self._start(body.user_id, request_id, budget_s)
        route, variant = to.route, to.variant
        user, _, interests, _, marks = await self._user(body.user_id, route, "", run)
        marks += [*self._lateness(body.user_id, user, route), *self._refusal(body)]
        asked = Asked(body.user_id, body.surface, body.context, body.consent)
        request = rank_request(body, request_id, user, interests, _now_us())
        if to.popular or not self._admission.enter():
            found, marks, rung = caller_order(request), [*marks, HOLDOUT if to.popular else "overloaded"], "caller_order"
        else:
            try:
                flags = self._flags()
                outcome = await run_stages(route.stages, request, run, ranker=RANKER not in flags.off)
                asked.user_view, asked.user = route.user_view, request.user
                found, marks = outcome.slate, [*marks, *outcome.degraded, *flags.marks]
                rung = rung_of([*marks, *found.degraded])
            except StageFailed as exc:
                found, marks, rung = caller_order(request), [*marks, f"{exc.stage}_unavailable"], "caller_order"
            finally:
                self._admission.leave()
        slate = finish(found, route.release, variant, rung, marks, time.time(), explain=body.explain)
        return Answer(request_id, self._withdrawn.out_of(slate), variant, run.taken(), asked=asked)

    def releases(self) -> ReleasesAnswer:
        """What runs, and with which share."""
        loaded, weights = set(self._fleet.loaded), self._fleet.traffic.weights
        found = [
            ReleaseAnswer(release=release, weight=weights.get(release, 0.0), loaded=release in loaded)
            for release in sorted(loaded | set(weights))
        ]
        return ReleasesAnswer(version=self._fleet.traffic.version, topology=self._topology, releases=found)

    async def readiness(self) -> ReadinessAnswer:
        """Whether requests can be answered, and what is missing. A release still loading beside another one does not count."""
        alive, loaded = await self._store.alive(), self._fleet.loaded
        missing = [f"release {release}" for release in self._fleet.missing()]
        if not self._fleet.traffic.weights:
            missing.append("a release with traffic")
        if not alive:
            missing.append("online store")
        if not (known := self._items_known()):
            missing.append("live items")
        return ReadinessAnswer(ready=alive and bool(loaded) and known, replica=self._replica, releases=loaded, missing=missing)

    def _next(self, slate: FinishedSlate, shown: NDArray[np.uint64], user_id: str) -> str:
        """The cursor of the page behind a slate; a short one may be so by rules, which bind the next page anew."""
        return cursors.write(shown, self._keys.of(slate), user_id, time.time())

    def _seen_by(self, body: B) -> B:
        """The request as we may know it: one of nobody where the user may not be known, or is hidden."""
        if self._refusal(body):
            return body.impersonal()
        hidden = body.user_id and self._hides(body.user_id)
        return body.model_copy(update={"user_id": ""}) if hidden else body

    def _start(self, user_id: str, other: str, budget_s: float) -> tuple[Assigned, Run]:
        deadline = Deadline(budget_s)
        try:
            to = self._fleet.assign(user_id, other)
        except NotReadyError as exc:
            raise problems.not_ready(str(exc)) from exc
        store = {"user": self._store_breaker, "precomputed": self._store_breaker}
        route, hasty = to.route, budget_s < self._usual_s / 2
        return to, Run(route.release, deadline, self._observer, {**route.breakers, **store}, hasty=hasty)

    async def _make(
        self,
        to: Assigned,
        body: RecommendationsBody,
        request_id: str,
        key: SlateKey,
        run: Run,
        asked: Asked,
        shown: NDArray[np.uint64],
    ) -> FinishedSlate:
        route, variant = to.route, to.variant
        user, stored, interests, served, marks = await self._user(body.user_id, route, key.field, run)
        doubted = stored is not None and (self._withdrawn.in_slate(stored) or self._withdrawn.outdated(stored))
        if stored is not None and self._cache.fresh(key, stored.made) and not doubted:
            return stored
        if marks and (found := self._ladder.cached(key, marks)) is not None:
            return found  # an older slate of this user is better than a new one of nobody
        request = recommend_request(body, request_id, user, interests, _now_us(), shown, served)
        if to.popular and (popular := self._ladder.popular(route, request, variant, [*marks, HOLDOUT])) is not None:
            return popular
        marks += [*self._lateness(body.user_id, user, route), *self._refusal(body)]
        return await self._live(route, variant, request, run, marks, key, stored, asked, explain=body.explain)

    async def _live(
        self,
        route: Route,
        variant: str,
        request: Request,
        run: Run,
        marks: list[str],
        key: SlateKey | None,
        stored: FinishedSlate | None,
        asked: Asked,
        *,
        explain: bool,
    ) -> FinishedSlate:
        """Let the stages answer; where they cannot, the ladder."""
        if not self._admission.enter():
            shed = self._ladder.kept(key, stored, [*marks, "overloaded"])
            if shed is None:
                raise problems.overloaded()
            return shed
        flags = self._flags()
        ranked = RANKER not in flags.off
        try:
            outcome = await run_stages(route.stages, request, run, ranker=ranked)
        except StageFailed as exc:
            marks = [*marks, f"{exc.stage}_unavailable", *flags.marks]
            found = await self._ladder.descend(route, request, run, variant, marks, key, stored)
            if found is None:
                raise problems.stage_failed(exc.stage, exc.reason) from exc
            return found
        finally:
            self._admission.leave()
        asked.user_view, asked.user = route.user_view, request.user
        asked.circumstances = drawn_in(request, outcome.slate)
        if variant not in APART:
            self._mirror(request, route.user_view, outcome.slate, ranked)
        marks = [*marks, *outcome.degraded, *flags.marks]
        if outcome.slate.rules != self._rules()[0]:
            marks.append("rules_behind")  # within a second of a change; such a slate is not kept
        rung = rung_of([*marks, *outcome.slate.degraded])
        before = request.shown.size
        return finish(outcome.slate, route.release, variant, rung, marks, time.time(), explain=explain, before=before)

    async def _user(
        self, user_id: str, route: Route, field: str, run: Run
    ) -> tuple[UserRow, FinishedSlate | None, Interests, NDArray[np.uint64], list[str]]:
        try:
            row, stored, interests, served = await run.within(
                "user", lambda: self._store.user_and_slate(user_id, route.user_view, field)
            )
        except StageFailed:
            return EMPTY_USER, None, NO_INTERESTS, NOT_SERVED, ["store_unavailable"] if user_id else []
        return (row if user_id else EMPTY_USER), stored, interests, served, []

    def _lateness(self, user_id: str, user: UserRow, route: Route) -> list[str]:
        known = user_id and user is not EMPTY_USER
        return ["features_late"] if known and self._late(route.user_view, user_id) else []

    def _refusal(self, body: RecommendationsBody | RankBody) -> list[str]:
        """Why the request is to be one of nobody, if it is."""
        if not body.consent:
            return ["no_consent"]
        return ["profiling_off"] if self._unprofiled(body.surface, body.context) else []


def _now_us() -> int:
    return time.time_ns() // 1000
