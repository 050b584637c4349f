"""Live items in the store: versions, slots, a log that is read in order, and what is forgotten."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import pytest

from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.errors import NotReadyError, SchemaError
from reco_ray.store import NO_SLOT, Cursor, Item, ItemStore, LiveItem, OnlineStore

T = TypeVar("T")

ALIEN = Item("Alien", ("Horror", "Sci-Fi"), 1979, "In space.", True)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with embedded_store(compose_config([f"root={tmp_path_factory.mktemp('root')}", f"store.port={port}"])) as url:
        yield url


@pytest.fixture
def store(url: str, request: pytest.FixtureRequest) -> Iterator[OnlineStore]:
    with OnlineStore(url, request.node.name) as store:
        yield store


def on_loop(store: OnlineStore, call: Callable[[ItemStore], Awaitable[T]]) -> T:
    """Run calls of a store on a loop of their own."""

    async def run() -> T:
        try:
            return await call(ItemStore(store))
        finally:
            await store.calls.aclose()

    return asyncio.run(run())


def put(store: OnlineStore, *item_ids: str, item: Item = ALIEN) -> list[int]:
    async def all_of(items: ItemStore) -> list[int]:
        return [await items.put(item_id, item) for item_id in item_ids]

    return on_loop(store, all_of)


def delete(store: OnlineStore, item_id: str) -> int:
    return on_loop(store, lambda items: items.delete(item_id))


def load(store: OnlineStore, item_id: str) -> LiveItem | None:
    return on_loop(store, lambda items: items.load(item_id))


def test_what_is_put_is_read_as_it_was_sent(store: OnlineStore) -> None:
    (version,) = put(store, "a/ü 1")
    found = load(store, "a/ü 1")
    assert found is not None
    assert (found.item_id, found.version, found.slot, found.item) == ("a/ü 1", version, 0, ALIEN)
    assert load(store, "b") is None


def test_a_price_is_kept_and_an_item_without_one_is_written_as_before_there_were_prices(store: OnlineStore) -> None:
    put(store, "free", item=Item("Free", price=0.0))
    put(store, "none")
    free, none = ItemStore(store).all()
    assert (free.item, none.item) == (Item("Free", price=0.0), ALIEN)
    raw = store.blocking_calls.hget(store.key("live_items"), "none")
    assert isinstance(raw, bytes)
    assert raw.endswith(b'["Alien",["Horror","Sci-Fi"],1979,"In space.",true]')


def test_the_same_again_changes_nothing(store: OnlineStore) -> None:
    first, again = put(store, "a", "a")
    assert first == again
    assert put(store, "a", item=Item("Aliens"))[0] > first
    deleted = delete(store, "a")
    assert delete(store, "a") == deleted


def test_each_new_item_has_a_slot_of_its_own_and_keeps_it(store: OnlineStore) -> None:
    put(store, "a", "b", "c")
    delete(store, "b")
    put(store, "b", item=Item("again"))
    delete(store, "never put")
    slots = {item.item_id: item.slot for item in ItemStore(store).all()}
    assert slots == {"a": 0, "b": 1, "c": 2, "never put": NO_SLOT}


def test_a_reader_gets_what_is_newer_in_order_and_each_item_once(store: OnlineStore) -> None:
    put(store, "a", "b")
    items = ItemStore(store)
    seen = items.since(Cursor())
    assert [item.item_id for item in seen.items] == ["a", "b"]
    delete(store, "a")
    put(store, "c")
    put(store, "b", item=Item("B"))
    newer = items.since(seen.cursor)
    assert [(item.item_id, item.shown) for item in newer.items] == [("a", False), ("c", True), ("b", True)]
    assert newer.now >= newer.items[-1].changed >= newer.items[0].changed > 0
    assert items.since(newer.cursor).items == ()
    assert [item.item_id for item in items.all()] == ["a", "c", "b"]


def test_many_items_are_read_page_by_page(store: OnlineStore) -> None:
    ids = [f"item-{i}" for i in range(1_100)]
    put(store, *ids)
    first = ItemStore(store).since(Cursor())
    assert (len(first.items), first.more) == (500, True)
    assert [item.item_id for item in ItemStore(store).all()] == ids


def test_a_reader_begins_anew_where_the_store_has_lost_its_data(store: OnlineStore) -> None:
    put(store, "a", "b")
    before = ItemStore(store).since(Cursor()).cursor
    store.blocking_calls.flushdb()
    assert ItemStore(store).since(before).items == ()
    put(store, "c", "d", "e")
    after = ItemStore(store).since(before)
    assert [item.item_id for item in after.items] == ["c", "d", "e"]
    assert after.cursor.epoch != before.epoch


def test_what_is_forgotten_frees_its_slot_unless_it_has_changed_since(store: OnlineStore) -> None:
    put(store, "a", "b")
    delete(store, "never put")
    items = ItemStore(store)
    known = items.all()
    put(store, "b", item=Item("changed"))
    assert items.forget(known) == 2
    assert [item.item_id for item in items.all()] == ["b"]
    put(store, "c", "d")
    assert {item.item_id: item.slot for item in items.all()} == {"b": 1, "c": 0, "d": 2}


def test_a_damaged_value_is_named_and_holds_up_nothing(store: OnlineStore, caplog: pytest.LogCaptureFixture) -> None:
    put(store, "a", "b")
    store.blocking_calls.hset(store.key("live_items"), "a", b"x")
    assert [item.item_id for item in ItemStore(store).all()] == ["b"]
    assert "put the item again" in caplog.text
    with pytest.raises(SchemaError, match="put the item again"):
        load(store, "a")


def test_a_store_that_is_away_is_not_ready() -> None:
    with OnlineStore("redis://127.0.0.1:1", "none") as store, pytest.raises(NotReadyError, match="does not answer"):
        ItemStore(store).since(Cursor())
