"""Erasure: nothing of a user is left anywhere, everything of the others is, and a run that is killed is gone on with."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
import redis
from ports import free_port
from privacy_world import (
    GONE,
    START,
    USERS,
    config_of,
    event,
    fill_bus,
    fill_store,
    kept_values,
    make_files,
    make_lake,
    rows_of,
    traces,
)

from reco_ray.cluster import embedded_store
from reco_ray.config import BusKind, DateUnit, PipelineConfig
from reco_ray.errors import NotReadyError
from reco_ray.events.valkey import ValkeyReader
from reco_ray.hashing import user_digest
from reco_ray.lake import append_events, tables
from reco_ray.privacy import Receipt, audited, find_receipt, request_erasure
from reco_ray.privacy.files import remove_from_parquet
from reco_ray.privacy.run import erase_users
from reco_ray.privacy.settle import settle
from reco_ray.release import open_release
from reco_ray.schema import EVENTS, check
from reco_ray.store import ErasureStore, FenceReader, FenceStore, OnlineStore


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template")
    make_lake(root)
    make_files(root)
    return root


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that the tests share, each in a namespace of its own."""
    with embedded_store(config_of(tmp_path_factory.mktemp("server"), port=free_port())) as url:
        yield url


@pytest.fixture
def config(template: Path, url: str, tmp_path: Path) -> PipelineConfig:
    """A full world."""
    root = tmp_path / "root"
    shutil.copytree(template, root)
    config = config_of(root, url, 0, f"store.namespace={tmp_path.name}")
    fill_bus(config, url)
    fill_store(config, url)
    return config


def erase(config: PipelineConfig, *user_ids: str, killed_at: int = -1) -> list[Receipt]:
    """Run the erasure; at the n-th change of a receipt it ends."""
    config.privacy.user_ids = list(user_ids)
    seen = 0

    def told(receipt: Receipt) -> None:
        nonlocal seen
        seen += 1
        if seen == killed_at:
            raise KeyboardInterrupt

    return erase_users(config, config.store.url, told=told)


def keys_of(config: PipelineConfig) -> dict[bytes, bytes]:
    prefix = f"{config.store.namespace}:".encode()
    return {key: value for key, value in kept_values(config.store.url) if key.startswith(prefix)}


def test_nothing_of_an_erased_user_is_left_and_the_others_are_untouched(template: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(template, root)
    config = config_of(root, port=free_port())
    config.privacy.user_ids = [GONE]
    with embedded_store(config) as url:
        fill_bus(config, url)
        fill_store(config, url)
        before, mine = rows_of(root, None), rows_of(root, GONE)
        before_paths = traces(root)
        keys = {key for key, _ in kept_values(url)}
        assert any(path.startswith("store/") for path in before_paths), "the append-only file held the id"
        assert any("_delta_log" in path for path in before_paths), "a log held the id"
        (receipt,) = erase_users(config, url)
        assert traces(root) == []
        assert [key for key, value in kept_values(url) if GONE.encode() in value or b"7-gone" in value] == []
        digest = user_digest(GONE).encode()
        gone = {key for key in keys if digest in key}
        assert len(gone) == 5, "rows of two views, answers, precomputed, profile"
        left = {key for key, _ in kept_values(url)}
        assert keys - gone <= left
        after = rows_of(root, None)
        assert set(after) == set(before)
        for name, frame in before.items():
            assert frame.equals(after[name]), name
        with OnlineStore(url, config.store.namespace) as store:
            assert find_receipt(ErasureStore(store), receipt.receipt_id) == receipt
    places = {name: (place.found, place.removed) for name, place in receipt.places.items()}
    assert places["lake events"] == (mine["events"].height, mine["events"].height) == (5, 5)
    assert places["lake features_users"] == (2, 2)
    assert places["lake labels, log"][0] >= 1
    assert places["lake events, files of older versions"][0] >= 3, "compacted, killed, half written, and those just replaced"
    assert places["bus events"] == (3, 3)
    assert places["bus dead_letters"] == (2, 2), "one of them only its raw bytes tell of"
    assert places["store user:v1"] == places["store user:v2"] == places["store profile"] == (1, 1)
    assert all(found == removed for found, removed in places.values()), places
    assert receipt.state == "done"
    assert receipt.releases == ("r1",), "r2 was trained on features without the user, r0 was made before"
    assert [each.receipt_id for each in audited(str(root))] == [receipt.receipt_id]
    open_release(str(root), "r1")
    manifest = json.loads((root / "steps/build_features/aaa/manifest.json").read_text())
    assert manifest["files"]["sequences.parquet"] != "", "the manifest tells of the new file"
    assert (root / "lake" / "events" / f"date={START:%Y-%m-%d}" / "at-work.parquet").exists(), "another writer's file"


def test_a_run_that_is_killed_at_any_change_is_gone_on_with(config: PipelineConfig, template: Path) -> None:
    root = Path(config.root)
    before = rows_of(root, None)
    receipt_ids: set[str] = set()
    with OnlineStore(config.store.url, config.store.namespace) as store:
        for change in range(1, 200):
            try:
                (receipt,) = erase(config, GONE, killed_at=change)
                break
            except KeyboardInterrupt:
                receipt_ids |= set(ErasureStore(store).pending())
                assert FenceStore(store).read().running(user_digest(GONE)), "the fence stands until the end"
    assert change > 20
    assert receipt_ids == {receipt.receipt_id}, "one wish, one receipt"
    assert receipt.runs == change
    assert traces(root) == []
    for name, frame in before.items():
        assert frame.equals(rows_of(root, None)[name]), name
    places = {name: (place.found, place.removed) for name, place in receipt.places.items()}
    assert places["lake events"] == (5, 5)
    assert places["lake features_users"] == (2, 2)
    assert places["bus events"] == (3, 3)
    assert all(found == removed for found, removed in places.values()), places


def test_every_change_may_be_the_first_one_to_be_killed_at(config: PipelineConfig, template: Path) -> None:
    root = Path(config.root)
    for change in (2, 5, 9, 14, 19, 27):
        if change > 2:
            shutil.rmtree(root)
            shutil.copytree(template, root)
            fill_bus(config, config.store.url)
        with pytest.raises(KeyboardInterrupt):
            erase(config, GONE, killed_at=change)
        config.privacy.user_ids = []
        (receipt,) = erase(config)
        assert receipt.state == "done"
        assert receipt.runs == 2
        assert traces(root) == [], change
        places = {name: (place.found, place.removed) for name, place in receipt.places.items()}
        assert places["lake events"] == (5, 5), change
        assert places["bus events"] == (3, 3), change


def test_a_process_that_is_killed_leaves_nothing_that_stops_the_next(config: PipelineConfig) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from privacy_world import config_of, GONE\n"
        "from reco_ray.privacy.run import erase_users\n"
        "config = config_of(Path(sys.argv[1]), sys.argv[2], 0, 'store.namespace=' + sys.argv[3])\n"
        "config.privacy.user_ids = [GONE]\n"
        "def told(receipt):\n"
        "    if 'lake events' in receipt.places:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "erase_users(config, sys.argv[2], told=told)\n"
    )
    command = [sys.executable, "-c", code, config.root, config.store.url, config.store.namespace]
    folder = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (folder.parents[1], folder)))}
    run = subprocess.run(command, env=env, timeout=120, check=False, capture_output=True)
    assert run.returncode == -9, run.stderr
    with pytest.raises(NotReadyError, match=r"or where it has died \d+ s"):
        erase(config)
    with redis.Redis.from_url(config.store.url) as calls:
        assert calls.delete(f"{config.store.namespace}:lease:erasures") == 1  # as a minute does
    (receipt,) = erase(config)
    assert (receipt.state, receipt.runs) == ("done", 2)
    assert traces(Path(config.root)) == []


def test_a_wish_that_is_worked_on_is_the_same_wish_and_one_after_it_is_another(config: PipelineConfig) -> None:
    with OnlineStore(config.store.url, config.store.namespace) as store:
        erasures = ErasureStore(store)
        first, again = request_erasure(erasures, GONE), request_erasure(erasures, GONE)
        other = request_erasure(erasures, "user-1")
        assert first == again
        assert first.receipt_id != other.receipt_id
        assert first.state == "requested"
        assert GONE not in first.dump().decode()
        done = erase(config)
        assert {each.receipt_id for each in done} == {first.receipt_id, other.receipt_id}
        assert erasures.pending() == {}
        second = request_erasure(erasures, GONE)
        assert second.receipt_id != first.receipt_id
        (twice,) = erase(config)
        assert sum(place.found for place in twice.places.values()) == 0
        assert {each.receipt_id for each in audited(config.root)} == {first.receipt_id, other.receipt_id, twice.receipt_id}
        assert erase(config) == []


def test_who_comes_back_is_kept_and_what_is_late_is_not(config: PipelineConfig) -> None:
    user = user_digest(GONE)
    now_us = time.time_ns() // 1000
    with OnlineStore(config.store.url, config.store.namespace) as store:
        fence = FenceStore(store)
        assert not fence.read().drops(user, now_us, now_us)
        erase(config, GONE)
        found = fence.read()
        after_us = time.time_ns() // 1000
        assert not found.running(user)
        assert found.drops(user, now_us, after_us), "an old event, sent again"
        assert found.drops(user, after_us, now_us), "an event that lay on the bus"
        assert not found.drops(user, after_us, after_us), "a new one"
        assert not found.drops(user_digest("user-1"), now_us, now_us)
        row = [event(GONE, 99, START)]
        append_events(config.root, check(pa.Table.from_pylist(row), EVENTS, "back"), "back", 0, DateUnit.day)
        assert erase(config) == []
        assert tables.read(config.root, "events", ["user_id"])["user_id"].to_list().count(GONE) == 1
        assert ErasureStore(store).prune(now_us) == 0, "within its days"
        assert ErasureStore(store).prune(after_us) == 1
        assert not fence.read().drops(user, now_us, now_us)


def test_a_step_at_work_is_waited_for(config: PipelineConfig) -> None:
    work = Path(config.root) / "tmp" / "build_features-x1"
    work.mkdir(parents=True)
    with pytest.raises(NotReadyError, match=r"found build_features-x1, expected no step at work; wait for it"):
        erase(config, GONE)
    work.rmdir()
    (receipt,) = erase(config)
    assert receipt.state == "done"


def test_a_file_of_somebody_elses_is_named_in_the_receipt(config: PipelineConfig) -> None:
    note = Path(config.root) / "notes.txt"
    note.write_text(f"called {GONE} today")
    (receipt,) = erase(config, GONE)
    place = receipt.places["other files, bytes of the id"]
    assert (place.found, place.removed, place.note) == (1, 0, "look at notes.txt")
    assert note.exists()


def test_a_parquet_file_without_users_is_left_alone(config: PipelineConfig) -> None:
    path = Path(config.root) / "steps/build_features/aaa/sequences.parquet"
    raw = path.read_bytes()
    assert remove_from_parquet(config.root, ["nobody"]).users == {}
    assert path.read_bytes() == raw
    assert remove_from_parquet(config.root, ["user-1"]).users == {"user-1": 2}
    assert path.read_bytes() != raw


def test_what_a_bus_cannot_remove_is_told_with_the_date_by_which_it_goes(config: PipelineConfig) -> None:
    class Keeps(ValkeyReader):
        def remove(self, positions: Sequence[int]) -> int:
            return 0

    kafka = replace(config.events.bus, kind=BusKind.kafka, url="broker:9092", keep_hours=24)
    kept = replace(config, events=replace(config.events, bus=kafka))
    kept.privacy.user_ids = [GONE]
    url, namespace = config.store.url, config.store.namespace
    (receipt,) = erase_users(kept, url, lambda topic, partition: Keeps(url, namespace, topic, partition))
    place = receipt.places["bus events"]
    assert (place.found, place.removed) == (3, 0)
    assert place.note.startswith("Kafka removes no single records; its retention removes these by ")
    assert datetime.now(UTC) < datetime.strptime(place.note[-20:-4], "%Y-%m-%d %H:%M").replace(tzinfo=UTC)
    assert receipt.state == "done"


def test_an_erasure_waits_for_whoever_works_by_an_older_fence() -> None:
    states = [
        [FenceReader("gateway:a", 4, 0.5), FenceReader("sink:events:0", 5, 1.0), FenceReader("gateway:gone", 1, 16.0)],
        [FenceReader("gateway:a", 5, 0.5), FenceReader("sink:events:0", 4, 90.0)],
        [FenceReader("gateway:a", 5, 0.5), FenceReader("sink:events:0", 5, 1.0)],
    ]
    looks = iter(states)
    assert settle(lambda: next(looks), 5, pause=lambda _: None) == 2
    assert next(looks, None) is None
    with pytest.raises(NotReadyError, match="found gateway:a, sink:events:0 behind version 6 after 0 s"):
        settle(lambda: states[2], 6, timeout_s=0, pause=lambda _: None)


def test_readers_of_the_fence_say_which_version_they_work_by(config: PipelineConfig) -> None:
    with OnlineStore(config.store.url, config.store.namespace) as store:
        sink, onlooker = FenceStore(store, "sink:events:0"), FenceStore(store)
        assert sink.read().version == 0
        request_erasure(ErasureStore(store), GONE)
        first = sink.read()
        assert first.running(user_digest(GONE))
        assert [each.version for each in onlooker.readers()] == [0], "it has the new one, and has not said that it works by it"
        assert sink.read() is first, "nothing is sent where nothing changed"
        assert [each.version for each in onlooker.readers()] == [first.version]
        request_erasure(ErasureStore(store), "user-1")
        assert sink.read().version > first.version
        assert len(sink.read().entries) == 2


def test_every_user_of_a_world_can_be_erased_at_once(config: PipelineConfig) -> None:
    done = erase(config, *USERS)
    assert {receipt.state for receipt in done} == {"done"}
    assert tables.read(config.root, "events").is_empty()
    assert all(b"user-" not in value for key, value in keys_of(config).items() if b":bus:" in key)
