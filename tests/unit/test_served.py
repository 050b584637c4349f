"""Items served lately: remembered for a window, bounded, gone with the user, and never served again within it."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from event_fakes import EventCounts
from hypothesis import given
from hypothesis import strategies as st
from item_fakes import ItemCounts
from test_ladder import Metrics, popular_list

from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.config import CacheConfig, ServedConfig
from reco_ray.errors import ConfigError
from reco_ray.features import Catalogue
from reco_ray.hashing import item_keys, user_digest
from reco_ray.recall.query import make_query
from reco_ray.serve.args import GatewayArgs
from reco_ray.serve.assembly import GatewayParts
from reco_ray.serve.path.fleet import Connected
from reco_ray.serve.path.wire import pack_request, unpack_request
from reco_ray.serve.render import render
from reco_ray.store import ErasureStore, OnlineStore, Precomputed, ServedItems, SlateStore
from reco_ray.types import Request, Slate

KIM = user_digest("kim")
WINDOW = ServedConfig(window_s=3_600, most=4)
keys = st.lists(st.integers(0, 2**64 - 1), unique=True, max_size=30).map(lambda found: np.array(sorted(found), np.uint64))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with embedded_store(compose_config([f"root={tmp_path_factory.mktemp('root')}", f"store.port={port}"])) as found:
        yield found


def run(url: str, namespace: str, story: Callable[[OnlineStore], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with OnlineStore(url, namespace) as store:
            try:
                await story(store)
            finally:
                await store.calls.aclose()

    asyncio.run(bounded())


async def served_to(slates: SlateStore, user_id: str = "kim") -> list[int]:
    ((*_, found),) = await slates.users_and_slates([user_id], ["v"], ["f"])
    return [int(key) for key in found]


def test_what_was_served_is_read_with_the_row_the_newest_first_to_stay(url: str) -> None:
    async def story(store: OnlineStore) -> None:
        slates = SlateStore(store, served=WINDOW)
        assert await served_to(slates) == []
        assert await slates.write(served=[(KIM, np.array([5, 2**64 - 1, 9], np.uint64))]) == 1
        assert await served_to(slates) == [5, 9, 2**64 - 1]
        await slates.write(served=[(KIM, np.array([1, 9, 7], np.uint64))])
        kept = await served_to(slates)
        assert len(kept) == 4
        assert {1, 9, 7} < set(kept)
        assert await served_to(slates, "lee") == await served_to(slates, "") == []
        assert await served_to(SlateStore(store)) == [], "a window of 0 asks for nothing"
        life_s = await store.calls.ttl(store.key("served", KIM))
        assert 0 < life_s <= WINDOW.window_s

    run(url, "served", story)


def test_items_return_when_the_window_is_over(url: str) -> None:
    async def story(store: OnlineStore) -> None:
        now = 1_000_000.0
        items = ServedItems(store, WINDOW, lambda: now)

        async def at(key: int | None = None) -> list[int]:
            pipe = store.calls.pipeline(transaction=False)
            if key is not None:
                items.write_within(pipe, KIM, np.array([key], np.uint64), store.key("purged", KIM))
            items.read_within(pipe, KIM)
            return [int(each) for each in items.keys_of((await pipe.execute())[-1])]

        assert await at(1) == [1]
        now += WINDOW.window_s / 2
        assert await at(2) == [1, 2]
        now += WINDOW.window_s / 2
        assert await at() == [2]
        assert await at(3) == [2, 3]
        assert await store.calls.zcard(store.key("served", KIM)) == 2, "what is too old was removed"

    run(url, "returns", story)


def test_a_purge_refuses_what_was_on_its_way_and_an_erasure_takes_all(url: str) -> None:
    async def story(store: OnlineStore) -> None:
        slates = SlateStore(store, served=WINDOW)
        await slates.write(served=[(KIM, np.array([5], np.uint64))])
        assert await asyncio.to_thread(ErasureStore(store).purge_keys, [KIM]) == {(KIM, "served"): 1}
        await asyncio.to_thread(slates.purge_user, "kim")
        assert await slates.write(served=[(KIM, np.array([6], np.uint64))]) == 0
        assert await served_to(slates) == []

    run(url, "erased", story)


@given(keys, keys)
def test_a_request_travels_with_what_was_served(shown: np.ndarray[Any, Any], served: np.ndarray[Any, Any]) -> None:
    found = unpack_request(pack_request(Request("r", "u", shown=shown, served=served)))
    assert (found.shown.tolist(), found.served.tolist()) == (shown.tolist(), served.tolist())
    assert found.past.tolist() == sorted({*shown.tolist(), *served.tolist()})


def test_no_source_and_no_list_brings_it_back_and_places_do_not_count_on(catalogue: Catalogue) -> None:
    served = np.sort(item_keys(["hit-0", "item-3"]))
    request = Request("r", k=3, served=served)
    hidden = make_query(request, catalogue, True, np.empty(0, np.int64)).hidden
    assert hidden.tolist() == catalogue.find(["item-3"]).tolist()
    assert "hit-0" not in popular_list().pick(request).item_ids
    lists = Precomputed(1.0, "rel", ("hit-0", "b"), ("", ""), (0.5, 0.4), ((), ()), "d")
    found = lists.pick(request)
    assert found is not None
    assert found.item_ids == ("b",)
    assert request.shown.size == 0


class Shelf:
    """Stages with twelve items in one order, which show what may be shown."""

    ids = tuple(f"i{i}" for i in range(12))

    def prepare(self, request: Request) -> Request:
        return unpack_request(pack_request(request))

    async def recall(self, query: Request) -> list[str]:
        return [name for name, new in zip(self.ids, ~np.isin(item_keys(self.ids), query.past), strict=True) if new]

    async def score(self, query: Request, found: list[str]) -> list[str]:
        return found

    async def arrange(self, query: Request, found: list[str], scored: list[str]) -> Slate:
        ids = tuple(scored[: query.k])
        ones = np.ones(len(ids), np.float32)
        return Slate(query.request_id, ids, ids, ones, ones, (("popular",),) * len(ids))

    def recall_order(self, found: list[str]) -> list[str]:
        return found


@pytest.mark.parametrize("window_s", [0.0, 600.0])
def test_a_whole_replica_serves_no_item_twice_within_the_window(url: str, tmp_path: Path, window_s: float) -> None:
    namespace = f"whole-{window_s:.0f}"

    async def story(store: OnlineStore) -> None:
        store.set_traffic({"rel": 1.0}, {"rel": "v1"})

        async def connect(release: str) -> Connected:
            return Shelf(), popular_list()

        args = GatewayArgs(
            root="",
            store_url=url,
            namespace=namespace,
            store_timeout_ms=2000,
            deadline_ms=10_000,
            cache=CacheConfig(ttl_s=0, stale_s=0),
            served=ServedConfig(window_s=window_s),
        )
        parts = GatewayParts(args, Metrics(), lambda left: connect, dict, "one", tmp_path, EventCounts(), ItemCounts())
        await parts.start()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(parts.http), base_url="http://reco") as client:

            async def ask(**body: Any) -> list[str]:
                answer = (await client.post("/v1/recommendations", json={"k": 4, **body})).json()
                await parts._writeback.flush()
                return [item["item_id"] for item in answer["items"]]

            found = [await ask(user_id="kim") for _ in range(3)]
            again = found[0] if window_s == 0 else list(Shelf.ids[4:8])
            assert found[:2] == [list(Shelf.ids[:4]), again]
            assert len({item for slate in found for item in slate}) == (4 if window_s == 0 else 12)
            await ask(user_id="lee", consent=False)
            await ask()
            asked = [key async for key in store.calls.scan_iter(store.key("served", "*"))]
            assert asked == ([] if window_s == 0 else [store.key("served", KIM).encode()]), "nobody is remembered unasked"
        await parts.stop()

    run(url, namespace, story)


def test_the_window_is_a_setting_of_the_gateway() -> None:
    config = compose_config(["serve.served.window_s=86400", "serve.served.most=50"])
    args = render(config, [], "redis://h:1")["applications"][0]["args"]
    assert args["served"] == {"window_s": 86_400, "most": 50}
    with pytest.raises(ConfigError, match=r"serve\.served\.most"):
        ServedConfig(most=0)
