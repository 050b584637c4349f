"""What was deleted is in no answer of a gateway, whatever it comes from; and how a replica follows the items."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Sequence
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
from test_ladder import KNOWN, Metrics, Stages, popular_list, until

from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.errors import NotReadyError
from reco_ray.serve.args import GatewayArgs
from reco_ray.serve.assembly import GatewayParts
from reco_ray.serve.caching.withdrawn import Withdrawn
from reco_ray.serve.http.answers import finish
from reco_ray.serve.path.fleet import Connected
from reco_ray.serve.path.items import ItemFollower, keep_items_live
from reco_ray.store import Cursor, FinishedSlate, Item, ItemChanges, LiveItem, OnlineStore, Precomputed
from reco_ray.types import Request, Slate


def live(item_id: str, item: Item | None = None, version: int = 1) -> LiveItem:
    return LiveItem(item_id, version, 0, 1.7e9, item)


def written(*item_ids: str, title: str = "") -> FinishedSlate:
    n = len(item_ids)
    ones = np.ones(n, np.float32)
    return finish(Slate("r", item_ids, (title,) * n, ones, ones, (("x",),) * n), "rel", "main", "full", [], 1.0)


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=6, unique=True), st.text(max_size=20), st.data())
def test_a_slate_is_cut_by_exactly_what_was_withdrawn(ids: list[str], title: str, data: st.DataObject) -> None:
    ids = [item_id for item_id in ids if not any("\ud800" <= c <= "\udfff" for c in item_id)] or ["a"]
    gone = set(data.draw(st.lists(st.sampled_from(ids), unique=True)))
    withdrawn = Withdrawn()
    withdrawn.follow([live(item_id) for item_id in [*gone, "elsewhere"]])
    slate = written(*ids, title=f'{title}"item_id":"{ids[0]}"'.encode(errors="ignore").decode())
    assert withdrawn.in_slate(slate) == bool(gone)
    left = orjson.loads(b"{" + withdrawn.out_of(slate).tail)
    assert [item["item_id"] for item in left["items"]] == [item_id for item_id in ids if item_id not in gone]
    assert [item["position"] for item in left["items"]] == list(range(1, len(left["items"]) + 1))
    assert left["degraded"] == (["short_slate"] if gone else [])


def test_what_is_put_again_is_withdrawn_no_more() -> None:
    withdrawn = Withdrawn()
    withdrawn.follow([live("a"), live("b", Item(available=False)), live("c", Item())])
    assert ["a" in withdrawn, "b" in withdrawn, "c" in withdrawn, len(withdrawn)] == [True, True, False, 2]
    withdrawn.follow([live("a", Item())])
    assert "a" not in withdrawn


class TestFollower:
    def follower(self, pages: list[ItemChanges | Exception]) -> tuple[ItemFollower, list[str], list[Cursor], ItemCounts]:
        taken, asked, counts = list[str](), list[Cursor](), ItemCounts()

        def since(cursor: Cursor) -> ItemChanges:
            asked.append(cursor)
            page = pages.pop(0)
            if isinstance(page, Exception):
                raise page
            return page

        def take(changes: Sequence[LiveItem]) -> None:
            taken.extend(change.item_id for change in changes)

        return ItemFollower(since, take, counts), taken, asked, counts

    def page(self, *names: str, version: int, more: bool = False, now: float = 1.7e9) -> ItemChanges:
        return ItemChanges(Cursor("e", version), tuple([live(name) for name in names]), now, more)

    def test_it_takes_all_pages_and_then_what_is_new(self) -> None:
        pages: list[ItemChanges | Exception] = [self.page("a", version=1, more=True), self.page("b", version=2)]
        follower, taken, asked, counts = self.follower(pages)
        assert not follower.complete
        follower.catch_up()
        assert (taken, follower.complete, counts.lags_s) == (["a", "b"], True, [])
        pages += [self.page("c", version=3, now=1.7e9 + 2)]
        follower.look()
        assert taken == ["a", "b", "c"]
        assert asked == [Cursor(), Cursor("e", 1), Cursor("e", 2)]
        assert 2 <= counts.lags_s[0] < 3

    def test_while_the_store_is_away_it_keeps_what_it_has_and_goes_on_from_there(self) -> None:
        away = NotReadyError("away")
        follower, taken, asked, _ = self.follower([self.page("a", version=1, more=True), away, away, self.page("b", version=2)])
        with pytest.raises(NotReadyError):
            follower.catch_up()
        assert not follower.complete
        follower.look()
        follower.look()
        assert (taken, follower.complete) == (["a", "b"], True)
        assert asked[1:] == [Cursor("e", 1)] * 3

    def test_what_cannot_be_taken_is_tried_again(self, caplog: pytest.LogCaptureFixture) -> None:
        failing = [RuntimeError("broken on purpose"), None, None]
        taken = list[str]()

        def take(changes: Sequence[LiveItem]) -> None:
            if (error := failing.pop(0)) is not None:
                raise error
            taken.extend(change.item_id for change in changes)

        follower = ItemFollower(lambda cursor: self.page("a", version=1), take, ItemCounts())
        follower.look()
        assert not follower.complete
        follower.look()
        assert taken == ["a"]
        assert "broken on purpose" in caplog.text


def test_a_stage_is_not_started_without_knowing_what_was_deleted() -> None:
    class Stage:
        unknown = 0

        def follow(self, changes: Sequence[LiveItem]) -> None:
            """Nothing comes."""

    with pytest.raises(NotReadyError, match="does not answer"):
        keep_items_live([Stage()], "redis://127.0.0.1:1", "none", ItemCounts())
    assert not keep_items_live([Stage()], "", "none", ItemCounts()).is_set()
    assert not keep_items_live([object()], "redis://127.0.0.1:1", "none", ItemCounts()).is_set()


class Replica:
    """A whole gateway replica with caches, over a real store, whose stages never hear of items."""

    def __init__(self, url: str, name: str, folder: Path) -> None:
        self.stages = Stages()

        async def connect(release: str) -> Connected:
            return self.stages, popular_list()

        args = GatewayArgs(root="", store_url=url, namespace="withdrawn", store_timeout_ms=2000, deadline_ms=10_000)
        self.parts = GatewayParts(args, Metrics(), lambda left: connect, dict, name, folder, EventCounts(), ItemCounts())
        self.calls = httpx.AsyncClient(transport=httpx.ASGITransport(self.parts.http), base_url="http://reco")

    async def shown(self, **body: Any) -> list[str]:
        answer = (await self.calls.post("/v1/recommendations", json=body)).json()
        return [item["item_id"] for item in answer["items"]]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with embedded_store(compose_config([f"root={tmp_path_factory.mktemp('root')}", f"store.port={port}"])) as found:
        yield found


def test_a_deleted_item_leaves_warm_caches_of_all_replicas_and_a_new_one_knows(url: str, tmp_path: Path) -> None:
    async def story() -> None:
        with OnlineStore(url, "withdrawn") as store:
            store.set_traffic({"rel": 1.0}, {"rel": "v1"})
            store.write_users([("known", KNOWN)], "v1")
        one, two = Replica(url, "one", tmp_path), Replica(url, "two", tmp_path)
        await one.parts.start()
        await two.parts.start()
        wish = {"user_id": "known", "k": 3}
        for _ in range(2):
            assert await one.shown(**wish) == await two.shown(**wish) == ["a0", "a1", "a2"]
        gone = await one.calls.delete("/v1/items/a1")
        assert (await one.calls.delete("/v1/items/a1")).json() == gone.json()
        assert await one.shown(**wish) == ["a0", "a2"]
        await until(lambda: two.parts._items._follower._cursor.version >= gone.json()["version"])
        assert await two.shown(**wish) == ["a0", "a2"]
        similar = (await two.calls.post("/v1/similar-items", json={"item_id": "a0", "k": 3})).json()
        assert "a1" not in [item["item_id"] for item in similar["items"]]
        own = {"items": [{"item_id": "a1"}, {"item_id": "z"}]}
        assert "a1" not in [item["item_id"] for item in (await two.calls.post("/v1/rank", json=own)).json()["items"]]

        three = Replica(url, "three", tmp_path)
        assert (await three.calls.get("/readyz")).json()["missing"][-1] == "live items"
        await three.parts.start()
        assert (await three.calls.get("/readyz")).json()["ready"]
        assert await three.shown(**wish) == ["a0", "a2"]
        back = await three.calls.put("/v1/items/a1", json={"title": "Back"})
        assert (back.status_code, (await three.calls.get("/v1/items/a1")).json()["title"]) == (200, "Back")
        assert await three.shown(**wish, exclude=["none"]) == ["a0", "a1", "a2"]
        for replica in (one, two, three):
            await replica.calls.aclose()
            await replica.parts.stop()

    asyncio.run(story())


def test_lower_rungs_fill_up_without_it() -> None:
    popular = popular_list()
    first = popular.pick(Request(request_id="r", k=2)).item_ids
    withdrawn = Withdrawn()
    withdrawn.follow([live(first[0])])
    assert popular.pick(Request(request_id="r", k=2), withdrawn).item_ids[0] == first[1]
    kept = Precomputed(1.0, "rel", ("a", "b", "c"), ("",) * 3, (1.0, 0.5, 0.2), ((),) * 3)
    withdrawn.follow([live("a")])
    slate = kept.pick(Request(request_id="r", k=2), withdrawn=withdrawn)
    assert slate is not None
    assert (slate.item_ids, slate.degraded) == (("b", "c"), ())
