"""What is said of a user: kept, given to the first slates until the user has done something, erased."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
import uvicorn
import xgboost
from event_fakes import EventCounts
from hypothesis import given
from hypothesis import strategies as st
from item_fakes import ItemCounts
from test_ladder import Metrics

from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.config import RerankConfig
from reco_ray.errors import NotReadyError, SchemaError
from reco_ray.features import Catalogue, user_row
from reco_ray.hashing import item_keys, user_digest
from reco_ray.rank import XGBoostRanker
from reco_ray.rank.stage import rank_features
from reco_ray.recall.query import make_query
from reco_ray.rerank import Rerank
from reco_ray.serve.args import GatewayArgs
from reco_ray.serve.assembly import GatewayParts
from reco_ray.serve.http.answers import rank_request, recommend_request
from reco_ray.serve.http.contract import RankBody, RecommendationsBody
from reco_ray.serve.http.problems import HttpProblem
from reco_ray.serve.http.user_bodies import UserBody
from reco_ray.serve.path import wire
from reco_ray.serve.path.fleet import Connected
from reco_ray.serve.path.profiles import ProfileCalls
from reco_ray.serve.path.stages import InProcess
from reco_ray.slate import Pipeline, PopularList
from reco_ray.store import (
    NO_INTERESTS,
    ErasureStore,
    Interests,
    OnlineStore,
    Profile,
    ProfileStore,
    SlateStore,
    pack_profile,
    unpack_interests,
    unpack_profile,
)
from reco_ray.types import EMPTY_USER, Candidates, Request, Slate, UserRow

COMEDY = Interests(("Comedy",), ("i1", "i2"))
KIM = "kim/ü-7"
HISTORY = item_keys(["item-1", "item-3"])
KNOWN = UserRow(HISTORY, np.ones(2, np.float32), np.sort(HISTORY), as_of=1)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with embedded_store(compose_config([f"root={tmp_path_factory.mktemp('root')}", f"store.port={port}"])) as url:
        yield url


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
lists = st.lists(texts, max_size=5).map(tuple)


@given(st.dictionaries(texts, texts, max_size=5), lists, lists, st.floats(0, 2e9))
def test_a_profile_survives_packing(
    attributes: dict[str, str], categories: tuple[str, ...], items: tuple[str, ...], saved: float
) -> None:
    given_ = Profile(attributes, Interests(categories, items), saved)
    assert unpack_profile(pack_profile(given_)) == given_
    assert unpack_interests(pack_profile(given_)) == given_.interests


@pytest.mark.parametrize("raw", [b"", b"short", b"\xff" * 40, pack_profile(Profile(interests=COMEDY))[:20]])
def test_a_damaged_profile_is_refused_and_not_shown(raw: bytes) -> None:
    for unpack in (unpack_profile, unpack_interests):
        with pytest.raises(SchemaError, match=r"profile: found \d+ bytes.*send it again"):
            unpack(raw)


def test_nothing_personal_is_shown_by_a_repr() -> None:
    shown = repr(Profile({"plan": "family"}, COMEDY, 1.0))
    assert not [word for word in ("plan", "family", "Comedy", "i1") if word in shown]


class World:
    """A store with a namespace of its own."""

    def __init__(self, store: OnlineStore) -> None:
        self.store, self.slates = store, SlateStore(store)
        self.profiles = ProfileStore(store, self.slates)
        self.key = store.key("profile", user_digest(KIM))

    async def read(self, user_id: str = KIM) -> tuple[object, Interests]:
        ((row, _, interests, _),) = await self.slates.users_and_slates([user_id], ["v1"], ["f"])
        return row, interests

    def purged(self) -> int:
        return self.store.blocking_calls.xlen(self.store.key("purges"))


@pytest.fixture
def play(url: str, request: pytest.FixtureRequest) -> Callable[[Callable[[World], Awaitable[None]]], None]:
    def run(story: Callable[[World], Awaitable[None]]) -> None:
        async def bounded() -> None:
            with OnlineStore(url, f"profiles-{request.node.name}") as store:
                try:
                    async with asyncio.timeout(30):
                        await story(World(store))
                finally:
                    await store.calls.aclose()

        asyncio.run(bounded())

    return run


Play = Callable[[Callable[[World], Awaitable[None]]], None]


def test_a_profile_is_kept_without_end_under_a_key_that_names_nobody(play: Play) -> None:
    async def story(world: World) -> None:
        assert await world.profiles.load(KIM) is None
        assert await world.profiles.save(KIM, Profile({"plan": "family"}, COMEDY, 12.5))
        assert await world.profiles.load(KIM) == Profile({"plan": "family"}, COMEDY, 12.5)
        assert await world.profiles.load("other") is None
        assert world.store.blocking_calls.ttl(world.key) == -1
        assert not [key for key in world.store.blocking_calls.keys(world.store.key("*")) if b"kim" in key]
        assert await world.profiles.save(KIM, Profile({"plan": "single"}, NO_INTERESTS, 13.0))
        assert await world.profiles.load(KIM) == Profile({"plan": "single"}, NO_INTERESTS, 13.0), "nothing is added up"

    play(story)


def test_interests_come_with_the_row_until_there_is_a_history(play: Play) -> None:
    async def story(world: World) -> None:
        assert await world.read() == (EMPTY_USER, NO_INTERESTS)
        await world.profiles.save(KIM, Profile({"plan": "family"}, COMEDY))
        assert await world.read() == (EMPTY_USER, COMEDY)
        assert await world.read("") == (EMPTY_USER, NO_INTERESTS)
        users = ["a", KIM, "", KIM]
        found = await world.slates.users_and_slates(users, ["v1"] * 4, ["f", "", "f", "f"])
        assert [interests for _, _, interests, _ in found] == [NO_INTERESTS, COMEDY, NO_INTERESTS, COMEDY]
        world.store.write_users([(KIM, KNOWN)], "v1")
        row, interests = await world.read()
        assert isinstance(row, UserRow)
        assert (row.as_of, interests) == (1, NO_INTERESTS)

    play(story)


def test_a_value_that_cannot_be_read_is_no_interests_and_is_replaced(play: Play) -> None:
    async def story(world: World) -> None:
        world.store.blocking_calls.set(world.key, b"\xff" * 40)
        assert await world.read() == (EMPTY_USER, NO_INTERESTS)
        with pytest.raises(SchemaError, match="send it again"):
            await world.profiles.load(KIM)
        with pytest.raises(HttpProblem, match="not-found"):
            await ProfileCalls(world.profiles, lambda _: False, lambda _: None).show(KIM)
        assert await world.profiles.save(KIM, Profile(interests=COMEDY))
        assert await world.read() == (EMPTY_USER, COMEDY)

    play(story)


def test_other_interests_purge_the_users_slates_and_the_same_ones_do_not(play: Play) -> None:
    async def story(world: World) -> None:
        for profile, purges in (
            (Profile({"plan": "family"}), 0),
            (Profile({"plan": "family"}, COMEDY), 1),
            (Profile({"plan": "single"}, COMEDY), 1),
            (Profile({}, Interests(("Comedy",))), 2),
            (Profile({}), 3),
        ):
            slates = world.store.key("slates", user_digest(KIM))
            world.store.blocking_calls.hset(slates, "f", b"x")
            before = world.purged()
            await world.profiles.save(KIM, profile)
            assert world.purged() == purges
            assert world.store.blocking_calls.exists(slates) == (purges == before)

    play(story)


def test_nothing_is_kept_of_who_is_being_erased_and_all_of_who_comes_back(play: Play) -> None:
    async def story(world: World) -> None:
        erasures = ErasureStore(world.store)
        await asyncio.to_thread(erasures.request, KIM, "e1", b"{}", 1)
        assert not await world.profiles.save(KIM, Profile(interests=COMEDY))
        assert await world.profiles.load(KIM) is None
        assert world.purged() == 0
        assert await world.profiles.save("other", Profile(interests=COMEDY))
        await asyncio.to_thread(erasures.finish, user_digest(KIM), "e1", b"{}", 2)
        assert await world.profiles.save(KIM, Profile(interests=COMEDY))

    play(story)


def test_a_fence_that_goes_up_while_a_profile_is_written_keeps_it_out(play: Play) -> None:
    async def story(world: World) -> None:
        class Raced(SlateStore):
            def purge_within(self, pipe: Any, user: str) -> None:
                ErasureStore(world.store).request(KIM, "e1", b"{}", 1)
                super().purge_within(pipe, user)

        assert not await ProfileStore(world.store, Raced(world.store)).save(KIM, Profile(interests=COMEDY))
        assert await world.profiles.load(KIM) is None
        assert world.purged() == 0

    play(story)


def test_an_absent_store_says_so() -> None:
    async def check() -> None:
        with OnlineStore("redis://127.0.0.1:1", "x") as store:
            profiles = ProfileStore(store, SlateStore(store))
            with pytest.raises(NotReadyError, match="does not answer"):
                await profiles.load(KIM)
            with pytest.raises(NotReadyError, match="does not answer"):
                await profiles.save(KIM, Profile())
            told: list[str] = []
            calls = ProfileCalls(profiles, lambda _: False, told.append)
            for call in (calls.show(KIM), calls.keep(KIM, UserBody(attributes={}))):
                with pytest.raises(HttpProblem) as caught:
                    await call
                assert caught.value.status == 503
            assert told == [], "nothing was kept"
            await store.calls.aclose()

    asyncio.run(check())


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Pipeline:
    """With a small model that was trained on noise: enough to give an order that is not recall's."""
    features = rank_features(folder)
    rng = np.random.default_rng(0)
    x = rng.random((60, len(features.columns)), np.float32)
    matrix = xgboost.DMatrix(x, label=rng.integers(0, 2, 60), qid=np.repeat([0, 1, 2], 20))
    whole = Pipeline.load(folder)
    whole.rank = XGBoostRanker(xgboost.train({"objective": "rank:ndcg", "max_depth": 2}, matrix, 5), features)
    return whole


def request(interests: Interests, **more: Any) -> Request:
    return recommend_request(RecommendationsBody(user_id=KIM, **{"k": 8, **more}), "r", EMPTY_USER, interests)


def numbers(slate: Slate) -> list[int]:
    return [int(item.removeprefix("item-")) for item in slate.item_ids]


def test_a_first_slate_shows_what_the_user_says_to_like(pipeline: Pipeline) -> None:
    even, odd, stranger = pipeline.run([request(Interests((name,))) for name in ("even", "odd", "of no release")])
    assert {number % 2 for number in numbers(even)} == {0}
    assert {number % 2 for number in numbers(odd)} == {1}
    assert even.degraded == odd.degraded == ()
    assert {reason for reasons in even.reasons for reason in reasons} <= {"popular", "trending", "fresh"}
    assert {number % 2 for number in numbers(stranger)} == {0, 1}
    assert stranger.degraded == ("unknown_user",), "nothing of it is known to this release"


def test_liked_items_are_a_history_and_do_not_come_back(pipeline: Pipeline) -> None:
    liked = Interests((), ("item-4", "item-10", "of no release", "item-8"))
    asked = request(liked)
    (slate,) = pipeline.run([asked])
    assert slate.degraded == ()
    assert not {4, 8, 10} & set(numbers(slate))
    (found,) = pipeline.recall.recall([asked])
    by_covisit = found.item_idx[found.source_ranks[:, pipeline.recall.names.index("covisit")] >= 0]
    assert {int(pipeline.recall.catalogue.item_ids[row][5:]) % 2 for row in by_covisit} == {0}  # type: ignore[attr-defined]
    (scores,) = pipeline.rank.score([asked], [found])
    assert scores.tolist() != found.scores.tolist(), "the ranker has its say"
    (unheard,) = pipeline.run([request(Interests((), ("of no release",)))])
    assert unheard.degraded == ("unknown_user",)


def test_liked_items_come_back_where_seen_items_do(catalogue: Catalogue) -> None:
    asked = request(Interests((), ("item-4",)), k=40)
    n = len(catalogue)
    ranks, own = np.zeros((n, 1), np.int16), np.zeros((n, 1), np.float32)
    found = Candidates(np.arange(n, dtype=np.int32), np.zeros(n, np.float32), np.ones(n, np.uint16), ranks, own)
    for returns in (False, True):
        stage = Rerank(catalogue, RerankConfig(seen_items_return=returns), ["popular"])
        (slate,) = stage.arrange([asked], [found], [found.scores])
        assert (4 in numbers(slate)) == returns


def test_a_session_is_newer_than_liked_items(catalogue: Catalogue) -> None:
    asked = request(Interests(("odd",), ("item-4", "item-6")), session=("item-8",))
    query = make_query(asked, catalogue, False, np.empty(0, np.int64))
    assert [catalogue.item_ids[row] for row in query.history] == ["item-6", "item-4", "item-8"]
    assert query.weights.tolist() == [1, 1, 1]


def test_own_items_are_ranked_for_what_the_user_says_to_like(pipeline: Pipeline) -> None:
    body = RankBody.model_validate({"user_id": KIM, "items": [{"item_id": f"item-{i}"} for i in (1, 4, 6, 3)]})
    likes = Interests(("even",), ("item-4", "item-8"))
    (slate,) = pipeline.run([rank_request(body, "r", EMPTY_USER, likes)])
    assert sorted(numbers(slate)) == [1, 3, 4, 6], "none of the caller's items drops out"
    assert slate.degraded == ()


@pytest.mark.parametrize("likes", [Interests(("odd",)), Interests((), ("item-4",)), Interests(("odd",), ("item-4", "item-5"))])
def test_packed_stages_give_the_same_slate(pipeline: Pipeline, likes: Interests) -> None:
    (whole,) = pipeline.run([request(likes)])
    asked = wire.unpack_request(wire.pack_request(request(likes)))
    found = wire.unpack_candidates(wire.pack_candidates(pipeline.recall.recall([asked])[0]))
    scores = wire.unpack_scores(wire.pack_scores(pipeline.rank.score([asked], [found])[0]))
    slate = wire.unpack_slate(wire.pack_slate(pipeline.rerank.arrange([asked], [found], [scores])[0]))
    assert (slate.item_ids, slate.reasons, slate.degraded) == (whole.item_ids, whole.reasons, whole.degraded)


class Replica:
    """A whole gateway replica over a real store, with the stages of a real release, behind a socket."""

    def __init__(self, url: str, name: str, namespace: str, folder: Path, release: Path) -> None:
        async def connect(release_id: str) -> Connected:
            return InProcess(Pipeline.load(release)), PopularList.load(release, release_id)

        args = GatewayArgs(root="", store_url=url, namespace=namespace, store_timeout_ms=2000, deadline_ms=10_000)
        self.parts = GatewayParts(args, Metrics(), lambda left: connect, dict, name, folder, EventCounts(), ItemCounts())
        self.calls = httpx.AsyncClient(timeout=30)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Replica"]:
        await self.parts.start()
        config = uvicorn.Config(self.parts.http, port=0, log_config=None, access_log=False, ws="none", lifespan="off")
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.001)
        port = server.servers[0].sockets[0].getsockname()[1]
        self.calls.base_url = httpx.URL(f"http://127.0.0.1:{port}")
        try:
            yield self
        finally:
            await self.calls.aclose()
            server.should_exit = True
            await task
            await self.parts.stop()

    async def slate(self, user_id: str = KIM, **more: Any) -> tuple[list[int], dict[str, Any]]:
        response = await self.calls.post("/v1/recommendations", json={"user_id": user_id, "k": 8, **more})
        assert response.status_code == 200, response.text
        answer = response.json()
        return [int(item["item_id"].removeprefix("item-")) for item in answer["items"]], answer

    async def put(self, body: object, user_id: str = "kim%2F%C3%BC-7") -> httpx.Response:
        return await self.calls.put(f"/v1/users/{user_id}", json=body)


def _covisited(answer: dict[str, Any]) -> set[str]:
    return {item["item_id"] for item in answer["items"] if "covisit" in item["reasons"]}


def test_over_http_the_first_slate_changes_with_the_interests_in_every_replica(
    url: str, tmp_path: Path, folder: Path, users: pl.DataFrame
) -> None:
    async def story() -> None:
        store = OnlineStore(url, "http")
        store.set_traffic({"rel": 1.0}, {"rel": "v1"})
        first, second = (Replica(url, name, "http", tmp_path, folder) for name in ("one", "two"))
        async with first.running() as one, second.running() as two:
            assert (await one.calls.get("/v1/users/kim%2F%C3%BC-7")).status_code == 404
            for replica in (one, two):
                found, answer = await replica.slate()
                assert {number % 2 for number in found} == {0, 1}
                assert answer["degraded"] == ["unknown_user"]
            liked = {"attributes": {"plan": "family"}, "interests": {"categories": ["odd", "Jazz"]}}
            response = await one.put(liked)
            assert response.status_code == 200, response.text
            found, answer = await one.slate()
            assert ({number % 2 for number in found}, answer["degraded"], answer["rung"]) == ({1}, [], "full")
            assert {number % 2 for number in (await one.slate(consent=False))[0]} == {0, 1}
            assert {number % 2 for number in (await one.slate("other"))[0]} == {0, 1}
            while {number % 2 for number in (await two.slate())[0]} != {1}:  # it follows the list of purges
                await asyncio.sleep(0.01)
            shown = (await two.calls.get("/v1/users/kim%2F%C3%BC-7")).json()
            assert shown == response.json()
            assert shown["interests"] == {"categories": ["odd", "Jazz"], "items": []}

            assert (await one.put({"interests": {"items": ["item-4", "item-8"]}})).status_code == 200
            found, answer = await one.slate()
            assert not {4, 8} & set(found)
            assert {"covisit", "two_tower"} & {reason for item in answer["items"] for reason in item["reasons"]}
            assert answer["degraded"] == []

            row = user_row(users.filter(user_id="user-4").row(0, named=True))
            store.write_users([(KIM, row), ("user-4", row)], "v1")
            kim, other = [_covisited((await one.slate(name, k=40))[1]) for name in (KIM, "user-4")]
            assert kim
            assert kim == other, "what was done counts, not what was said"

            erased = await one.calls.delete("/v1/users/kim%2F%C3%BC-7")
            assert erased.status_code == 202
            for replica in (two, one):  # the store knows of the fence before a replica does
                refused = await replica.put(liked)
                assert (refused.status_code, refused.json()["type"]) == (409, "/docs#being-erased")
            assert (await one.calls.get("/v1/users/kim%2F%C3%BC-7")).status_code == 404
            assert (await one.slate(k=6))[1]["degraded"] == ["unknown_user"]
        await store.calls.aclose()
        store.blocking_calls.close()

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await story()

    asyncio.run(bounded())
    lines = [json.loads(line) for line in (tmp_path / "requests_one.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines if line["call"] == "describe_user"] == [200, 200, 409]
    assert [line["status"] for line in lines if line["call"] == "user"] == [404, 404]
    log = (tmp_path / "requests_one.jsonl").read_text()
    assert not [word for word in ("kim", "odd", "family", "plan", "item-") if word in log]
