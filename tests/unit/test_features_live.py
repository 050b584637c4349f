"""Online features over a real store and bus: applied once, whoever dies when, and equal to what a batch computes."""

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from features_process import FACTS, keep_applying

from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.config import PipelineConfig
from reco_ray.errors import StaleWriterError
from reco_ray.events.bus import EVENTS, LAKE, Outgoing
from reco_ray.events.encoding import encode
from reco_ray.events.open import open_producer, open_reader
from reco_ray.features import ITEM_COLUMNS, Catalogue, transform, user_row
from reco_ray.features.online import add_user_events, pack_items, unknown, unpack_items
from reco_ray.features.sums import added_up, item_sums
from reco_ray.hashing import item_keys
from reco_ray.release import open_release, release_uri, seal, verify
from reco_ray.store import Change, FeatureStore, Item, LiveItem, OnlineStore, fresh_until, pack_user, registered_views
from reco_ray.streaming.features import all_kept, go_on_from, open_stream, reader_name
from reco_ray.streaming.items import LiveItems
from reco_ray.workflow.deploy import materialize_features

VIEW = "v1"
START = datetime(2026, 5, 1, tzinfo=UTC)
Row = tuple[str, str, int]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PipelineConfig, str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = compose_config([f"root={tmp_path_factory.mktemp('root')}", f"store.port={port}", "features.history=5"])
    with embedded_store(config) as url:
        yield config, url


@pytest.fixture
def view(world: tuple[PipelineConfig, str]) -> Iterator[FeatureStore]:
    """A view that begins where the bus stands."""
    config, url = world
    reader = open_reader(config.events, config.store.namespace, url, EVENTS, 0)
    with contextlib.closing(reader), OnlineStore(url, config.store.namespace) as store:
        features = FeatureStore(store, VIEW, 3600)
        features.begin_rebuild()
        store.blocking_calls.delete(*store.blocking_calls.keys(store.key("user", "*")) or ["none"])
        features.end_rebuild({}, {0: reader.newest()}, {"root": config.root, "release": "r1"})
        yield features


def events_of(rows: Sequence[Row], first_id: int = 0) -> list[dict[str, object]]:
    now_us = int(time.time() * 1e6)
    return [
        {
            "event_id": f"{first_id}-{at}",
            "schema_version": "1.1",
            "received_us": now_us,
            "type": "view" if minutes % 2 else "purchase",
            "user_id": user,
            "item_id": item,
            "ts": int((START + timedelta(minutes=minutes)).timestamp() * 1e6),
            "consent": True,
        }
        for at, (user, item, minutes) in enumerate(rows)
    ]


def send(world: tuple[PipelineConfig, str], events: Sequence[dict[str, object]]) -> None:
    config, url = world

    async def run() -> None:
        producer = open_producer(config.events, config.store.namespace, url)
        await producer.append(EVENTS, [Outgoing(0, encode(event)) for event in events])
        await producer.aclose()

    asyncio.run(run())


def prepared(events: Sequence[dict[str, object]], config: PipelineConfig) -> pl.DataFrame:
    """Events as the batch sees them."""
    ts, value = pl.from_epoch("ts", "us").dt.replace_time_zone("UTC"), pl.lit(None, pl.Float32).alias("value")
    return transform.prepare(pl.DataFrame(events).with_columns(ts, value), config.features, ("event_id",))


def fresh_s(world: tuple[PipelineConfig, str]) -> float:
    """The time up to which all events of the partition are in the features."""

    async def read() -> float:
        store = OnlineStore(world[1], world[0].store.namespace)
        (found,) = await fresh_until(store, VIEW, 1)
        await store.calls.aclose()
        assert found is not None
        return found

    return asyncio.run(read())


def assert_online_is(world: tuple[PipelineConfig, str], features: FeatureStore, events: Sequence[dict[str, object]]) -> None:
    """The store holds what a batch makes of these events."""
    config, url = world
    made = prepared(events, config)
    rows = transform.user_rows(made, FACTS, config.features)
    with OnlineStore(url, config.store.namespace) as store:
        found = store.users(rows["user_id"], VIEW)
    for row, online in zip(rows.iter_rows(named=True), found, strict=True):
        expected = user_row(row)
        np.testing.assert_allclose(online.features, expected.features, atol=2e-5)
        for name in ("history", "weights", "seen", "had"):
            np.testing.assert_array_equal(getattr(online, name), getattr(expected, name), name)
    ids = made["item_id"].unique().to_list()
    sums = features.item_sums(0, [key.tobytes() for key in item_keys(ids)])
    counts = unpack_items([sums.get(key.tobytes()) for key in item_keys(ids)], config.features).values[:, 0]
    assert dict(zip(ids, counts, strict=True)) == dict(made["item_id"].value_counts().iter_rows())


def test_what_comes_is_applied_once_and_names_its_position(world: tuple[PipelineConfig, str], view: FeatureStore) -> None:
    config, url = world
    rows = [(f"u{at % 3}", "abcd"[at % 4], 7 * at % 11) for at in range(20)]
    events = events_of(rows)
    send(world, events[:12])
    with open_stream(config, url, VIEW, FACTS, 0) as stream:
        first = stream.run_once()
        assert (first.read, first.events, first.users) == (12, 12, 3)
        send(world, [*events[12:], *events[:5]])
        second = stream.run_once()
        assert (second.read, second.events) == (13, 8), "five came again"
        arrived, quiet = fresh_s(world), time.time()
        assert quiet - 60 < arrived < quiet
        assert stream.run_once().read == 0
        assert fresh_s(world) >= quiet, "all that had come by then is in"
    assert_online_is(world, view, events)
    assert len(view.changed_items(0)) == 4
    with OnlineStore(url, config.store.namespace) as store:
        assert set(registered_views(store)) == {VIEW}
        readers = store.blocking_calls.hgetall(store.key("bus", EVENTS, "0", "readers"))
        positions = [row.position for row in store.users(["u0", "u1", "u2"], VIEW)]
    assert all(0 < position <= (view.position(0) or 0) for position in positions)
    assert reader_name(VIEW).encode() in readers


def test_two_streams_of_one_partition_do_not_both_write(world: tuple[PipelineConfig, str], view: FeatureStore) -> None:
    config, url = world
    events = events_of([("u1", "a", 1), ("u2", "b", 2)], 1)
    send(world, events)
    before = view.position(0)
    with open_stream(config, url, VIEW, FACTS, 0) as stream:
        stream.run_once()
    with pytest.raises(StaleWriterError, match="found position"):
        view.apply(0, before or 0, 5, Change({"u1": (b"", b"")}, {}), 0.0, 0.0)
    assert_online_is(world, view, events)


def test_what_sinks_store_during_a_rebuild_is_still_there_for_the_streams(
    world: tuple[PipelineConfig, str], view: FeatureStore
) -> None:
    """The view had come further than the lake that it is rebuilt from, and the lake comes further meanwhile."""
    config, url = world
    reader = open_reader(config.events, config.store.namespace, url, EVENTS, 0)
    with contextlib.closing(reader):
        lake_stood = reader.newest()
        events = events_of([("u1", "a", 1), ("u2", "b", 2)], 6)
        send(world, events)
        with open_stream(config, url, VIEW, FACTS, 0) as stream:
            stream.run_once()
        with all_kept([reader], VIEW):
            view.begin_rebuild()
            reader.commit(LAKE, reader.newest())
            go_on_from([reader], VIEW, {0: lake_stood})
            view.end_rebuild({}, {0: lake_stood}, {"root": config.root, "release": "r1"})
        reader.commit(LAKE, reader.newest())
    with open_stream(config, url, VIEW, FACTS, 0) as stream:
        assert stream.run_once().events == 2, "applied again, as the states were made anew"
    assert_online_is(world, view, events)


@pytest.mark.parametrize(("deployed", "rebuilt"), [("r1", False), ("r2", False), ("r3", True)])
def test_only_a_later_release_makes_the_features_anew(
    world: tuple[PipelineConfig, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, deployed: str, rebuilt: bool
) -> None:
    """The second of three releases is the one whose catalogue the streams work by; a way back rebuilds nothing."""
    config, url = replace(world[0], root=str(tmp_path)), world[1]
    for at, name in enumerate(("r1", "r2", "r3")):
        folder = Path(release_uri(config.root, name))
        folder.mkdir(parents=True)
        seal(folder, name, VIEW, {"made_ts": f"2026-01-0{at + 1}"})
    asked: list[str] = []
    monkeypatch.setattr("reco_ray.streaming.flow.rebuild", lambda config, release, url: asked.append(release))
    with OnlineStore(url, config.store.namespace) as store:
        positions = dict.fromkeys(range(config.events.bus.partitions), 0)
        FeatureStore(store, VIEW, 3600).end_rebuild({}, positions, {"root": config.root, "release": "r2"})
    manifest = verify(open_release(config.root, deployed))
    materialize_features(config, url, manifest)
    assert asked == ([deployed] if rebuilt else [])
    materialize_features(config, url, manifest, again=True)
    assert asked[-1] == deployed


def test_while_a_view_is_rebuilt_nothing_is_applied(world: tuple[PipelineConfig, str], view: FeatureStore) -> None:
    config, url = world
    send(world, events_of([("u1", "a", 1)], 2))
    view.begin_rebuild()
    with open_stream(config, url, VIEW, FACTS, 0) as stream:
        assert stream.run_once().waiting


def test_a_record_that_is_no_event_holds_nothing_up(world: tuple[PipelineConfig, str], view: FeatureStore) -> None:
    config, url = world
    events = events_of([("u1", "a", 1), ("u2", "b", 2)], 3)
    send(world, events[:1])
    send(world, [{"no": "event"}])
    send(world, events[1:])
    with open_stream(config, url, VIEW, FACTS, 0) as stream:
        applied = stream.run_once()
    assert (applied.read, applied.events, applied.undecodable) == (3, 2, 1)
    assert_online_is(world, view, events)


def test_killed_under_load_it_ends_with_what_a_batch_computes(world: tuple[PipelineConfig, str], view: FeatureStore) -> None:
    config, url = world
    rng = np.random.default_rng(3)
    rows = [(f"u{rng.integers(40)}", "abcd"[rng.integers(4)], int(rng.integers(10_000))) for _ in range(6_000)]
    events = events_of(rows, 4)
    overrides = [f"root={config.root}", f"store.port={config.store.port}", "features.history=5"]
    spawn, done, died, killed = get_context("spawn"), threading.Event(), threading.Event(), 0

    def load() -> None:
        for start in range(0, len(events), 100):
            if start == len(events) // 2:
                died.wait(60)  # a slow machine starts processes slowly
            send(world, events[start : start + 100])
            done.wait(0.05)
        done.set()

    sending = threading.Thread(target=load)
    sending.start()
    while True:
        working = spawn.Event()
        process = spawn.Process(target=keep_applying, args=(overrides, url, VIEW, working))
        process.start()
        assert working.wait(60)
        if done.wait(0.2):
            break
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        killed += 1
        died.set()
    sending.join()
    reader = open_reader(config.events, config.store.namespace, url, EVENTS, 0)
    with contextlib.closing(reader):
        while view.position(0) != reader.newest():
            assert process.is_alive()
            done.clear()
            done.wait(0.05)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert killed >= 1
    assert_online_is(world, view, events)


def test_the_rankers_item_features_follow_the_stream(
    world: tuple[PipelineConfig, str], view: FeatureStore, catalogue: Catalogue
) -> None:
    """From the sums of a rebuild to what the stream has added: always what a batch over all events computes."""
    config, url = world
    ids, rng = catalogue.item_ids, np.random.default_rng(8)
    minutes = np.sort(rng.integers(10_000, size=400)).tolist()
    rows = [(f"u{rng.integers(9)}", ids[rng.integers(len(ids))], minute) for minute in minutes]
    events = events_of(rows, 5)
    built = unknown(prepared(events[:300], config).with_columns(bus_position=pl.lit(-1, pl.Int64)), {})
    lake = item_sums(built, config.features)
    sums = added_up(lake, lake["item_id"], config.features)
    keys = [key.tobytes() for key in item_keys(lake["item_id"])]
    of = {"root": "", "release": "r", "features": asdict(config.features), "partitions": 1}
    with OnlineStore(url, config.store.namespace) as store:
        grown = [catalogue]
        live = LiveItems(store, VIEW, lambda: grown[-1])
        assert live.refresh() is None, "this view says nothing of its items"
        made = add_user_events(built, {}, FACTS, config.features)
        view.write_users((user, state.pack(), pack_user(row)) for user, (state, row) in made.items())
        view.end_rebuild(dict(zip(keys, pack_items(sums), strict=True)), {0: view.position(0) or 0}, of)
        for known in (300, 400):
            send(world, events[300:known])
            with open_stream(config, url, VIEW, FACTS, 0) as stream:
                stream.run_once()
            found = live.refresh()
            partials = item_sums(prepared(events[:known], config), config.features)
            items = pl.DataFrame({"item_id": ids, "year": catalogue.years})
            as_of = int(partials["last"].max())  # type: ignore[arg-type]
            batch = transform.item_rows(added_up(partials, items["item_id"], config.features), items, as_of)
            assert found is not None
            assert found.met.tolist() == batch["n"].to_list(), "nothing was shown"
            np.testing.assert_allclose(found.features, batch.select(c.name for c in ITEM_COLUMNS).to_numpy(), atol=2e-5)
        shown = events_of([(f"u{at}", ids[0], 10_000) for at in range(500)], 6)
        send(world, [{**event, "type": "impression"} for event in shown])
        with open_stream(config, url, VIEW, FACTS, 0) as stream:
            stream.run_once()
        met, before = live.refresh(), found.met
        assert met is not None
        assert (met.met[0], met.met[1:].tolist()) == (500, before[1:].tolist()), "shown more often than acted on"
        for item in ("late", "later"):  # the second one gets the row of the first, as a slot that is free again is given out
            send(world, events_of([("u1", item, 10_001)] * (3 if item == "late" else 2), 7 if item == "late" else 8))
            with open_stream(config, url, VIEW, FACTS, 0) as stream:
                stream.run_once()
            if item == "late":
                assert live.refresh().met.size == len(ids), "not of the catalogue yet"  # type: ignore[union-attr]
            grown.append(grown[-1].with_items([LiveItem(item, 1, 0, 1.7e9, Item(item))])[0])
            now = live.refresh()
            assert now is not None
            assert (now.met.size, now.met[len(ids)]) == (len(ids) + 1, 3 if item == "late" else 2)
            assert now.features[len(ids), 0] == pytest.approx(np.log1p(now.met[len(ids)]), abs=1e-4)
            np.testing.assert_array_equal(now.met[: len(ids)], met.met)
        moments = iter([1e12])
        quiet = LiveItems(store, VIEW, lambda: catalogue, clock=lambda: next(moments, 2e12))
        assert quiet.refresh() is not None
        assert quiet.refresh() is None, "nothing has changed since"
