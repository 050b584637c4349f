"""What the gateway does with a request, apart from HTTP and Ray: read the user, pick the release, run the stages, answer."""

import contextlib
from collections.abc import Iterator
from typing import Protocol

from reco_ray.errors import NotReadyError
from reco_ray.serve import problems
from reco_ray.serve.admission import Admission
from reco_ray.serve.answers import Answer, caller_order, rank_request, recommend_request, similar_request, write_answer
from reco_ray.serve.breaker import Breaker
from reco_ray.serve.contract import (
    RankBody,
    ReadinessAnswer,
    RecommendationsBody,
    ReleaseAnswer,
    ReleasesAnswer,
    SimilarItemsBody,
)
from reco_ray.serve.fleet import Fleet, Route
from reco_ray.serve.pipeline import Deadline, Observer, Outcome, Run, StageFailed, run_stages
from reco_ray.types import EMPTY_USER, Request, UserRow

__all__ = ["GatewayService", "UserStore"]


class UserStore(Protocol):
    """The part of the online store that a request needs."""

    async def user(self, user_id: str, view: str) -> UserRow:
        """Read a user's row; `EMPTY_USER` when there is none."""

    async def alive(self) -> bool:
        """Whether the store answers."""


class GatewayService:
    """Answers the calls of /v1.

    Args:
        topology: shown in ``GET /v1/releases``.
        replica: names this process in ``/readyz``, so that a deployer can tell replicas apart.
    """

    def __init__(
        self,
        store: UserStore,
        fleet: Fleet,
        observer: Observer,
        *,
        topology: str,
        replica: str,
        admission: Admission | None = None,
    ) -> None:
        self._store, self._fleet, self._observer = store, fleet, observer
        self._topology, self._replica = topology, replica
        self._admission = admission or Admission(1.0)
        self._store_breaker = Breaker()

    async def recommend(self, body: RecommendationsBody, request_id: str, budget_s: float) -> Answer:
        """Answer ``/v1/recommendations``.

        Raises: HttpProblem: nothing is loaded, overload, or no rung of the ladder has anything.
        """
        with self._admitted():
            route, run = self._start(body.user_id or request_id, budget_s)
            user, degraded = await self._user(body.user_id, route, run)
            outcome = await self._run(route, recommend_request(body, request_id, user), run)
            return self._answer(outcome, degraded, run, explain=body.explain)

    async def similar(self, body: SimilarItemsBody, request_id: str, budget_s: float) -> Answer:
        """Answer ``/v1/similar-items``.

        Raises: HttpProblem: as `recommend`, or the release does not know the item.
        """
        with self._admitted():
            route, run = self._start(body.item_id, budget_s)
            outcome = await self._run(route, similar_request(body, request_id), run)
            if "unknown_item" in outcome.slate.degraded:
                raise problems.unknown_item(body.item_id)
            return self._answer(outcome, [], run)

    async def rank(self, body: RankBody, request_id: str, budget_s: float) -> Answer:
        """Answer ``/v1/rank``; where recall or rerank gives nothing, in the caller's own order.

        Raises: HttpProblem: nothing is loaded, or overload.
        """
        with self._admitted():
            route, run = self._start(body.user_id or request_id, budget_s)
            user, degraded = await self._user(body.user_id, route, run)
            request = rank_request(body, request_id, user)
            try:
                outcome = await run_stages(route.stages, request, run)
            except StageFailed as exc:
                outcome = Outcome(caller_order(request), [f"{exc.stage}_unavailable"])
            return self._answer(outcome, degraded, run, explain=body.explain)

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
        return ReadinessAnswer(ready=alive and bool(loaded), replica=self._replica, releases=loaded, missing=missing)

    @contextlib.contextmanager
    def _admitted(self) -> Iterator[None]:
        if not self._admission.enter():
            raise problems.overloaded()
        try:
            yield
        finally:
            self._admission.leave()

    def _start(self, key: str, budget_s: float) -> tuple[Route, Run]:
        deadline = Deadline(budget_s)
        try:
            route = self._fleet.route(key)
        except NotReadyError as exc:
            raise problems.not_ready(str(exc)) from exc
        return route, Run(route.release, deadline, self._observer, {**route.breakers, "user": self._store_breaker})

    async def _user(self, user_id: str, route: Route, run: Run) -> tuple[UserRow, list[str]]:
        if not user_id:
            return EMPTY_USER, []
        try:
            return await run.within("user", lambda: self._store.user(user_id, route.user_view)), []
        except StageFailed:
            return EMPTY_USER, ["store_unavailable"]

    async def _run(self, route: Route, request: Request, run: Run) -> Outcome:
        try:
            return await run_stages(route.stages, request, run)
        except StageFailed as exc:
            raise problems.stage_failed(exc.stage, exc.reason) from exc

    def _answer(self, outcome: Outcome, degraded: list[str], run: Run, *, explain: bool = False) -> Answer:
        variant = "main" if run.release == self._fleet.main else "canary"
        run.timings["total"] = run.deadline.elapsed_ms()
        return write_answer(outcome.slate, run.release, variant, degraded + outcome.degraded, run.timings, explain=explain)
