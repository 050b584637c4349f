"""What the gateway does with a request, apart from HTTP and Ray: read the user, pick the release, run the stages, answer."""

from typing import Protocol

from reco_ray.errors import NotReadyError
from reco_ray.serve import problems
from reco_ray.serve.answers import Answer, caller_order, rank_request, recommend_request, similar_request, write_answer
from reco_ray.serve.contract import (
    RankBody,
    ReadinessAnswer,
    RecommendationsBody,
    ReleaseAnswer,
    ReleasesAnswer,
    SimilarItemsBody,
)
from reco_ray.serve.fleet import Fleet, Route
from reco_ray.serve.pipeline import Deadline, Observer, Outcome, StageFailed, run_stages, run_within
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

    def __init__(self, store: UserStore, fleet: Fleet, observer: Observer, *, topology: str, replica: str) -> None:
        self._store, self._fleet, self._observer = store, fleet, observer
        self._topology, self._replica = topology, replica

    async def recommend(self, body: RecommendationsBody, request_id: str, budget_s: float) -> Answer:
        """Answer ``/v1/recommendations``.

        Raises: HttpProblem: nothing is loaded, or a stage without a substitute gave nothing.
        """
        deadline = Deadline(budget_s)
        timings: dict[str, float] = {}
        route = self._route(body.user_id or request_id)
        user, degraded = await self._user(body.user_id, route, deadline, timings)
        outcome = await self._run(route, recommend_request(body, request_id, user), deadline, timings)
        return self._answer(route, outcome, degraded, deadline, explain=body.explain)

    async def similar(self, body: SimilarItemsBody, request_id: str, budget_s: float) -> Answer:
        """Answer ``/v1/similar-items``.

        Raises: HttpProblem: as `recommend`, or the release does not know the item.
        """
        deadline = Deadline(budget_s)
        route = self._route(body.item_id)
        outcome = await self._run(route, similar_request(body, request_id), deadline, {})
        if "unknown_item" in outcome.slate.degraded:
            raise problems.unknown_item(body.item_id)
        return self._answer(route, outcome, [], deadline)

    async def rank(self, body: RankBody, request_id: str, budget_s: float) -> Answer:
        """Answer ``/v1/rank``; where recall or rerank gives nothing, in the caller's own order.

        Raises: HttpProblem: nothing is loaded.
        """
        deadline = Deadline(budget_s)
        timings: dict[str, float] = {}
        route = self._route(body.user_id or request_id)
        user, degraded = await self._user(body.user_id, route, deadline, timings)
        request = rank_request(body, request_id, user)
        try:
            outcome = await run_stages(route.stages, request, deadline, self._observer, timings)
        except StageFailed as exc:
            outcome = Outcome(caller_order(request), [f"{exc.stage}_unavailable"], timings)
        return self._answer(route, outcome, degraded, deadline, explain=body.explain)

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

    async def _user(
        self, user_id: str, route: Route, deadline: Deadline, timings: dict[str, float]
    ) -> tuple[UserRow, list[str]]:
        if not user_id:
            return EMPTY_USER, []
        try:
            read = self._store.user(user_id, route.user_view)
            return await run_within("user", read, deadline, self._observer, timings), []
        except StageFailed:
            return EMPTY_USER, ["store_unavailable"]

    def _route(self, key: str) -> Route:
        try:
            return self._fleet.route(key)
        except NotReadyError as exc:
            raise problems.not_ready(str(exc)) from exc

    async def _run(self, route: Route, request: Request, deadline: Deadline, timings: dict[str, float]) -> Outcome:
        try:
            return await run_stages(route.stages, request, deadline, self._observer, timings)
        except StageFailed as exc:
            raise problems.stage_failed(exc.stage, exc.reason) from exc

    def _answer(
        self, route: Route, outcome: Outcome, degraded: list[str], deadline: Deadline, *, explain: bool = False
    ) -> Answer:
        variant = "main" if route.release == self._fleet.main else "canary"
        outcome.timings["total"] = deadline.elapsed_ms()
        return write_answer(
            outcome.slate, route.release, variant, degraded + outcome.degraded, outcome.timings, explain=explain
        )
