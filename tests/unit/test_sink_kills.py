"""The sink over a real Valkey: killed at random moments, with a second owner beside it, it stores each event exactly once."""

import asyncio
import multiprocessing
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import polars as pl
import pytest
import redis
from sink_process import run

from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.config import PipelineConfig
from reco_ray.events.bus import EVENTS, Outgoing, partition_of
from reco_ray.events.encoding import rows_to_table
from reco_ray.events.feed import Feed, open_flow
from reco_ray.events.open import open_producer, open_reader
from reco_ray.lake import tables
from reco_ray.lake.compact import compact

PARTITIONS = 2
PRELOAD = ["reco_ray.compose", "reco_ray.events.feed", "reco_ray.events.encoding"]
FEED = Feed(EVENTS, "event_id", rows_to_table)
NOW_US = 1_790_000_000_000_000
DAY_US = 86_400_000_000


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with embedded_store(compose_config([f"root={tmp_path / 'root'}", f"store.port={port}"])) as url:
        yield url


@pytest.fixture
def overrides(tmp_path: Path) -> list[str]:
    return [
        f"root={tmp_path / 'root'}",
        "events.sink_rows=500",
        "events.sink_interval_s=0.05",
        f"events.bus.partitions={PARTITIONS}",
    ]


def event(number: int, rng: random.Random) -> tuple[str, bytes]:
    """An event of one of some hundred users; one in ten is days late."""
    user_id, ts = f"u{number % 97}", NOW_US - (DAY_US * rng.randrange(1, 4) if rng.random() < 0.1 else 0)
    row = {"event_id": f"e{number}", "schema_version": "1.1", "type": "view", "user_id": user_id, "item_id": "i"}
    return user_id, orjson.dumps({**row, "ts": ts, "consent": True, "received_us": NOW_US, "extra": "x" * 200})


class Application(threading.Thread):
    """Sends events in batches until it is stopped, some of them again: in the same batch, in later ones, and late."""

    def __init__(self, config: PipelineConfig, url: str) -> None:
        super().__init__(daemon=True)
        self.config, self.url = config, url
        self.sent, self.appended = 0, 0
        self.stopping = threading.Event()

    def run(self) -> None:
        asyncio.run(self.send())

    async def send(self) -> None:
        rng, made = random.Random(1), list[tuple[str, bytes]]()
        producer = open_producer(self.config.events, self.config.store.namespace, self.url)
        partitions = self.config.events.bus.partitions
        while not self.stopping.is_set() and self.sent < 20_000:
            batch = [event(self.sent + n, rng) for n in range(40)]
            again = rng.sample(made, 4) + rng.sample(batch, 2) if made else []
            records = [Outgoing(partition_of(user, partitions), value) for user, value in batch + again]
            await producer.append(EVENTS, records)
            made += batch
            self.sent, self.appended = self.sent + len(batch), self.appended + len(records)
            await asyncio.sleep(0.01)
        await producer.aclose()


def drain(config: PipelineConfig, url: str) -> None:
    """Run sinks here until nothing waits."""
    for partition in range(config.events.bus.partitions):
        with open_flow(config, url, FEED, partition) as flow:
            while flow.sink.run_once().read:
                pass
            assert flow.lag() == 0


def stored(config: PipelineConfig) -> pl.DataFrame:
    return tables.read(config.root, "events", ["event_id", "date"])


@pytest.mark.slow
def test_each_event_is_stored_once_though_sinks_are_killed_again_and_again(valkey: str, overrides: list[str]) -> None:
    config, rng = compose_config(overrides), random.Random(7)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    application, kills, behind = Application(config, valkey), 0, 0
    application.start()
    readers = [open_reader(config.events, config.store.namespace, valkey, EVENTS, n) for n in range(PARTITIONS)]
    for _ in range(6):
        working = [context.Event() for _ in range(PARTITIONS)]
        sinks = [context.Process(target=run, args=(overrides, valkey, n, working[n])) for n in range(PARTITIONS)]
        for sink in sinks:
            sink.start()
        assert all(each.wait(60) for each in working)
        for sink, reader in zip(sinks, readers, strict=True):
            time.sleep(rng.uniform(0, 0.4))  # the moment is what is random here
            sink.kill()
            sink.join()
            kills += 1
            behind += bool(reader.read(-1, 1, 0.0))
        compact(config.root, "events", more_than=8)
    application.stopping.set()
    application.join()
    drain(config, valkey)
    frame = stored(config)
    assert (kills, frame.height) == (12, application.sent)
    assert frame["event_id"].is_unique().all()
    assert application.appended > application.sent, "duplicates were sent"
    assert behind, "no sink was killed with work before it"


def test_two_owners_of_one_partition_store_each_event_once(valkey: str, overrides: list[str]) -> None:
    config = compose_config([*overrides, "events.bus.partitions=1"])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    working = [context.Event(), context.Event()]
    sinks = [context.Process(target=run, args=(overrides, valkey, 0, each), daemon=True) for each in working]
    for sink in sinks:
        sink.start()
    assert all(each.wait(60) for each in working)
    application = Application(config, valkey)
    application.start()
    application.stopping.wait(1.5)
    application.stopping.set()
    application.join()
    for sink in sinks:
        sink.kill()
        sink.join()
    drain(config, valkey)
    assert sorted(stored(config)["event_id"]) == sorted(f"e{n}" for n in range(application.sent))


def test_a_sink_whose_place_the_bus_has_lost_goes_on_behind_the_lake(valkey: str, overrides: list[str]) -> None:
    config = compose_config(overrides)
    application = Application(config, valkey)
    application.start()
    application.stopping.wait(0.3)
    application.stopping.set()
    application.join()
    drain(config, valkey)
    version, height = tables.version(config.root, "events"), stored(config).height
    with redis.Redis.from_url(valkey) as client:
        assert sum(client.delete(key) for key in client.scan_iter("*:readers")), "found no memory to lose"
    drain(config, valkey)
    assert stored(config).height == height == application.sent
    assert tables.version(config.root, "events") == version
