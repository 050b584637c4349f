"""The service over fakes: every rung of the ladder is real and named, one computation answers many, nothing fails silently."""

import asyncio
import contextlib
import json
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from event_fakes import EventCounts
from hypothesis import given
from hypothesis import strategies as st
from item_fakes import ItemCounts
from numpy.typing import NDArray

from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.config import CacheConfig, DateUnit, EventsConfig
from reco_ray.errors import NotReadyError
from reco_ray.events.bus import EXPOSURES
from reco_ray.events.open import open_reader
from reco_ray.feedback.exposures import rows_to_table
from reco_ray.hashing import item_keys, user_digest
from reco_ray.serve.args import GatewayArgs
from reco_ray.serve.assembly import GatewayParts
from reco_ray.serve.caching.cache import SlateCache
from reco_ray.serve.caching.cache_key import cache_key
from reco_ray.serve.caching.purging import PurgeFollower
from reco_ray.serve.caching.refresh import Refresher
from reco_ray.serve.guard.admission import Admission
from reco_ray.serve.http.answers import Answer
from reco_ray.serve.http.asgi import HttpApp
from reco_ray.serve.http.contract import Context, RecommendationsBody
from reco_ray.serve.path.fleet import Connected, Fleet
from reco_ray.serve.path.service import GatewayService
from reco_ray.serve.served import Served
from reco_ray.slate import PopularList
from reco_ray.store import (
    NO_FLAGS,
    NO_INTERESTS,
    NOT_SERVED,
    FinishedSlate,
    Interests,
    OnlineStore,
    Precomputed,
    Purges,
    SlateStore,
    Traffic,
)
from reco_ray.types import EMPTY_USER, Request, Slate, UserRow

SEEN = ("p2", "hit-2")
KNOWN = UserRow(seen=np.sort(item_keys(SEEN)), as_of=1)
OLD_S = 1000.0  # past fresh and stale, not past standing in
POST = "/v1/recommendations"


class Stages:
    """Stages with troubles: ``raise`` or ``hang`` by stage. Their slate is ``a0, a1, ...``, backwards without the ranker."""

    def __init__(self) -> None:
        self.trouble: dict[str, str] = {}
        self.missing: tuple[str, ...] = ()
        self.calls = {"recall": 0, "rank": 0, "rerank": 0}
        self.go = asyncio.Event()

    def prepare(self, request: Request) -> Request:
        return request

    async def recall(self, query: Request) -> list[int]:
        await self._run("recall")
        return list(range(query.k))

    async def score(self, query: Request, found: list[int]) -> list[int]:
        await self._run("rank")
        return found

    async def arrange(self, query: Request, found: list[int], scored: list[int]) -> Slate:
        await self._run("rerank")
        marks = [f"source_missing:{name}" for name in self.missing] + ["unknown_user"] * (not query.user.as_of)
        return slate(query.request_id, [f"a{i}" for i in scored], marks)

    def recall_order(self, found: list[int]) -> list[int]:
        return found[::-1]

    def check_health(self) -> None:
        pass

    def close(self) -> None:
        pass

    async def _run(self, stage: str) -> None:
        self.calls[stage] += 1
        match self.trouble.get(stage):
            case "raise":
                raise OSError(f"{stage} is broken")
            case "hang":
                await self.go.wait()


class Store:
    """Knows user "known"; may be away."""

    def __init__(self) -> None:
        self.away = False
        self.slates: dict[tuple[str, str], FinishedSlate] = {}
        self.lists: dict[str, Precomputed] = {}

    async def user_and_slate(
        self, user_id: str, view: str, field: str
    ) -> tuple[UserRow, FinishedSlate | None, Interests, NDArray[np.uint64]]:
        self._check()
        row = KNOWN if user_id == "known" else EMPTY_USER
        return row, self.slates.get((user_id, field)), NO_INTERESTS, NOT_SERVED

    async def precomputed(self, user_id: str) -> Precomputed | None:
        self._check()
        return self.lists.get(user_id)

    async def alive(self) -> bool:
        return not self.away

    def _check(self) -> None:
        if self.away:
            raise OSError("away")


class Observed:
    """Remembers failures."""

    def __init__(self) -> None:
        self.failures: list[tuple[str, str]] = []

    def stage(self, release: str, stage: str, ms: float) -> None:
        pass

    def failed(self, release: str, stage: str, reason: str, error: BaseException | None) -> None:
        self.failures.append((stage, reason))


class World:
    """A gateway over fakes, within a running loop."""

    def __init__(
        self,
        *,
        most: int = 256,
        popular: bool = True,
        caches: bool = True,
        usual_s: float = 2.0,
        expose: Callable[[str, Answer], None] | None = None,
        unprofiled: Callable[[str, Context], bool] = lambda _, __: False,
    ) -> None:
        self.flags = NO_FLAGS
        self.stages, self.store, self.observed = Stages(), Store(), Observed()
        self.shift_s = 0.0
        self.served: list[Served] = []
        self.popular = popular_list() if popular else None

        async def poll() -> Traffic:
            return Traffic(1, {"rel": 1.0}, {"rel": "v1"})

        async def connect(release: str) -> Connected:
            return self.stages, self.popular

        config = CacheConfig() if caches else CacheConfig(ttl_s=0, stale_s=0)
        self.cache = SlateCache(config, clock=lambda: time.time() + self.shift_s)
        self.admission = Admission(1.0, least=1, most=most)
        self.fleet = Fleet(poll, connect)
        self.service = GatewayService(
            self.store,
            self.fleet,
            self.cache,
            self.observed,
            self.admission,
            topology="fused",
            replica="r0",
            usual_s=usual_s,
            unprofiled=unprofiled,
            flags=lambda: self.flags,
        )
        self.app = HttpApp(self.service, deadline_ms=2000, max_deadline_ms=60_000, record=self.served.append, expose=expose)

    async def start(self) -> "World":
        await self.fleet.load_now(5)
        return self

    async def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://reco") as client:
            return await client.request(method, path, **more)

    async def post(self, path: str = POST, *, ms: int = 10_000, **body: Any) -> httpx.Response:
        return await self.ask("POST", path, json=body, headers={"x-request-timeout-ms": str(ms)})

    async def get(self, **body: Any) -> dict[str, Any]:
        """Ask for user "known" and expect an answer that is honest about itself."""
        answer = await self.get_any(**{"user_id": "known", "k": 3, **body})
        assert (answer["rung"] == "full") == ({*answer["degraded"]} <= {"unknown_user", "short_slate"}), answer
        return answer

    async def get_any(self, path: str = POST, **body: Any) -> dict[str, Any]:
        """Ask, and expect an answer."""
        response = await self.post(path, **body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def remember(self, **body: Any) -> list[str]:
        """Let a full slate into level 1 and grow too old to be answered; returns its items."""
        found = items(await self.get(**body))
        self.shift_s += OLD_S
        return found

    def share(self, age_s: float, ids: tuple[str, ...] = ("s1", "s2", "s3")) -> None:
        """Let another replica have made user "known"'s slate of three."""
        key = cache_key(RecommendationsBody(user_id="known", k=3), "rel", "main")
        tail = orjson.dumps({"release": "rel", "variant": "main", "rung": "full", "items": written(ids), "degraded": []})[1:]
        made = time.time() + self.shift_s - age_s
        self.store.slates["known", key.field] = FinishedSlate(tail, '"s"', "rel", made, draw_id="other", stored=True)

    def precompute(self, *ids: str) -> None:
        n = len(ids)
        self.store.lists["known"] = Precomputed(time.time() - 60, "older", ids, ids, (1.0,) * n, (("popular",),) * n)


def slate(request_id: str, ids: list[str], degraded: list[str]) -> Slate:
    ones = np.ones(len(ids), np.float32)
    return Slate(request_id, tuple(ids), tuple(ids), ones, ones, tuple(("popular",) for _ in ids), tuple(degraded))


def written(ids: tuple[str, ...]) -> list[dict[str, object]]:
    return [{"item_id": i, "title": i, "score": 1.0, "position": at, "reasons": []} for at, i in enumerate(ids, 1)]


def popular_list() -> PopularList:
    found = [
        {"item_id": f"hit-{i}", "title": "", "score": 1 / (1 + i), "year": 1990 + i, "categories": ["odd" if i % 2 else "even"]}
        for i in range(20)
    ]
    return PopularList(orjson.dumps({"format": 1, "seen_items_return": False, "items": found}), "rel")


def items(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def outcome(answer: dict[str, Any]) -> tuple[str, list[str], list[str]]:
    return answer["rung"], answer["degraded"], items(answer)


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await story()

    asyncio.run(bounded())


async def until(check: Callable[[], bool]) -> None:
    """Let the loop turn until something has happened; `run` bounds it."""
    while not check():
        await asyncio.sleep(0.001)


def test_with_everything_up_the_answer_is_full() -> None:
    async def story() -> None:
        world = await World().start()
        assert outcome(await world.get()) == ("full", [], ["a0", "a1", "a2"])
        assert outcome(await world.get(user_id="nobody")) == ("full", ["unknown_user"], ["a0", "a1", "a2"])
        assert [(s.rung, s.cache, s.items) for s in world.served] == [("full", "made", 3)] * 2

    run(story)


def test_a_source_that_is_missing_is_named() -> None:
    async def story() -> None:
        world = await World().start()
        world.stages.missing = ("covisit",)
        assert outcome(await world.get()) == ("fewer_sources", ["source_missing:covisit"], ["a0", "a1", "a2"])

    run(story)


@pytest.mark.parametrize(("trouble", "reason", "ms"), [("raise", "failed", 10_000), ("hang", "late", 500)])
def test_without_its_ranker_the_answer_keeps_recalls_order(trouble: str, reason: str, ms: int) -> None:
    async def story() -> None:
        world = await World().start()
        world.stages.trouble["rank"] = trouble
        assert outcome(await world.get(ms=ms)) == ("recall_order", ["ranker_unavailable"], ["a2", "a1", "a0"])
        assert world.observed.failures == [("rank", reason)]

    run(story)


def test_a_ranker_that_failed_again_and_again_is_not_asked_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reco_ray.serve.guard.breaker._LASTING_S", 0.0)

    async def story() -> None:
        world = await World(caches=False).start()
        world.stages.trouble["rank"] = "raise"
        for _ in range(5):
            await world.get()
        world.stages.trouble.clear()
        assert outcome(await world.get()) == ("recall_order", ["ranker_unavailable"], ["a2", "a1", "a0"])
        assert world.stages.calls["rank"] == 5
        assert world.observed.failures[-1] == ("rank", "open")

    run(story)


def test_without_the_store_the_answer_is_nobodys_and_does_not_claim_that_the_user_is_unknown() -> None:
    async def story() -> None:
        world = await World().start()
        world.store.away = True
        assert outcome(await world.get()) == ("anonymous", ["store_unavailable"], ["a0", "a1", "a2"])
        assert outcome(await world.get(user_id="")) == ("full", ["unknown_user"], ["a0", "a1", "a2"])
        world.stages.trouble["rank"] = "raise"
        assert (await world.get(k=2))["degraded"] == ["store_unavailable", "ranker_unavailable"]

    run(story)


def test_without_the_store_an_older_slate_of_the_user_comes_before_a_new_one_of_nobody() -> None:
    async def story() -> None:
        world = await World().start()
        kept = await world.remember()
        world.store.away = True
        assert outcome(await world.get()) == ("cached", ["store_unavailable"], kept)
        assert outcome(await world.get(exclude=["a1"])) == ("cached", ["store_unavailable", "short_slate"], ["a0", "a2"])

    run(story)


@pytest.mark.parametrize(("stage", "trouble"), [("recall", "raise"), ("rerank", "raise"), ("recall", "hang")])
def test_without_recall_or_rerank_an_older_slate_stands_in(stage: str, trouble: str) -> None:
    async def story() -> None:
        world = await World().start()
        kept = await world.remember()
        world.stages.trouble[stage] = trouble
        assert outcome(await world.get(ms=500)) == ("cached", [f"{stage}_unavailable"], kept)

    run(story)


def test_an_older_slate_that_another_replica_made_stands_in_as_well() -> None:
    async def story() -> None:
        world = await World().start()
        world.share(OLD_S)
        world.stages.trouble["recall"] = "raise"
        assert outcome(await world.get()) == ("cached", ["recall_unavailable"], ["s1", "s2", "s3"])
        world.share(1e6)
        assert (await world.get())["rung"] == "popular", "nothing stands in for ever"

    run(story)


def test_a_young_slate_of_another_replica_is_the_answer_and_no_stage_runs() -> None:
    async def story() -> None:
        world = await World().start()
        world.share(1)
        assert outcome(await world.get()) == ("full", [], ["s1", "s2", "s3"])
        assert world.stages.calls["recall"] == 0
        assert outcome(await world.get()) == ("full", [], ["s1", "s2", "s3"])
        assert [served.cache for served in world.served] == ["made", "fresh"]

    run(story)


def test_a_precomputed_slate_loses_what_is_excluded_and_was_seen_and_does_not_answer_filters() -> None:
    async def story() -> None:
        world = await World().start()
        world.precompute("p0", "p1", "p2", "p3", "p4", "p5")
        world.stages.trouble["recall"] = "raise"
        answer = await world.get(exclude=["p0"], session=["p1"])
        assert outcome(answer) == ("precomputed", ["recall_unavailable"], ["p3", "p4", "p5"])
        assert answer["release"] == "older"
        assert answer["age_s"] >= 60
        short = await world.get(k=4, exclude=["p0", "p1"])
        assert outcome(short) == ("precomputed", ["recall_unavailable", "short_slate"], ["p3", "p4", "p5"])
        filtered = await world.get(filters={"category": ["even"]})
        assert outcome(filtered) == ("popular", ["recall_unavailable"], ["hit-0", "hit-4", "hit-6"]), "hit-2 was seen"

    run(story)


def test_popular_items_are_the_last_rung_and_honour_what_the_request_says() -> None:
    async def story() -> None:
        world = await World().start()
        world.stages.trouble["rerank"] = "raise"
        answer = await world.get(
            filters={"category": ["even"], "year": [str(1990 + i) for i in range(2, 20)]}, exclude=["hit-4"]
        )
        assert outcome(answer) == ("popular", ["rerank_unavailable"], ["hit-6", "hit-8", "hit-10"])
        nothing = await world.post(user_id="known", filters={"category": ["none such"]})
        assert (nothing.status_code, nothing.json()["type"]) == (503, "/docs#stage-unavailable")

    run(story)


def test_similar_items_of_a_release_that_fails_are_popular_ones_and_say_so() -> None:
    async def story() -> None:
        world = await World().start()
        world.precompute("p0")
        world.stages.trouble["recall"] = "raise"
        answer = (await world.post("/v1/similar-items", item_id="x", k=2)).json()
        assert outcome(answer) == ("popular", ["recall_unavailable"], ["hit-0", "hit-1"])

    run(story)


@pytest.mark.parametrize("stage", ["recall", "rerank"])
def test_the_callers_own_items_come_back_in_the_callers_order(stage: str) -> None:
    async def story() -> None:
        world = await World().start()
        world.stages.trouble[stage] = "raise"
        own = [{"item_id": "x"}, {"item_id": "y", "score": 2.0}, {"item_id": "z", "score": 3.0}]
        answer = (await world.post("/v1/rank", user_id="known", items=own, k=2)).json()
        assert outcome(answer) == ("caller_order", [f"{stage}_unavailable"], ["z", "y"])
        world.store.away = True
        answer = (await world.post("/v1/rank", user_id="known", items=own)).json()
        assert outcome(answer) == ("caller_order", ["store_unavailable", f"{stage}_unavailable"], ["z", "y", "x"])

    run(story)


def test_only_where_there_is_nothing_at_all_the_answer_is_a_problem() -> None:
    async def story() -> None:
        world = await World(popular=False).start()
        world.stages.trouble["recall"] = "raise"
        response = await world.post(user_id="known")
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert response.json()["type"] == "/docs#stage-unavailable"
        assert world.admission.at_work == 0
        world.precompute("p0")
        assert (await world.get())["rung"] == "precomputed"

    run(story)


troubles = st.fixed_dictionaries({stage: st.sampled_from([None, None, "raise"]) for stage in ("recall", "rank", "rerank")})
ages = st.sampled_from([None, "young", "old"])


@given(troubles, st.booleans(), ages, ages, st.booleans(), st.booleans(), st.booleans())
def test_whatever_fails_the_best_rung_that_is_left_answers_and_names_what_failed(
    trouble: dict[str, str | None],
    away: bool,
    own: str | None,
    shared: str | None,
    precomputed: bool,
    popular: bool,
    filtered: bool,
) -> None:
    filters = {"category": ["even"]} if filtered else {}

    def expected() -> str:
        if own == "young":
            return "full"
        if away and own:
            return "cached"
        if not away and not filtered and shared == "young":
            return "full"
        if not (trouble["recall"] or trouble["rerank"]):
            return "anonymous" if away else "recall_order" if trouble["rank"] else "full"
        if own or (shared and not away and not filtered):
            return "cached"
        if precomputed and not away and not filtered:
            return "precomputed"
        return "popular" if popular else "none"

    async def story() -> None:
        world = await World(popular=popular).start()
        if own:
            await world.get(filters=filters)
            world.shift_s += OLD_S if own == "old" else 0
        if shared:
            world.share(OLD_S if shared == "old" else 1)
        if precomputed:
            world.precompute("p0", "p1", "p3")
        world.store.away = away
        world.stages.trouble = {stage: kind for stage, kind in trouble.items() if kind}
        if (rung := expected()) == "none":
            response = await world.post(user_id="known", k=3, filters=filters)
            assert (response.status_code, response.json()["type"]) == (503, "/docs#stage-unavailable")
        else:
            answer = await world.get(filters=filters)
            assert answer["rung"] == rung
            assert len(answer["items"]) == 3
            assert away or not set(items(answer)) & set(SEEN)
            if rung != "full":
                assert ("store_unavailable" in answer["degraded"]) == away
        assert world.admission.at_work == 0

    run(story)


def test_an_overloaded_gateway_says_when_to_come_again_or_gives_an_older_slate() -> None:
    async def story() -> None:
        world = await World(most=1).start()
        kept = await world.remember()
        world.stages.trouble["recall"] = "hang"
        first = asyncio.create_task(world.get(user_id="first"))
        await until(lambda: world.admission.at_work == 1)
        response = await world.post(user_id="nobody")
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert response.json()["type"] == "/docs#overloaded"
        assert outcome(await world.get()) == ("cached", ["overloaded"], kept)
        own = [{"item_id": "x"}, {"item_id": "y"}]
        assert outcome((await world.post("/v1/rank", items=own)).json()) == ("caller_order", ["overloaded"], ["x", "y"])
        world.stages.go.set()
        assert (await first)["rung"] == "full"
        assert world.admission.at_work == 0

    run(story)


def test_an_overloaded_gateway_gives_an_older_slate_that_another_replica_made() -> None:
    async def story() -> None:
        world = await World(most=1).start()
        world.share(OLD_S)
        world.stages.trouble["recall"] = "hang"
        first = asyncio.create_task(world.get(user_id="first"))
        await until(lambda: world.admission.at_work == 1)
        assert outcome(await world.get()) == ("cached", ["overloaded"], ["s1", "s2", "s3"])
        world.stages.go.set()
        await first

    run(story)


def test_a_caller_who_joins_and_whose_own_budget_ends_first_gets_what_is_there() -> None:
    async def story() -> None:
        world = await World(usual_s=0.0).start()
        kept = await world.remember()
        world.stages.trouble["recall"] = "hang"
        first, other = asyncio.create_task(world.get()), asyncio.create_task(world.get(user_id="other"))
        await until(lambda: world.admission.at_work == 2)
        assert outcome(await world.get(ms=20)) == ("cached", ["late"], kept)
        assert outcome(await world.get(user_id="other", ms=20)) == ("popular", ["late"], ["hit-0", "hit-1", "hit-2"])
        world.stages.go.set()
        assert (await first)["rung"] == (await other)["rung"] == "full"
        assert world.stages.calls["recall"] == 3, "once to remember, once for each user"

    run(story)


def test_a_caller_in_a_hurry_does_not_spoil_the_answer_of_those_with_time() -> None:
    async def story() -> None:
        world = await World().start()
        world.stages.trouble["rank"] = "hang"
        hasty = asyncio.create_task(world.get(ms=400))
        await until(lambda: world.stages.calls["rank"] == 1)
        patient = asyncio.create_task(world.get(ms=10_000))
        assert (await hasty)["degraded"] == ["ranker_unavailable"]
        world.stages.go.set()
        assert outcome(await patient) == ("full", [], ["a0", "a1", "a2"])

    run(story)


def test_callers_in_a_hurry_do_not_open_a_breaker_for_everybody() -> None:
    async def story() -> None:
        world = await World(caches=False).start()
        world.stages.trouble["recall"] = "hang"
        for i in range(20):
            answer = await world.get(user_id=f"hasty-{i}", ms=1)
            assert {*answer["degraded"]} <= {"late", "store_unavailable", "recall_unavailable"}
        world.stages.trouble.clear()
        assert outcome(await world.get()) == ("full", [], ["a0", "a1", "a2"])

    run(story)


def test_fifty_who_ask_the_same_run_the_stages_once_and_each_gets_an_answer_of_its_own() -> None:
    async def story() -> None:
        world = await World().start()
        world.stages.trouble["rank"] = "hang"

        async def ask(i: int) -> dict[str, Any]:
            response = await world.ask("POST", POST, json={"user_id": "known"}, headers={"x-request-id": f"q{i}"})
            found: dict[str, Any] = response.json()
            return found

        asked = [asyncio.create_task(ask(i)) for i in range(50)]
        await until(lambda: world.cache.stats.joined == 49)
        world.stages.go.set()
        answers = await asyncio.gather(*asked)
        assert world.stages.calls == {"recall": 1, "rank": 1, "rerank": 1}
        assert [answer.pop("request_id") for answer in answers] == [f"q{i}" for i in range(50)]
        assert all(outcome(answer) == outcome(answers[0]) and answer["rung"] == "full" for answer in answers)

    run(story)


def test_when_the_stages_fail_all_who_wait_hear_of_it_and_the_next_one_asks_again() -> None:
    async def story() -> None:
        world = await World(popular=False).start()
        world.stages.trouble = {"rank": "hang", "rerank": "raise"}
        asked = [asyncio.create_task(world.post(user_id="known")) for _ in range(10)]
        await until(lambda: world.cache.stats.joined == 9)
        world.stages.go.set()
        assert {response.status_code for response in await asyncio.gather(*asked)} == {503}
        world.stages.trouble.clear()
        assert (await world.get())["rung"] == "full"

    run(story)


def test_a_get_with_the_etag_it_was_given_is_answered_304_out_of_the_cache() -> None:
    async def story() -> None:
        world = await World().start()
        path = f"{POST}/known?k=3"
        first = await world.ask("GET", path)
        again = await world.ask("GET", path)
        assert again.headers["etag"] == first.headers["etag"]
        unchanged = await world.ask("GET", path, headers={"if-none-match": first.headers["etag"]})
        assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", first.headers["etag"])
        assert [served.cache for served in world.served] == ["made", "fresh", "fresh"]
        assert world.stages.calls["recall"] == 1
        world.shift_s += OLD_S
        world.stages.trouble["recall"] = "raise"
        fallback = await world.ask("GET", path, headers={"if-none-match": first.headers["etag"]})
        assert (fallback.status_code, fallback.json()["rung"]) == (200, "cached"), "the same items, but not the same answer"

    run(story)


@pytest.mark.parametrize(
    "trouble", [{"rank": "raise"}, {"recall": "raise"}, {"rerank": "raise"}, {"missing": "covisit"}, {"store": "away"}]
)
def test_an_answer_that_a_failure_made_is_not_given_again(trouble: dict[str, str]) -> None:
    async def story() -> None:
        world = await World().start()
        world.stages.trouble = trouble
        world.stages.missing = ("covisit",) * ("missing" in trouble)
        world.store.away = "store" in trouble
        assert (await world.get())["degraded"] != []
        assert len(world.cache) == 0
        world.stages.trouble, world.stages.missing, world.store.away = {}, (), False
        assert outcome(await world.get()) == ("full", [], ["a0", "a1", "a2"])

    run(story)


def test_a_purge_that_others_ordered_reaches_the_cache() -> None:
    async def story() -> None:
        world = await World().start()
        ordered = [Purges("1-0"), Purges("2-0", users=(user_digest("known"),)), Purges("2-0"), Purges("3-0", releases=("rel",))]
        ordered.append(Purges("4-0", everything=True))
        asked: list[str] = []

        async def since(last_id: str) -> Purges:
            asked.append(last_id)
            return ordered[len(asked) - 1]

        follower = PurgeFollower(since, world.cache, Refresher(60))
        await follower.refresh()
        found = []
        for _ in ordered[1:]:
            await world.get()
            await world.get(user_id="nobody")
            await follower.refresh()
            found.append(len(world.cache))
        assert found == [1, 2, 0, 0]
        assert asked == ["", "1-0", "2-0", "2-0", "3-0"]

    run(story)


def test_a_follower_of_purges_outlives_a_store_that_is_away() -> None:
    async def story() -> None:
        world = await World().start()
        looks: list[str] = []
        told = asyncio.Event()

        async def since(last_id: str) -> Purges:
            looks.append(last_id)
            if len(looks) == 2:
                raise OSError("away")
            return Purges("5-0", everything=len(looks) == 3)

        def tell() -> None:
            if len(looks) == 4:
                told.set()

        await world.get()
        task = asyncio.create_task(PurgeFollower(since, world.cache, Refresher(60), tell, interval_s=0).run())
        await told.wait()
        assert looks == ["", "5-0", "5-0", "5-0"]
        assert len(world.cache) == 0
        task.cancel()

    run(story)


@pytest.fixture(scope="module")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with embedded_store(compose_config([f"root={tmp_path_factory.mktemp('root')}", f"store.port={port}"])) as url:
        yield url


class Metrics(Observed):
    """Counts what a gateway counts."""

    def __init__(self) -> None:
        super().__init__()
        self.served_rungs: list[str] = []
        self.cache_state: dict[str, int] = {}
        self.exposures: Counter[str] = Counter()

    def served(self, call: str, status: int, release: str, variant: str, rung: str, degraded: Any, ms: float) -> None:
        self.served_rungs.append(rung)

    def rejected(self, reason: str) -> None:
        pass

    def left(self, stage: str, rows: int, queued_s: float) -> None:
        pass

    def exposed(self, sent: int, lost: Mapping[str, int], failures: int, waiting: int) -> None:
        self.exposures.update(sent=sent, failures=failures, **lost)

    def state(self, cache: dict[str, int], cache_bytes: int, limit: int) -> None:
        for name, n in cache.items():
            self.cache_state[name] = self.cache_state.get(name, 0) + n


class Replica:
    """A whole gateway replica over a real store, with stages of fakes."""

    def __init__(self, url: str, name: str, namespace: str, folder: Path) -> None:
        self.stages, self.metrics = Stages(), Metrics()

        async def connect(release: str) -> Connected:
            return self.stages, popular_list()

        args = GatewayArgs(root="", store_url=url, namespace=namespace, store_timeout_ms=2000, deadline_ms=10_000)
        self.parts = GatewayParts(args, self.metrics, lambda left: connect, dict, name, folder, EventCounts(), ItemCounts())

    async def get(self, **body: Any) -> dict[str, Any]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.parts.http), base_url="http://reco") as client:
            found: dict[str, Any] = (await client.post(POST, json=body)).json()
            return found


def exposures_on(url: str, namespace: str) -> list[dict[str, Any]]:
    """All decisions on the bus, in the order of their times."""
    config = EventsConfig()
    found: list[dict[str, Any]] = []
    for partition in range(config.bus.partitions):
        with contextlib.closing(open_reader(config, namespace, url, EXPOSURES, partition)) as reader:
            found += rows_to_table(reader.read(-1, 1000, 0), DateUnit.day).to_pylist()
    return sorted(found, key=lambda row: row["ts"])


def test_two_whole_replicas_share_slates_and_purges_through_a_real_store(store_url: str, tmp_path: Path) -> None:
    async def story() -> None:
        store = OnlineStore(store_url, "ladder")
        store.set_traffic({"rel": 1.0}, {"rel": "v1"})
        store.write_users([("known", KNOWN)], "v1")
        one, two = (Replica(store_url, name, "ladder", tmp_path) for name in ("one", "two"))
        await one.parts.start()
        await two.parts.start()
        one.parts.check_health()
        wish = {"user_id": "known", "k": 3}
        assert outcome(await one.get(**wish)) == ("full", [], ["a0", "a1", "a2"])
        slates, field = SlateStore(store), cache_key(RecommendationsBody(**wish), "rel", "main").field
        while (await slates.users_and_slates(["known"], ["v1"], [field]))[0][1] is None:
            await asyncio.sleep(0.01)
        assert outcome(await two.get(**wish)) == ("full", [], ["a0", "a1", "a2"])
        assert two.stages.calls["recall"] == 0
        await asyncio.to_thread(slates.purge_user, "known")
        await until(lambda: one.metrics.cache_state.get("purged") == two.metrics.cache_state.get("purged") == 1)
        await two.get(**wish)
        assert two.stages.calls["recall"] == 1
        for replica in (one, two):
            await replica.parts.stop()
        assert one.metrics.served_rungs == ["full"]
        lines = [json.loads(line) for line in (tmp_path / "requests_two.jsonl").read_text().splitlines()]
        assert [(line["rung"], line["cache"], line["items"]) for line in lines] == [("full", "made", 3)] * 2
        decisions = exposures_on(store_url, "ladder")
        assert [(row["user_id"], row["item_ids"]) for row in decisions] == [("known", ["a0", "a1", "a2"])] * 3
        assert [row["draw_id"] == row["request_id"] for row in decisions] == [True, False, True], "the second was shared"
        assert decisions[1]["draw_id"] == decisions[0]["request_id"]
        assert (one.metrics.exposures + two.metrics.exposures)["sent"] == 3
        await store.calls.aclose()
        store.blocking_calls.close()

    run(story)


def test_a_replica_whose_background_task_has_ended_asks_to_be_replaced(store_url: str, tmp_path: Path) -> None:
    async def story() -> None:
        store = OnlineStore(store_url, "ended")
        store.set_traffic({"rel": 1.0}, {"rel": "v1"})
        replica = Replica(store_url, "r", "ended", tmp_path)
        await replica.parts.start()
        replica.parts.check_health()

        def broken(cache: dict[str, int], cache_bytes: int, limit: int) -> None:
            raise RuntimeError("metrics are broken")

        replica.metrics.state = broken  # type: ignore[method-assign]

        def complains() -> bool:
            try:
                replica.parts.check_health()
            except NotReadyError:
                return True
            return False

        await until(complains)
        with pytest.raises(NotReadyError, match="found the task for purges ended, expected it to run; replace the replica"):
            replica.parts.check_health()
        await replica.parts.stop()
        await store.calls.aclose()
        store.blocking_calls.close()

    run(story)
