"""HTTP without a cluster: what is accepted, what an answer holds, what a problem says, and that OpenAPI tells the same."""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from reco_ray.config import CacheConfig
from reco_ray.hashing import item_keys
from reco_ray.privacy import Receipt
from reco_ray.privacy.receipts import new_receipt
from reco_ray.rollout import DEFAULT_POLICY, Status, first_state
from reco_ray.rules import Document
from reco_ray.serve.caching.cache import SlateCache
from reco_ray.serve.guard.admission import Admission
from reco_ray.serve.guard.gate import Gate
from reco_ray.serve.http import problems
from reco_ray.serve.http.asgi import HttpApp
from reco_ray.serve.http.calls import CALLS
from reco_ray.serve.http.contract import ReadinessAnswer, RecommendationsBody
from reco_ray.serve.http.control_bodies import (
    FallbackAnswer,
    FallbackBody,
    FlagBody,
    FlagsAnswer,
    RolloutAnswer,
    RolloutBody,
    RolloutsAnswer,
)
from reco_ray.serve.http.control_handlers import Control
from reco_ray.serve.http.erasure_bodies import ErasureAnswer
from reco_ray.serve.http.item_bodies import ItemBody
from reco_ray.serve.http.openapi import schema
from reco_ray.serve.http.ports import Events
from reco_ray.serve.http.rule_bodies import RulesAnswer, RulesBody
from reco_ray.serve.http.user_bodies import UserBody
from reco_ray.serve.path.fleet import Connected, Fleet
from reco_ray.serve.path.pipeline import LoggingObserver
from reco_ray.serve.path.service import GatewayService
from reco_ray.slate import PopularList
from reco_ray.store import (
    NO_FLAGS,
    NO_INTERESTS,
    NOT_SERVED,
    FinishedSlate,
    Interests,
    Item,
    KeyRecord,
    LiveItem,
    Precomputed,
    Profile,
    RuleRecord,
    Scope,
    Traffic,
    new_key,
)
from reco_ray.types import EMPTY_USER, Request, Slate, UserRow

KNOWN = UserRow(as_of=1)


class Echo:
    """Stages whose slate shows the request: one item per place; item "gone" is unknown."""

    def __init__(self) -> None:
        self.seen: list[Request] = []

    def prepare(self, request: Request) -> Request:
        self.seen.append(request)
        return request

    async def recall(self, query: Request) -> int:
        return query.k

    async def score(self, query: Request, found: int) -> int:
        return found

    async def arrange(self, query: Request, found: int, scored: int) -> Slate:
        ids = tuple(f"i{i}" for i in range(found))
        scores = np.arange(found, 0, -1, dtype=np.float32)
        if found > 1:
            scores[-1] = np.nan
        degraded = ("unknown_item",) if query.similar_to == "gone" else () if query.user.as_of else ("unknown_user",)
        ones = np.ones(found, np.float32)
        return Slate(query.request_id, ids, ids, scores, ones, tuple(("popular",) for _ in ids), degraded)

    def recall_order(self, found: int) -> int:
        return found


class Store:
    """Knows one user; may be away."""

    def __init__(self) -> None:
        self.away = False
        self.interests: dict[str, Interests] = {}

    async def user_and_slate(
        self, user_id: str, view: str, field: str
    ) -> tuple[UserRow, FinishedSlate | None, Interests, NDArray[np.uint64]]:
        if self.away:
            raise OSError("away")
        row = KNOWN if user_id == "known" else EMPTY_USER
        return row, None, self.interests.get(user_id, NO_INTERESTS), NOT_SERVED

    async def precomputed(self, user_id: str) -> Precomputed | None:
        return None

    async def alive(self) -> bool:
        return not self.away


class Wishes:
    """Notes erasures."""

    def __init__(self) -> None:
        self.receipts: dict[str, Receipt] = {}

    async def erase(self, user_id: str) -> Receipt:
        receipt = new_receipt(f"e{len(self.receipts)}", user_id)
        return self.receipts.setdefault(receipt.user, receipt)

    async def receipt(self, receipt_id: str) -> Receipt:
        for receipt in self.receipts.values():
            if receipt.receipt_id == receipt_id:
                return receipt
        raise problems.unknown_receipt()


class Profiles:
    """Keeps profiles; those of the user "hidden" are being erased."""

    def __init__(self) -> None:
        self.kept: dict[str, Profile] = {}

    async def keep(self, user_id: str, body: UserBody) -> Profile:
        if user_id == "hidden":
            raise problems.being_erased()
        self.kept[user_id] = body.profile(1_700_000_000)
        return self.kept[user_id]

    async def show(self, user_id: str) -> Profile:
        if user_id not in self.kept:
            raise problems.unknown_user()
        return self.kept[user_id]


class Items:
    """Keeps items."""

    def __init__(self) -> None:
        self.kept: dict[str, LiveItem] = {}

    async def put(self, item_id: str, body: ItemBody) -> LiveItem:
        self.kept[item_id] = LiveItem(item_id, len(self.kept) + 1, len(self.kept), 1.7e9, body.item())
        return self.kept[item_id]

    async def show(self, item_id: str) -> tuple[LiveItem, Item]:
        found = self.kept.get(item_id)
        if found is None or found.item is None:
            raise problems.item_not_kept(item_id)
        return found, found.item

    async def delete(self, item_id: str) -> int:
        self.kept.pop(item_id, None)
        return 9


class Rules:
    """Keeps rules, and tries nothing."""

    def __init__(self) -> None:
        self.now = RuleRecord()

    async def show(self, version: int = 0) -> RulesAnswer:
        if version > self.now.version:
            raise problems.unknown_rules(version)
        return RulesAnswer.of(self.now)

    async def put(self, document: Document, body: RulesBody) -> RulesAnswer:
        rules = tuple(document.model_dump(mode="json", exclude_none=True)["rules"])
        self.now = RuleRecord(self.now.version + 1, body.author, "put", body.note, "2026-01-01T00:00:00+00:00", rules)
        return RulesAnswer.of(self.now)


class Controls:
    """One rollout that is paused, and flags that stay on."""

    def __init__(self) -> None:
        self.state = replace(first_state("r1", "new", "old", DEFAULT_POLICY, 1.0, "ana"), status=Status.paused)

    async def rollouts(self, n: int) -> RolloutsAnswer:
        return RolloutsAnswer(rollout=RolloutAnswer.of(self.state), history=[{"action": "start"}][:n])

    async def change(self, body: RolloutBody, by: str) -> RolloutAnswer:
        if body.action == "start":
            raise problems.change_refused("found one that runs, expected none; abort it first")
        return RolloutAnswer.of(self.state)

    async def fall_back(self, body: FallbackBody, by: str) -> FallbackAnswer:
        return FallbackAnswer(release=body.release or "old")

    async def flags(self) -> FlagsAnswer:
        return FlagsAnswer.of(NO_FLAGS)

    async def switch(self, body: FlagBody, by: str) -> FlagsAnswer:
        return await self.flags()


class Explanations:
    """Knows no request."""

    async def explain(self, request_id: str, item_id: str = "") -> dict[str, Any]:
        raise problems.unknown_request()


class World:
    """A gateway over fakes; requests of the user "hidden" are those of nobody."""

    def __init__(
        self,
        *,
        release: str = "rel",
        gate: Gate | None = None,
        behind: bool = False,
        events: Events | None = None,
        control: Control | None = None,
    ) -> None:
        self.stages, self.store = Echo(), Store()
        self.popular: PopularList | None = None
        self.traffic = Traffic(1, {release: 1.0}, {release: "v1"}) if release else Traffic()

        async def poll() -> Traffic:
            return self.traffic

        async def connect(release_id: str) -> Connected:
            return self.stages, self.popular

        self.fleet = Fleet(poll, connect)
        self.wishes, self.profiles, self.items = Wishes(), Profiles(), Items()

        def hides(user_id: str) -> bool:
            return user_id == "hidden"

        cache, admission = SlateCache(CacheConfig(ttl_s=0, stale_s=0)), Admission(1.0)
        service = GatewayService(
            self.store, self.fleet, cache, LoggingObserver(), admission, topology="fused", replica="r0", hides=hides
        )
        self.app = HttpApp(
            service,
            deadline_ms=1000,
            max_deadline_ms=2000,
            erasures=self.wishes,
            profiles=self.profiles,
            items=self.items,
            rules=Rules(),
            gate=gate,
            behind=lambda: behind,
            events=events,
            explanations=Explanations(),
            control=control or Controls(),
        )

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            await self.fleet.load_now(5)
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://reco") as client:
                return await client.request(method, path, **more)

        return asyncio.run(ask())

    def post(self, body: object, path: str = "/v1/recommendations", **more: Any) -> httpx.Response:
        return self.ask("POST", path, json=body, **more)


def problem(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = response.json()
    assert set(found) == {"type", "title", "status", "detail", "instance", "errors"}
    assert found["status"] == response.status_code
    return found


def test_a_slate_counts_positions_from_one_and_names_release_and_variant() -> None:
    response = World().post({"user_id": "known", "k": 3}, headers={"x-request-id": "abc-1"})
    answer = response.json()
    assert response.status_code == 200
    assert {name: answer[name] for name in ("request_id", "release", "variant", "degraded")} == {
        "request_id": "abc-1",
        "release": "rel",
        "variant": "main",
        "degraded": [],
    }
    assert [item["position"] for item in answer["items"]] == [1, 2, 3]
    assert answer["items"][0] == {"item_id": "i0", "title": "i0", "score": 3.0, "position": 1, "reasons": ["popular"]}
    assert answer["items"][2]["score"] is None, "a score that is not finite is null"
    for stage in ("user", "recall", "rank", "rerank", "total"):
        assert f"{stage};dur=" in response.headers["server-timing"]


def test_a_gateway_whose_loop_is_behind_refuses_unread_and_still_says_that_it_lives() -> None:
    world = World(behind=True)
    refused = world.ask("POST", "/v1/recommendations", content=b"not read")
    assert refused.status_code == 503
    assert problem(refused)["type"] == "/docs#overloaded"
    assert refused.headers["retry-after"] == "1"
    assert world.ask("GET", "/healthz").status_code == 200


def test_every_field_reaches_the_stages() -> None:
    world = World()
    body = {
        "user_id": "known",
        "k": 7,
        "surface": "email",
        "context": {"device": "tv", "locale": "de", "location": "48.137,11.575"},
        "session": ["a", "b"],
        "filters": {"category": ["Comedy", "Drama"], "year": ["1999"]},
        "exclude": ["c"],
        "explain": True,
    }
    answer = world.post(body).json()
    request = world.stages.seen[-1]
    assert (request.user_id, request.k, request.surface, request.session) == ("known", 7, "email", ("a", "b"))
    assert request.context == {"device": "tv", "locale": "de", "location": "48.1,11.6"}, "a location is made coarse"
    assert abs(request.at_us / 1e6 - time.time()) < 60
    assert request.filters == {"category": ("Comedy", "Drama"), "year": ("1999",)}
    assert (request.exclude, request.user) == (("c",), KNOWN)
    assert answer["items"][0]["propensity"] == 1.0


@pytest.mark.parametrize("user_id", ["", "nobody"])
def test_an_unknown_or_anonymous_user_gets_a_slate_that_says_so(user_id: str) -> None:
    answer = World().post({"user_id": user_id}).json()
    assert len(answer["items"]) == 10
    assert answer["degraded"] == ["unknown_user"]
    assert len(answer["request_id"]) == 32


def test_without_the_store_a_slate_still_comes_and_says_so() -> None:
    world = World()
    world.store.away = True
    assert world.post({"user_id": "known"}).json()["degraded"] == ["store_unavailable"]


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        ({"k": 0}, "k", "greater than or equal to 1"),
        ({"k": 201}, "k", "less than or equal to 200"),
        ({"k": "10"}, "k", "valid integer"),
        ({"user_id": "ü" * 129}, "user_id", "258 bytes, expected at most 256"),
        ({"user_id": 7}, "user_id", "valid string"),
        ({"usr": "a"}, "usr", "not permitted"),
        ({"surface": "No Such"}, "surface", "match pattern"),
        ({"context": {"ip": "1.2.3.4"}}, "context.ip", "not permitted"),
        ({"session": ["a"] * 201}, "session", "at most 200"),
        ({"session": [""]}, "session.0", "at least 1 character"),
        ({"filters": {"genre": ["x"]}}, "filters.genre.[key]", "'category' or 'year'"),
        ({"filters": {"year": []}}, "filters.year", "at least 1 item"),
        ({"exclude": [None]}, "exclude.0", "valid string"),
    ],
)
def test_a_body_that_does_not_fit_is_a_422_that_names_the_field(body: object, field: str, said: str) -> None:
    response = World().post(body)
    assert response.status_code == 422
    errors = problem(response)["errors"]
    assert [each["field"] for each in errors] == [field]
    assert said in errors[0]["detail"]


def test_ids_of_256_bytes_are_accepted() -> None:
    assert World().post({"user_id": "ü" * 128, "exclude": ["x" * 256]}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "more", "status", "kind"),
    [
        ("POST", "/v1/recommendations", {"content": b"{"}, 400, "invalid-json"),
        ("POST", "/v1/recommendations", {"content": b"[]"}, 422, "invalid-request"),
        ("POST", "/v1/recommendations", {"content": b'"' + b"x" * 2**20 + b'"'}, 413, "too-large"),
        ("POST", "/v1/recommendations", {"json": {}, "headers": {"x-request-timeout-ms": "soon"}}, 400, "invalid-header"),
        ("POST", "/v1/recommendations", {"json": {}, "headers": {"x-request-timeout-ms": "0"}}, 400, "invalid-header"),
        ("POST", "/v1/similar-items", {"json": {"item_id": "gone"}}, 404, "unknown-item"),
        ("POST", "/v1/similar-items", {"json": {}}, 422, "invalid-request"),
        ("GET", "/v1/recommendations/u?k=x", {}, 422, "invalid-request"),
        ("GET", "/v1/recommendations/u?kk=1", {}, 422, "invalid-request"),
        ("GET", "/v1/recommendations", {}, 405, "method-not-allowed"),
        ("DELETE", "/v1/recommendations/u", {}, 405, "method-not-allowed"),
        ("GET", "/v1/nothing", {}, 404, "not-found"),
        ("GET", "/v1/recommendations/a/b", {}, 404, "not-found"),
    ],
)
def test_problems_have_their_kind(method: str, path: str, more: dict[str, Any], status: int, kind: str) -> None:
    response = World().ask(method, path, **more)
    assert response.status_code == status
    assert problem(response)["type"] == f"/docs#{kind}"


def test_a_body_without_a_length_is_cut_off_at_the_limit() -> None:
    async def chunks() -> Any:
        for _ in range(40):
            yield b" " * 2**15

    assert World().ask("POST", "/v1/recommendations", content=chunks()).status_code == 413


def test_an_invalid_request_id_is_replaced_and_a_problem_carries_the_id() -> None:
    assert len(World().post({}, headers={"x-request-id": "no spaces allowed"}).json()["request_id"]) == 32
    assert problem(World().post({"k": 0}, headers={"x-request-id": "q7"}))["instance"] == "urn:request:q7"


def test_get_has_an_etag_that_does_not_depend_on_the_request() -> None:
    world = World()
    first = world.ask("GET", "/v1/recommendations/known?k=2")
    assert first.headers["cache-control"].startswith("private")
    assert [item["item_id"] for item in first.json()["items"]] == ["i0", "i1"]
    again = world.ask("GET", "/v1/recommendations/known?k=2", headers={"if-none-match": f'"x", {first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert world.ask("GET", "/v1/recommendations/known?k=3").headers["etag"] != first.headers["etag"]


def test_an_id_in_the_path_may_hold_anything_that_is_escaped() -> None:
    world = World()
    world.ask("GET", "/v1/recommendations/a%2Fb%20%C3%BC?surface=email")
    assert (world.stages.seen[-1].user_id, world.stages.seen[-1].surface) == ("a/b ü", "email")


def test_similar_items_reach_the_stages_as_similar_to() -> None:
    world = World()
    response = world.post({"item_id": "i9", "k": 4, "exclude": ["i1"]}, "/v1/similar-items")
    assert len(response.json()["items"]) == 4
    request = world.stages.seen[-1]
    assert (request.similar_to, request.exclude, request.user_id) == ("i9", ("i1",), "")


def ranked(world: World, *items: object, **more: object) -> dict[str, Any]:
    found: dict[str, Any] = world.post({"items": items, **more}, "/v1/rank").json()
    return found


def test_every_field_of_a_rank_body_reaches_the_stages() -> None:
    world = World()
    items = [{"item_id": "a"}, {"item_id": "b", "score": 1}, {"item_id": "c", "score": 7.5}, {"item_id": "d"}]
    more = {"k": 2, "surface": "search", "context": {"device": "tv"}, "session": ["s"], "query": "blue shoes", "explain": True}
    answer = ranked(world, *items, user_id="known", **more)
    request = world.stages.seen[-1]
    assert (request.user_id, request.k, request.surface, request.session) == ("known", 2, "search", ("s",))
    assert (request.context, request.query, request.user) == ({"device": "tv"}, "blue shoes", KNOWN)
    assert abs(request.at_us / 1e6 - time.time()) < 60
    assert request.items == ("c", "b", "a", "d"), "scores first, the rest as sent"
    np.testing.assert_array_equal(request.item_scores, np.array([7.5, 1, np.nan, np.nan], np.float32))
    assert "blue shoes" not in repr(request)
    assert [item["item_id"] for item in answer["items"]] == ["i0", "i1"]
    assert answer["items"][0]["propensity"] == 1.0


def test_all_items_are_wanted_where_no_k_is_given_and_more_than_there_are_is_no_error() -> None:
    world = World()
    many = [{"item_id": f"i{i}"} for i in range(1000)]
    assert len(ranked(world, *many)["items"]) == 1000
    assert len(ranked(world, *many[:3], k=1000)["items"]) == 3


@pytest.mark.parametrize("stage", ["recall", "arrange"])
def test_without_recall_or_rerank_the_callers_order_comes_back_and_says_so(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*given: object) -> None:
        raise OSError("gone")

    world = World()
    monkeypatch.setattr(world.stages, stage, broken)
    answer = ranked(world, {"item_id": "a"}, {"item_id": "b", "score": 0.5}, user_id="known")
    assert [(item["item_id"], item["score"], item["position"]) for item in answer["items"]] == [("b", 0.5, 1), ("a", None, 2)]
    assert answer["degraded"] == [{"recall": "recall_unavailable", "arrange": "rerank_unavailable"}[stage]]


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        ({}, "items", "required"),
        ({"items": []}, "items", "at least 1 item"),
        ({"items": [{"item_id": str(i)} for i in range(1001)]}, "items", "at most 1000 items"),
        ({"items": ["a"]}, "items.0", "should be an object"),
        ({"items": [{"item_id": ""}]}, "items.0.item_id", "at least 1 character"),
        ({"items": [{"item_id": "ü" * 129}]}, "items.0.item_id", "258 bytes, expected at most 256"),
        ({"items": [{"item_id": "a", "score": "1"}]}, "items.0.score", "valid number"),
        ({"items": [{"item_id": "a", "score": 1e16}]}, "items.0.score", "less than or equal to 10"),
        ({"items": [{"item_id": "a", "rank": 1}]}, "items.0.rank", "not permitted"),
        (
            {"items": [{"item_id": "a"}, {"item_id": "b"}, {"item_id": "a"}]},
            "items",
            "found 'a' at 0 and at 2, expected distinct ones; send each once",
        ),
        ({"items": [{"item_id": "a"}], "k": 0}, "k", "greater than or equal to 1"),
        ({"items": [{"item_id": "a"}], "k": 1001}, "k", "less than or equal to 1000"),
        ({"items": [{"item_id": "a"}], "query": "x" * 257}, "query", "at most 256 characters"),
        ({"items": [{"item_id": "a"}], "filters": {}}, "filters", "not permitted"),
    ],
)
def test_a_rank_body_that_does_not_fit_is_a_422_that_names_the_field(body: object, field: str, said: str) -> None:
    response = World().post(body, "/v1/rank")
    assert response.status_code == 422
    errors = problem(response)["errors"]
    assert [each["field"] for each in errors] == [field]
    assert said in errors[0]["detail"]


def test_a_score_that_is_no_number_is_refused() -> None:
    response = World().ask("POST", "/v1/rank", content=b'{"items": [{"item_id": "a", "score": NaN}]}')
    assert response.status_code == 422
    assert problem(response)["errors"][0]["field"] == "items.0.score"


def test_before_a_release_is_loaded_answers_are_503_and_readyz_says_what_is_missing() -> None:
    world = World(release="")
    response = world.post({})
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert "deploy" in problem(response)["detail"]
    ready = world.ask("GET", "/readyz")
    assert ready.status_code == 503
    assert ReadinessAnswer.model_validate(ready.json()).missing == ["a release with traffic"]
    assert world.ask("GET", "/healthz").json() == {"status": "ok"}


def test_readyz_needs_the_store() -> None:
    world = World()
    assert world.ask("GET", "/readyz").json() == {"ready": True, "replica": "r0", "releases": ["rel"], "missing": []}
    world.store.away = True
    response = world.ask("GET", "/readyz")
    assert (response.status_code, response.json()["missing"]) == (503, ["online store"])


def test_releases_show_weights() -> None:
    found = World().ask("GET", "/v1/releases").json()
    assert found == {"version": 1, "topology": "fused", "releases": [{"release": "rel", "weight": 1.0, "loaded": True}]}


def test_openapi_describes_every_call_and_resolves_its_references() -> None:
    document = World().ask("GET", "/openapi.json").json()
    assert {(method.upper(), path) for path, each in document["paths"].items() for method in each} == {
        (call.method, call.path) for call in CALLS
    }
    references = [part.split('"')[0] for part in json.dumps(document).split("#/components/schemas/")[1:]]
    assert set(references) <= set(document["components"]["schemas"])
    assert document["components"]["schemas"]["RecommendationsBody"]["additionalProperties"] is False
    assert schema()["paths"]["/v1/recommendations/{user_id}"]["get"]["parameters"][0]["required"] is True


def test_the_docs_page_needs_nothing_from_elsewhere() -> None:
    response = World().ask("GET", "/docs")
    assert response.headers["content-type"].startswith("text/html")
    assert "curl http://reco/v1/similar-items" in response.text
    assert "<script" not in response.text
    assert "src=" not in response.text
    for call in CALLS:
        assert call.path in response.text


RECOMMEND, KEY = new_key("shop", [Scope.recommend], 0.0, rate=0.1, burst=2)
CALLER = {"authorization": f"Bearer {KEY}"}


def guarded(*records: KeyRecord, read: bool = True) -> World:
    async def poll() -> tuple[KeyRecord, ...]:
        return records

    gate = Gate(poll, rate=100, burst=100)
    if read:
        asyncio.run(gate.refresh())
    return World(gate=gate)


def test_a_key_with_the_scope_passes_until_its_rate_is_used_up() -> None:
    world = guarded(RECOMMEND)
    assert world.post({"user_id": "known"}, headers=CALLER).status_code == 200
    assert world.ask("HEAD", "/v1/recommendations/known", headers=CALLER).status_code == 200
    response = world.post({"item_id": "i1"}, "/v1/similar-items", headers=CALLER)
    assert (response.status_code, response.headers["retry-after"]) == (429, "10")
    assert problem(response)["type"] == "/docs#rate-limited"


def test_a_call_without_a_key_or_without_its_scope_reaches_no_stage() -> None:
    world = guarded(RECOMMEND)
    for call in CALLS:
        response = world.ask(call.method, call.path.replace("{user_id}", "u"), content=b"{" if call.body else None)
        guarded_path = call.path.startswith("/v1/") and call.name != "event_schema"
        assert response.status_code == (401 if guarded_path else 200), call.path
        assert (call.scope is not None) == guarded_path
        if call.scope is not None:
            assert problem(response)["type"] == "/docs#unauthorized"
            assert response.headers["www-authenticate"] == "Bearer"
    response = world.ask("GET", "/v1/releases", headers=CALLER)
    assert response.status_code == 403
    assert "expected the scope admin" in problem(response)["detail"]
    assert world.stages.seen == []


def test_before_the_keys_were_read_calls_are_503_and_readyz_says_so() -> None:
    world = guarded(RECOMMEND, read=False)
    response = world.post({}, headers=CALLER)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert problem(response)["type"] == "/docs#not-ready"
    ready = world.ask("GET", "/readyz")
    assert (ready.status_code, ready.json()["missing"]) == (503, ["API keys"])
    assert world.ask("GET", "/healthz").status_code == 200


def test_openapi_and_the_page_name_the_scope_of_each_call() -> None:
    document = schema()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for call in CALLS:
        operation = document["paths"][call.path][call.method.lower()]
        assert operation.get("security") == ([{"key": [call.scope.value]}] if call.scope else None)
        assert ({"401", "403", "429", "503"} <= set(operation["responses"])) == (call.scope is not None)
    page = guarded().ask("GET", "/docs").text
    assert page.count("Authorization: Bearer $RECO_KEY") == len([call for call in CALLS if call.scope])
    assert "Scope: <code>admin</code>" in page
    assert "$RECO_KEY" not in World().ask("GET", "/docs").text
    assert "API keys are off here" in World().ask("GET", "/docs").text


def _spoilt(body: bytes) -> Callable[[], Coroutine[Any, Any, dict[str, Any]]]:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    return receive


def test_a_caller_that_hangs_up_within_its_body_is_answered_and_no_error() -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/recommendations", "headers": []}
    asyncio.run(World().app(scope, _spoilt(b""), send))
    assert sent[0]["status"] == 400


def test_a_year_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match=r"filters.year: found \['abc'\], expected years"):
        RecommendationsBody.model_validate({"filters": {"year": ["1999", "abc"]}})


def test_an_erasure_is_accepted_with_a_receipt_that_can_be_asked_for() -> None:
    world = World()
    response = world.ask("DELETE", "/v1/users/kim%2F1")
    assert response.status_code == 202
    receipt = response.json()
    assert receipt["state"] == "requested"
    assert "kim" not in response.text, "a receipt names nobody"
    assert world.ask("DELETE", "/v1/users/kim%2F1").json() == receipt, "the same wish"
    assert world.ask("GET", f"/v1/erasures/{receipt['receipt_id']}").json() == receipt
    ErasureAnswer.model_validate(receipt)
    assert problem(world.ask("GET", "/v1/erasures/none"))["type"] == "/docs#not-found"
    assert problem(world.ask("DELETE", f"/v1/users/{'x' * 257}"))["errors"][0]["field"] == "user_id"
    assert problem(world.ask("POST", "/v1/users/kim"))["status"] == 405


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/v1/users/known"), ("GET", "/v1/erasures/e0")])
def test_erasures_are_for_admins(method: str, path: str) -> None:
    calls = {(call.method, call.path.partition("{")[0]): call.scope for call in CALLS}
    assert calls[method, path[: path.rindex("/") + 1]] is Scope.admin


def test_what_is_said_of_a_user_is_kept_and_shown_until_something_else_is_said() -> None:
    world = World()
    path = "/v1/users/kim%2F1"
    assert problem(world.ask("GET", path))["type"] == "/docs#not-found"
    interests = {"categories": ["Comedy"], "items": ["i1", "i2"]}
    first = world.ask("PUT", path, json={"attributes": {"plan": "family"}, "interests": interests})
    assert first.status_code == 200
    assert first.headers["cache-control"] == "no-store"
    assert first.json() == {"attributes": {"plan": "family"}, "interests": interests, "updated_ts": "2023-11-14T22:13:20+00:00"}
    assert world.ask("GET", path).json() == first.json()
    assert list(world.profiles.kept) == ["kim/1"]
    second = world.ask("PUT", path, json={"attributes": {}})
    assert (second.json()["attributes"], second.json()["interests"]) == ({}, {"categories": [], "items": []})
    assert world.ask("GET", path).json() == second.json()


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        ({}, "", "found neither attributes nor interests, expected one of them at least; {} as one empties both"),
        ({"attribute": {}}, "attribute", "not permitted"),
        ({"attributes": None}, "attributes", "should be an object"),
        ({"attributes": {"Plan": "a"}}, "attributes.Plan.[key]", "match pattern"),
        ({"attributes": {"a" * 33: "a"}}, f"attributes.{'a' * 33}.[key]", "match pattern"),
        ({"attributes": {"plan": "a" * 65}}, "attributes.plan", "at most 64"),
        ({"attributes": {"plan": 7}}, "attributes.plan", "valid string"),
        ({"attributes": {f"a{i}": "" for i in range(33)}}, "attributes", "at most 32"),
        ({"attributes": {"who": "kim@example.org"}}, "attributes.who", "an e-mail address, a telephone number or an IP"),
        ({"interests": ["Comedy"]}, "interests", "should be an object"),
        ({"interests": {"genres": ["Comedy"]}}, "interests.genres", "not permitted"),
        ({"interests": {"categories": ["a", "b", "a"]}}, "interests.categories", "found 'a' at 0 and at 2, expected distinct"),
        ({"interests": {"categories": [f"{i}" for i in range(33)]}}, "interests.categories", "at most 32"),
        ({"interests": {"categories": [""]}}, "interests.categories.0", "at least 1 character"),
        ({"interests": {"items": ["i1", "i1"]}}, "interests.items", "expected distinct ones; send each once"),
        ({"interests": {"items": [f"{i}" for i in range(51)]}}, "interests.items", "at most 50"),
        ({"interests": {"items": ["ü" * 129]}}, "interests.items.0", "258 bytes, expected at most 256"),
    ],
)
def test_what_cannot_be_kept_of_a_user_is_a_422_that_names_the_field(body: object, field: str, said: str) -> None:
    world = World()
    response = world.ask("PUT", "/v1/users/kim", json=body)
    assert response.status_code == 422
    errors = problem(response)["errors"]
    assert [each["field"] for each in errors] == [field]
    assert said in errors[0]["detail"]
    assert world.profiles.kept == {}


def test_nothing_is_kept_under_an_id_that_names_a_person_or_while_a_user_is_being_erased() -> None:
    world = World()
    for user_id in ("kim@example.org", "x" * 257):
        refused = problem(world.ask("PUT", f"/v1/users/{user_id}", json={"attributes": {}}))
        assert (refused["status"], refused["errors"][0]["field"]) == (422, "user_id")
        assert user_id not in json.dumps(refused)
    fenced = problem(world.ask("PUT", "/v1/users/hidden", json={"attributes": {}}))
    assert (fenced["status"], fenced["type"]) == (409, "/docs#being-erased")
    assert problem(world.ask("PUT", "/v1/users/kim", content=b"{"))["type"] == "/docs#invalid-json"
    assert world.profiles.kept == {}


def test_profiles_are_for_who_sends_events() -> None:
    calls = {(call.method, call.path): call.scope for call in CALLS}
    assert calls["PUT", "/v1/users/{user_id}"] is calls["GET", "/v1/users/{user_id}"] is Scope.events


def test_interests_reach_the_stages_as_categories_and_as_the_history_that_there_is_not() -> None:
    world = World()
    world.store.interests["new"] = Interests(("Comedy",), ("i1", "i2"))
    for body, path in (
        ({"user_id": "new"}, "/v1/recommendations"),
        ({"user_id": "new", "items": [{"item_id": "a"}]}, "/v1/rank"),
    ):
        assert world.post(body, path).status_code == 200
        request = world.stages.seen[-1]
        assert request.interests == ("Comedy",)
        assert request.user.history.tolist() == item_keys(["i2", "i1"]).tolist(), "the one liked most is the newest"
        assert request.user.weights.tolist() == [1, 1]
        assert request.user.seen.tolist() == sorted(item_keys(["i1", "i2"]).tolist())
        assert "Comedy" not in repr(request)
        world.post({**body, "consent": False}, path)
        assert world.stages.seen[-1].interests == ()
        assert world.stages.seen[-1].user is EMPTY_USER
    world.store.interests["new"] = Interests(("Comedy",))
    world.post({"user_id": "new"})
    assert world.stages.seen[-1].user is EMPTY_USER
    world.store.interests["hidden"] = Interests(("Comedy",))
    world.post({"user_id": "hidden"})
    assert world.stages.seen[-1].interests == ()


def test_a_user_who_is_being_erased_is_nobody() -> None:
    world = World()
    for body, path in (
        ({"user_id": "hidden"}, "/v1/recommendations"),
        ({"user_id": "hidden", "items": [{"item_id": "a"}]}, "/v1/rank"),
    ):
        assert world.post(body, path).status_code == 200
        assert world.stages.seen[-1].user_id == ""
    world.post({"user_id": "known"})
    assert world.stages.seen[-1].user_id == "known"


def test_an_item_is_kept_shown_and_deleted() -> None:
    world = World()
    body = {"title": "Alien", "categories": ["Horror"], "year": 1979, "text": "In space.", "available": True, "price": 9.5}
    kept = world.ask("PUT", "/v1/items/a%2F1", json=body)
    assert kept.status_code == 200
    assert kept.json() == {"item_id": "a/1", "version": 1, **body, "updated_ts": "2023-11-14T22:13:20.000+00:00"}
    assert world.ask("GET", "/v1/items/a%2F1").json() == kept.json()
    assert world.ask("DELETE", "/v1/items/a%2F1").json() == {"item_id": "a/1", "version": 9}
    assert problem(world.ask("GET", "/v1/items/a%2F1"))["type"] == "/docs#not-found"
    only = world.ask("PUT", "/v1/items/b", json={"title": "Only"}).json()
    assert (only["available"], only["price"]) == (True, None)
    assert world.ask("PUT", "/v1/items/c", json={"title": "Free", "price": 0}).json()["price"] == 0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "title"),
        ({"title": ""}, "title"),
        ({"title": "A", "year": -1}, "year"),
        ({"title": "A", "year": "1979"}, "year"),
        ({"title": "A", "categories": ["x", "x"]}, "categories"),
        ({"title": "A", "categories": [""]}, "categories.0"),
        ({"title": "A", "available": "yes"}, "available"),
        ({"title": "A", "price": -0.01}, "price"),
        ({"title": "A", "price": "3"}, "price"),
        ({"title": "A", "price": 1e13}, "price"),
        ({"title": "A", "brand": "b"}, "brand"),
    ],
)
def test_an_item_that_cannot_be_kept_is_refused_by_field(body: dict[str, object], field: str) -> None:
    world = World()
    assert problem(world.ask("PUT", "/v1/items/a", json=body))["errors"][0]["field"] == field
    assert world.items.kept == {}


def test_an_item_needs_an_id_that_fits() -> None:
    for method in ("PUT", "GET", "DELETE"):
        answer = World().ask(method, f"/v1/items/{'x' * 257}", json={"title": "A"})
        assert problem(answer)["errors"][0]["field"] == "item_id"


def test_items_are_for_who_sends_events() -> None:
    assert {call.scope for call in CALLS if call.path == "/v1/items/{item_id}"} == {Scope.events}
