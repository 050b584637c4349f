"""The online side of the features, with a store, a bus and the stream's process, but no cluster."""

import asyncio
import contextlib
import multiprocessing
import socket
import time
from typing import Any

import numpy as np
import polars as pl

from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.events.bus import EVENTS, Outgoing
from reco_ray.events.encoding import decode, encode
from reco_ray.events.open import open_producer, open_reader
from reco_ray.features import transform
from reco_ray.features.items import ItemFacts
from reco_ray.features.online import add_user_events, unknown
from reco_ray.store import FeatureStore, OnlineStore, pack_user
from reco_ray.streaming.features import open_stream

__all__ = ["measure"]

_VIEW, _CATEGORIES, _EACH, _CANDIDATES = "bench", 20, 20, 500
_START_US = 1_750_000_000_000_000


def measure(root: str, users: int, items: int, rate: int, seconds: float) -> dict[str, tuple[float, str]]:
    """Fill a store and measure it; name -> value and unit."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    overrides = [f"root={root}", f"store.port={port}", "events.bus.partitions=1"]
    config = compose_config(overrides)
    found: dict[str, tuple[float, str]] = {}
    with embedded_store(config) as url, OnlineStore(url, config.store.namespace) as store:
        features = FeatureStore(store, _VIEW, 86_400)
        before = store.blocking_calls.info("memory")["used_memory"]
        rows, states = _fill(features, users, items, config)
        used = store.blocking_calls.info("memory")["used_memory"] - before
        found["bytes_per_user"] = (round(used / users), "bytes")
        found["row_bytes_per_user"] = (round(rows / users), "bytes")
        found["state_bytes_per_user"] = (round(states / users), "bytes")
        found |= asyncio.run(_reads(url, config.store.namespace, users, items))
        features.end_rebuild({}, {0: -1}, {"root": root, "release": "bench"})
        found |= _updates(config, url, users, items)
        found |= _visible(config, overrides, url, users, items, rate, seconds)
    return found


def facts(items: int) -> ItemFacts:
    """Items with two categories each."""
    rng = np.random.default_rng(1)
    membership = np.zeros((items, _CATEGORIES), np.float32)
    for _ in range(2):
        membership[np.arange(items), rng.integers(0, _CATEGORIES, items)] = 1
    years = pl.Series(rng.integers(1960, 2026, items)).cast(pl.Float64)
    return ItemFacts(pl.Series([f"i{i}" for i in range(items)]), (years - 2000) / 10, membership)


def _fill(features: FeatureStore, users: int, items: int, config: Any) -> tuple[int, int]:
    """Write a state of 20 events for each user; returns the bytes of rows and of states."""
    rng, known = np.random.default_rng(2), facts(items)
    rows = states = 0
    for start in range(0, users, 5_000):
        n = min(5_000, users - start) * _EACH
        raw = pl.DataFrame(
            {
                "user_id": pl.Series(start + np.arange(n) // _EACH).cast(pl.String),
                "item_id": pl.select(pl.concat_str(pl.lit("i"), pl.Series(rng.integers(0, items, n)))).to_series(),
                "ts": pl.Series(_START_US + rng.integers(0, 10**12, n)).cast(pl.Datetime("us", "UTC")),
                "type": "view",
                "value": pl.Series([None] * n, dtype=pl.Float32),
                "event_id": pl.select(pl.concat_str(pl.lit("old"), pl.Series(start * _EACH + np.arange(n)))).to_series(),
                "consent": np.full(n, True),
                "bus_position": np.full(n, -1),
            }
        )
        events = unknown(transform.prepare(raw, config.features, ("event_id", "bus_position")), {})
        made = add_user_events(events, {}, known, config.features)
        packed = [(user, state.pack(), pack_user(row)) for user, (state, row) in made.items()]
        features.write_users(packed)
        states += sum(len(state) for _, state, _ in packed)
        rows += sum(len(row) for _, _, row in packed)
    return rows, states


async def _reads(url: str, namespace: str, users: int, items: int) -> dict[str, tuple[float, str]]:
    """One user's row read and the features of 500 items gathered, one request after another."""
    rng = np.random.default_rng(3)
    matrix = rng.random((items, 8), np.float32)
    store = OnlineStore(url, namespace)
    took = []
    for user in rng.integers(0, users, 3_000):
        candidates = rng.integers(0, items, _CANDIDATES)
        started = time.perf_counter()
        row = await store.user(str(user), _VIEW)
        gathered = matrix[candidates]
        took.append(time.perf_counter() - started)
        assert row.features.size
        assert gathered.size
    await store.calls.aclose()
    p50, p99 = np.percentile(np.array(took[200:]) * 1e3, [50, 99])
    return {"online_read_p50_ms": (round(float(p50), 3), "ms"), "online_read_p99_ms": (round(float(p99), 3), "ms")}


def _event(number: int, users: int, items: int, rng: np.random.Generator) -> Outgoing:
    now_us = int(time.time() * 1e6)
    return Outgoing(
        0,
        encode(
            {
                "event_id": f"new{number}",
                "schema_version": "1.1",
                "received_us": now_us,
                "type": "view",
                "user_id": str(rng.integers(users)),
                "item_id": f"i{rng.integers(items)}",
                "ts": now_us,
                "consent": True,
            }
        ),
    )


def _updates(config: Any, url: str, users: int, items: int, n: int = 50_000) -> dict[str, tuple[float, str]]:
    """Events/s of one stream that has all it can take."""
    rng = np.random.default_rng(4)

    async def send() -> None:
        producer = open_producer(config.events, config.store.namespace, url)
        for start in range(0, n, 1_000):
            await producer.append(EVENTS, [_event(start + at, users, items, rng) for at in range(1_000)])
        await producer.aclose()

    asyncio.run(send())
    with open_stream(config, url, _VIEW, facts(items), 0) as stream:
        started, done = time.perf_counter(), 0
        while done < n:
            done += stream.run_once().events
        seconds = time.perf_counter() - started
    return {"stream_updates_per_s": (round(n / seconds), "1/s")}


def keep_applying(overrides: list[str], url: str, items: int) -> None:
    """The stream's process; runs until it is killed."""
    with open_stream(compose_config(overrides), url, _VIEW, facts(items), 0) as stream:
        while True:
            stream.run_once()


def _visible(
    config: Any, overrides: list[str], url: str, users: int, items: int, rate: int, seconds: float
) -> dict[str, tuple[float, str]]:
    """Time from an event's acknowledgement until a read of its user's row shows it, under a load of events."""
    process = multiprocessing.get_context("spawn").Process(target=keep_applying, args=(overrides, url, items))
    process.start()
    rng, took = np.random.default_rng(5), []

    async def watch(store: OnlineStore, acknowledged: float, position: int, user: str) -> None:
        while (await store.user(user, _VIEW)).position < position:
            await asyncio.sleep(0.005)
        took.append(time.perf_counter() - acknowledged)

    async def run() -> None:
        producer = open_producer(config.events, config.store.namespace, url)
        store = OnlineStore(url, config.store.namespace)
        reader = open_reader(config.events, config.store.namespace, url, EVENTS, 0)
        watches: list[asyncio.Task[None]] = []
        with contextlib.closing(reader):
            began = time.perf_counter()
            for step in range(int(seconds * 20)):
                batch = [_event(10**6 + step * 1_000 + at, users, items, rng) for at in range(max(1, rate // 20))]
                await producer.append(EVENTS, batch)
                if step >= 100:  # the process is up
                    user = str(decode(batch[-1].value)["user_id"])
                    watches.append(asyncio.create_task(watch(store, time.perf_counter(), reader.newest(), user)))
                await asyncio.sleep(max(0.0, began + (step + 1) / 20 - time.perf_counter()))
            await asyncio.gather(*watches)
        await producer.aclose()
        await store.calls.aclose()

    asyncio.run(run())
    process.kill()
    process.join()
    p50, p99 = np.percentile(took, [50, 99])
    return {"visible_p50_s": (round(float(p50), 3), "s"), "visible_p99_s": (round(float(p99), 3), "s")}
