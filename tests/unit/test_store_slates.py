"""Slates in a real store: read with the user's row, bounded, purged, and not to come back behind a purge."""

import asyncio
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from reco_ray.cli import app
from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.errors import ConfigError, NotReadyError, SchemaError
from reco_ray.hashing import item_keys, user_digest
from reco_ray.schema import SLATES
from reco_ray.serve.path.reads import StoreReads
from reco_ray.slate.flow import load_batch
from reco_ray.store import (
    NO_INTERESTS,
    FinishedSlate,
    OnlineStore,
    Precomputed,
    SlateStore,
    pack_precomputed,
    pack_slate,
    unpack_precomputed,
    unpack_slate,
)
from reco_ray.types import EMPTY_USER, Request, UserRow

T = TypeVar("T")


async def read(slates: SlateStore, user_id: str, view: str, field: str) -> tuple[UserRow, FinishedSlate | None]:
    ((row, slate, interests, _),) = await slates.users_and_slates([user_id], [view], [field])
    assert interests is NO_INTERESTS
    return row, slate


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with embedded_store(compose_config([f"root={tmp_path_factory.mktemp('root')}", f"store.port={port}"])) as url:
        yield url


class World:
    """A store with a namespace of its own; asynchronous calls run in a loop, and on a connection, of their own."""

    def __init__(self, url: str, namespace: str) -> None:
        self.url, self.namespace = url, namespace

    def run(self, story: Callable[[SlateStore], Awaitable[T]], life_s: float = 300) -> T:
        async def bounded() -> T:
            with OnlineStore(self.url, self.namespace) as store:
                try:
                    return await story(SlateStore(store, life_s=life_s))
                finally:
                    await store.calls.aclose()

        return asyncio.run(bounded())

    def store(self) -> OnlineStore:
        return OnlineStore(self.url, self.namespace)


@pytest.fixture
def world(url: str, request: pytest.FixtureRequest) -> World:
    return World(url, f"test-{request.node.name}")


def slate(release: str = "r1", tail: bytes = b'"x":1}') -> FinishedSlate:
    return FinishedSlate(tail, '"tag"', release, 12.5, ("unknown_user",))


def precomputed(release: str = "r1", made: float | None = None) -> Precomputed:
    made = time.time() if made is None else made
    reasons = (("popular",), (), ("x", "y"))
    return Precomputed(made, release, ("a", "b", "c"), ("A", "", "C"), (0.5, None, 0.1), reasons, "the-draw")


marks = st.lists(st.sampled_from(["unknown_user", "short_slate"]), unique=True).map(tuple)


@given(
    st.binary(min_size=1),
    st.text(max_size=20),
    st.text("abcdef0123456789", max_size=40),
    st.floats(0, 2e9),
    marks,
    st.text("abc-._:", max_size=128),
    st.lists(st.floats(0, 1, width=32), max_size=200),
)
def test_a_finished_slate_survives_packing(
    tail: bytes, etag: str, release: str, made: float, degraded: tuple[str, ...], draw_id: str, drawn: list[float]
) -> None:
    propensities = np.array(drawn, "<f4").tobytes()
    given_ = FinishedSlate(tail, etag, release, made, degraded, draw_id=draw_id, propensities=propensities)
    assert unpack_slate(pack_slate(given_)) == given_


def test_a_slate_of_the_format_before_draws_is_refused_and_so_made_anew() -> None:
    before = struct.pack("<HBBHd", 1, 5, 2, 0, 12.5) + b'"tag"' + b"r1" + b'"x":1}'
    with pytest.raises(SchemaError, match="expected format 2"):
        unpack_slate(before)


def test_a_precomputed_slate_of_before_draws_is_read() -> None:
    before = struct.pack("<Hd", 1, 12.5) + orjson.dumps(("r1", ["a"], ["A"], [1.0], [["popular"]]))
    assert unpack_precomputed(before) == Precomputed(12.5, "r1", ("a",), ("A",), (1.0,), (("popular",),), "")


@given(
    st.lists(st.tuples(st.text(), st.text(), st.none() | st.floats(-5, 5, width=32), st.lists(st.text()))), st.floats(0, 2e9)
)
def test_a_precomputed_slate_survives_packing(items: list[tuple[str, str, float | None, list[str]]], made: float) -> None:
    columns = [tuple(column) for column in zip(*items, strict=True)] or [()] * 4
    ids, titles, scores, reasons = columns
    given_ = Precomputed(made, "r", ids, titles, scores, tuple(tuple(each) for each in reasons))  # type: ignore[arg-type,union-attr]
    assert unpack_precomputed(pack_precomputed(given_)) == given_


@pytest.mark.parametrize("raw", [b"", b"short", b"\xff" * 40, pack_slate(slate())[:20]], ids=["empty", "short", "other", "cut"])
def test_damaged_slates_are_refused(raw: bytes) -> None:
    with pytest.raises(SchemaError, match="reco purge"):
        unpack_slate(raw)


@pytest.mark.parametrize("raw", [b"", b"\xff" * 40, pack_precomputed(precomputed())[:20]], ids=["empty", "other", "cut"])
def test_damaged_precomputed_slates_are_refused(raw: bytes) -> None:
    with pytest.raises(SchemaError, match="run recommend_batch again"):
        unpack_precomputed(raw)


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lengths \(1, 0, 0, 0\)"):
        Precomputed(1.0, "r", ("a",), (), (), ())


def test_the_users_row_and_the_slate_come_together(world: World) -> None:
    row = UserRow(as_of=7, features=np.ones(2, np.float32))
    with world.store() as store:
        store.write_users([("u", row)], "v")

        async def story(slates: SlateStore) -> None:
            assert await read(slates, "nobody", "v", "f") == (EMPTY_USER, None)
            found, none = await read(slates, "u", "v", "f")
            assert (found.as_of, none) == (7, None)
            assert await slates.write([(user_digest("u"), "f", slate())]) == 1
            found, kept = await read(slates, "u", "v", "f")
            assert (found.as_of, kept) == (7, slate())
            assert (await read(slates, "u", "v", "other"))[1] is None
            assert (await read(slates, "u", "v2", "f"))[0] is EMPTY_USER

        world.run(story)


def test_a_value_of_another_format_is_no_slate(world: World) -> None:
    with world.store() as store:
        store.blocking_calls.hset(store.key("slates", user_digest("u")), "f", b"\xff" * 40)
        store.blocking_calls.set(store.key("precomputed", user_digest("u")), b"\xff" * 40)

    async def story(slates: SlateStore) -> None:
        assert (await read(slates, "u", "v", "f"))[1] is None
        assert await slates.precomputed("u") is None

    world.run(story)


def test_a_users_answers_are_bounded_and_end(world: World) -> None:
    user = user_digest("u")

    async def story(slates: SlateStore) -> None:
        await slates.write([(user, f"f{i}", slate()) for i in range(32)])
        await slates.write([(user, "f31", slate("again"))])
        assert (await read(slates, "u", "v", "f0"))[1] is not None, "replacing needs no room"
        await slates.write([(user, "f32", slate())])
        assert (await read(slates, "u", "v", "f0"))[1] is None
        assert (await read(slates, "u", "v", "f32"))[1] is not None

    world.run(story, life_s=100)
    with world.store() as store:
        assert store.blocking_calls.hlen(store.key("slates", user)) == 1
        assert 98 <= store.blocking_calls.ttl(store.key("slates", user)) <= 100


def test_every_key_is_in_the_namespace_and_none_names_a_user(world: World) -> None:
    async def story(slates: SlateStore) -> None:
        await slates.write([(user_digest("somebody"), "f", slate())], [(user_digest("somebody"), precomputed())])

    world.run(story)
    with world.store() as store:
        SlateStore(store).purge_user("somebody")
        SlateStore(store).write_precomputed([("somebody-else", precomputed())])
        keys = [key.decode() for key in store.blocking_calls.keys(store.key("*"))]
        assert len(keys) == 3
        assert not [key for key in keys if "somebody" in key]
        entries = store.blocking_calls.xrange(store.key("purges"))
        assert entries[0][1] == {b"user": user_digest("somebody").encode()}


def test_a_younger_precomputed_slate_is_never_replaced_by_an_older_one(world: World) -> None:
    now = time.time()
    with world.store() as store:
        slates = SlateStore(store)
        rows = [("u", precomputed("new", now)), ("u", precomputed("old", now - 5)), ("v", precomputed("new", now - 5))]
        assert slates.write_precomputed(rows) == 2
        assert slates.write_precomputed([("v", precomputed("newer", now))]) == 1
        ttl = store.blocking_calls.ttl(store.key("precomputed", user_digest("v")))
        assert 7 * 86_400 - 5 <= ttl <= 7 * 86_400 + 1

    async def story(slates: SlateStore) -> None:
        assert await slates.precomputed("u") == precomputed("new", now)
        assert await slates.precomputed("v") == precomputed("newer", now)
        assert await slates.precomputed("nobody") is None
        assert await slates.write(precomputed=[(user_digest("u"), precomputed("older", now - 1))]) == 0

    world.run(story)


def test_a_purged_user_is_gone_and_what_was_begun_before_does_not_come_back(world: World) -> None:
    users = {name: user_digest(name) for name in ("u", "v")}

    async def fill(slates: SlateStore) -> int:
        answers = [(user, "f", slate()) for user in users.values()]
        return await slates.write(answers, [(user, precomputed()) for user in users.values()])

    assert world.run(fill) == 4
    with world.store() as store:
        slates = SlateStore(store)
        assert slates.purge_user("u") == 2
        assert slates.purge_user("u") == 0
        assert slates.write_precomputed([("u", precomputed()), ("v", precomputed())]) == 1
    assert world.run(fill) in (1, 2), "the other user's only; the younger of two slates made in one instant is either"

    async def left(slates: SlateStore) -> list[bool]:
        found = [await read(slates, name, "view", "f") for name in users]
        return [kept is not None for _, kept in found] + [await slates.precomputed(name) is not None for name in users]

    assert world.run(left) == [False, True, False, True]


def test_a_purged_release_is_gone_from_all_users(world: World) -> None:
    async def fill(slates: SlateStore) -> None:
        fields = [("r1:1:a", slate("r1")), ("r1:1:b", slate("r1")), ("r2:1:a", slate("r2"))]
        users = [user_digest(f"u{i}") for i in range(5)]
        await slates.write([(user, field, each) for user in users for field, each in fields])
        await slates.write(precomputed=[(user, precomputed(f"r{1 + i % 2}")) for i, user in enumerate(users)])

    world.run(fill)
    with world.store() as store:
        assert SlateStore(store).purge_release("r1") == 5 * 2 + 3

    async def left(slates: SlateStore) -> None:
        assert (await read(slates, "u0", "v", "r1:1:a"))[1] is None
        assert (await read(slates, "u0", "v", "r2:1:a"))[1] is not None
        assert [await slates.precomputed(f"u{i}") is None for i in range(2)] == [True, False]
        assert await slates.write([(user_digest("u9"), "r1:1:a", slate("r1"))]) == 0

    world.run(left)


def test_purges_are_told_to_who_asks_once_each(world: World) -> None:
    with world.store() as store:
        jobs = SlateStore(store)
        start = world.run(lambda slates: slates.purges_since())
        assert (start.last_id, start.users) == ("0-0", ())
        jobs.purge_user("u")
        jobs.purge_release("r1")
        first = world.run(lambda slates: slates.purges_since(start.last_id))
        assert (first.users, first.releases, first.everything) == ((user_digest("u"),), ("r1",), False)
        assert world.run(lambda slates: slates.purges_since()).last_id == first.last_id
        again = world.run(lambda slates: slates.purges_since(first.last_id))
        assert (again.users, again.releases, again.last_id) == ((), (), first.last_id)


def test_who_missed_purges_is_told_to_drop_everything(world: World) -> None:
    with world.store() as store:
        jobs = SlateStore(store)
        jobs.purge_user("u")
        seen = world.run(lambda slates: slates.purges_since())
        for i in range(50):
            jobs.purge_user(f"u{i}")
        assert len(world.run(lambda slates: slates.purges_since(seen.last_id)).users) == 50
        store.blocking_calls.xtrim(store.key("purges"), maxlen=10, approximate=False)
        found = world.run(lambda slates: slates.purges_since(seen.last_id))
        assert found.everything
        assert not world.run(lambda slates: slates.purges_since(found.last_id)).everything
        store.blocking_calls.delete(store.key("purges"))
        lost = world.run(lambda slates: slates.purges_since(found.last_id))
        assert (lost.everything, lost.last_id) == (True, "0-0")


def test_a_precomputed_slate_shows_what_may_still_be_shown() -> None:
    row = UserRow(seen=np.sort(item_keys(["b"])))
    found = precomputed().pick(Request(request_id="q", k=2, exclude=("a",), user=row))
    assert found is not None
    assert (found.request_id, found.item_ids, found.titles, found.degraded) == ("q", ("c",), ("C",), ("short_slate",))
    assert found.reasons == (("x", "y"),)
    full = precomputed().pick(Request(request_id="q", k=2, session=("a",), user=row), seen_items_return=True)
    assert full is not None
    assert (full.item_ids, full.degraded) == (("a", "b"), ())
    assert np.isnan(full.scores[1])


@pytest.mark.parametrize(
    "request_",
    [
        Request(request_id="", filters={"year": ("1999",)}),
        Request(request_id="", similar_to="a"),
        Request(request_id="", exclude=("a", "b", "c")),
    ],
)
def test_a_precomputed_slate_does_not_answer_what_it_knows_nothing_of(request_: Request) -> None:
    assert precomputed().pick(request_) is None


def test_slates_of_a_batch_are_loaded_unless_they_are_old_or_a_failure_shows(world: World) -> None:
    def row(user: str, degraded: list[str], age: timedelta = timedelta(0), ids: tuple[str, ...] = ("a", "b")) -> dict[str, Any]:
        return {
            "user_id": user,
            "item_ids": list(ids),
            "titles": [i.upper() for i in ids],
            "scores": [0.5, float("nan")][: len(ids)],
            "reasons": [["popular"], []][: len(ids)],
            "degraded": degraded,
            "release": "r1",
            "made_ts": datetime.now(UTC) - age,
        }

    rows = [
        row("full", []),
        row("short", ["short_slate"]),
        row("failed", ["source_missing:covisit"]),
        row("unknown", ["unknown_user"]),
        row("old", [], timedelta(seconds=200)),
        row("empty", ["short_slate"], ids=()),
    ]
    taken = load_batch(pa.Table.from_pylist(rows, schema=SLATES), world.url, world.namespace, 100)
    assert taken.to_pylist() == [{"taken": 2}]

    async def story(slates: SlateStore) -> None:
        found = {each["user_id"]: await slates.precomputed(each["user_id"]) for each in rows}
        assert [user for user, each in found.items() if each is not None] == ["full", "short"]
        full = found["full"]
        assert full is not None
        assert (full.titles, full.scores, full.reasons) == (("A", "B"), (0.5, None), (("popular",), ()))

    world.run(story)
    with world.store() as store:
        assert 98 <= store.blocking_calls.ttl(store.key("precomputed", user_digest("full"))) <= 100


def test_the_command_purges_a_user_or_a_release(world: World) -> None:
    async def fill(slates: SlateStore) -> None:
        await slates.write([(user_digest("u"), "r1:1:a", slate()), (user_digest("v"), "r1:1:a", slate())])

    def command(*options: str) -> Any:
        where = (f"store.url={world.url}", f"store.namespace='{world.namespace}'")
        return CliRunner().invoke(app, ["purge", *options, *where])

    world.run(fill)
    assert "purged: 1 found" in command("--user", "u").output
    assert "purged: 1 found" in command("--release", "r1").output
    for wrong in ((), ("--user", "u", "--release", "r1")):
        assert isinstance(command(*wrong).exception, ConfigError)


def test_connections_that_the_store_has_dropped_cost_no_read(world: World) -> None:
    async def story(slates: SlateStore) -> None:
        store = slates._store
        for _ in range(3):  # as after a restart of the store: none of the pooled connections lives
            await asyncio.gather(*(read(slates, "u", "v1", "f") for _ in range(8)))
            await asyncio.to_thread(store.blocking_calls.client_kill_filter, _type="normal", skipme=True)

    world.run(story)


def test_a_row_that_cannot_be_read_is_the_error_of_its_own_user_only(world: World) -> None:
    with world.store() as store:
        store.write_users([("u", UserRow(as_of=7))], "v")
        store.blocking_calls.set(store.user_key("damaged", "v"), b"???")

        async def story(slates: SlateStore) -> None:
            (bad, *_), (good, *_) = await slates.users_and_slates(["damaged", "u"], ["v", "v"], ["", ""])
            assert isinstance(bad, SchemaError)
            assert isinstance(good, UserRow)
            assert good.as_of == 7
            reads = StoreReads(store, slates)
            found = await asyncio.gather(
                reads.user_and_slate("damaged", "v", ""), reads.user_and_slate("u", "v", ""), return_exceptions=True
            )
            assert [type(each) for each in found] == [SchemaError, tuple]

        world.run(story)


def test_a_purge_of_a_store_that_is_away_says_so(world: World) -> None:
    with OnlineStore("redis://127.0.0.1:1", "x") as store:
        slates = SlateStore(store)
        for purge in (slates.purge_user, slates.purge_release):
            with pytest.raises(NotReadyError, match="does not answer"):
                purge("any")
