"""The sinks as actors: started once, replaced when their configuration changes, restarted when they die, stopped on demand."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import ray

from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.config import PipelineConfig
from reco_ray.errors import NotReadyError
from reco_ray.events.bus import EVENTS, Outgoing, partition_of
from reco_ray.events.encoding import rows_to_table
from reco_ray.events.feed import Feed
from reco_ray.events.open import open_producer
from reco_ray.lake import tables
from reco_ray.streaming.actor import sink_status, start_sinks, stop_sinks

FEEDS = [Feed(EVENTS, "event_id", rows_to_table)]
NOW_US = 1_790_000_000_000_000


@pytest.fixture
def config(tmp_path: Path) -> PipelineConfig:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = [f"root={tmp_path / 'root'}", f"store.port={port}", f"store.namespace=test{port}", "events.sink_interval_s=0.1"]
    return compose_config(settings)


@pytest.fixture
def url(config: PipelineConfig, ray_cluster: str) -> Iterator[str]:
    with embedded_store(config) as url:
        yield url
        stop_sinks(config)


def send(config: PipelineConfig, url: str, numbers: range) -> None:
    async def append() -> None:
        producer = open_producer(config.events, config.store.namespace, url)
        records = []
        for number in numbers:
            row = {"event_id": f"e{number}", "schema_version": "1.1", "type": "view", "user_id": f"u{number}", "item_id": "i"}
            value = orjson.dumps({**row, "ts": NOW_US, "consent": True, "received_us": NOW_US})
            records.append(Outgoing(partition_of(f"u{number}", config.events.bus.partitions), value))
        await producer.append(EVENTS, records)
        await producer.aclose()

    asyncio.run(append())


def await_rows(config: PipelineConfig, wanted: int) -> None:
    pause = threading.Event()
    for _ in range(600):
        if tables.exists(config.root, EVENTS) and tables.read(config.root, EVENTS, ["event_id"]).height >= wanted:
            break
        pause.wait(0.1)
    frame = tables.read(config.root, EVENTS, ["event_id"])
    assert frame.height == wanted
    assert frame["event_id"].is_unique().all()


def actors(config: PipelineConfig) -> list[Any]:
    return [ray.get_actor(f"reco_sink:{config.store.namespace}:{n}", "reco") for n in range(config.events.bus.partitions)]


def test_sinks_come_once_outlive_a_kill_and_change_with_their_configuration(config: PipelineConfig, url: str) -> None:
    states = start_sinks(config, url, FEEDS)
    assert [(state.topic, state.partition, state.running) for state in states] == [(EVENTS, 0, True), (EVENTS, 1, True)]
    send(config, url, range(500))
    await_rows(config, 500)
    first = [each._actor_id for each in actors(config)]
    config.release = "another"
    start_sinks(config, url, FEEDS)
    assert [each._actor_id for each in actors(config)] == first, "nothing that a sink works by has changed"

    pids = [ray.get(each.process.remote()) for each in actors(config)]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    send(config, url, range(400, 900))
    await_rows(config, 900)
    assert sum(state.rows for state in sink_status(config)) == 400, "counted since their new start"
    assert sum(state.duplicates for state in sink_status(config)) == 100

    config.events.sink_rows += 1
    start_sinks(config, url, FEEDS)
    assert not {each._actor_id for each in actors(config)} & set(first), "replaced"
    send(config, url, range(900, 1000))
    await_rows(config, 1000)
    assert stop_sinks(config) == 2
    assert sink_status(config) == []


def test_a_sink_that_cannot_work_says_why(config: PipelineConfig, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reco_ray.streaming.actor._READY_S", 20.0)
    start_sinks(config, url, FEEDS)
    stop_sinks(config)
    other = compose_config([f"root={config.root}", f"store.namespace={config.store.namespace}", "lake.date_unit=day"])
    other.lake.date_unit = next(unit for unit in type(config.lake.date_unit) if unit is not config.lake.date_unit)
    with pytest.raises(NotReadyError, match=r"found dates by .*, expected by .*; give lake\.date_unit="):
        start_sinks(other, url, FEEDS)
