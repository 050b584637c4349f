"""How many events are accepted and sunk in a second, and how long it takes until one can be read in the lake.

``python benchmarks/events.py --out FILE``. Accepted: over HTTP, in batches, each on the bus and synced before its answer;
beside it with a sync each second, which is not what is deployed. Sunk: from a full bus into Delta. Readable: from the gateway's
clock to the first version of the table that a reader sees it in, under a steady load.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import redis
import typer
from deltalake import DeltaTable
from environment import Case, case, deploy_release
from lake_ledger import rows
from rich.console import Console

from reco_ray.cluster import ray_session, serve_environment
from reco_ray.events import Outgoing
from reco_ray.events.bus import EVENTS, partition_of
from reco_ray.events.encoding import encode
from reco_ray.events.open import open_producer
from reco_ray.lake import tables
from reco_ray.workflow.sinks import start_sinks, stop_sinks

HERE = Path(__file__).parent
console = Console(width=None if sys.stdout.isatty() else 150)


def main(
    out: Annotated[Path, typer.Option(help="The result as JSON.")],
    seconds: Annotated[float, typer.Option(help="Of each load.")] = 15.0,
    events: Annotated[int, typer.Option(help="On the bus when the sinks start.")] = 1_000_000,
    batch: int = 100,
    workers: int = 8,
    steady: Annotated[float, typer.Option(help="Events/s while readability is measured.")] = 1_000.0,
) -> None:
    """Measure all three and write the result."""
    os.environ.update(serve_environment())
    settings = ["serve=fused", "lake.date_unit=day", f"events.max_lag={100 * events}"]
    with case(settings, items=2_000, candidates=50, users=100) as given, ray_session(given.config.cluster) as dashboard:
        url = f"{deploy_release(given, dashboard)}/v1/events"
        stop_sinks(given.config)
        _load(url, "warm", 3.0, 0.0, batch, workers)
        accepted = _accepted(given, url, seconds, batch, workers)
        start_sinks(given.config, given.store_url)
        _await_rows(given, accepted.pop("events"))
        stop_sinks(given.config)
        sunk = _sunk(given, events)
        readable = _readable(given, url, seconds, steady)
        stop_sinks(given.config)
    checks = [
        {"name": "accepted_per_s", "value": accepted["always_per_s"], "unit": "events/s"},
        {"name": "accepted_everysec_per_s", "value": accepted["everysec_per_s"], "unit": "events/s"},
        {"name": "accepted_p99_ms", "value": accepted["always_p99_ms"], "unit": "ms"},
        {"name": "sunk_per_s", "value": sunk["per_s"], "unit": "events/s"},
        {"name": "readable_p50_s", "value": readable["p50_s"], "unit": "s"},
        {"name": "readable_p99_s", "value": readable["p99_s"], "unit": "s"},
    ]
    case_of = {"batch": batch, "workers": workers, "events": events, "steady_per_s": steady, "seconds": seconds}
    out.parent.mkdir(parents=True, exist_ok=True)
    measured = {"accepted": accepted, "sunk": sunk, "readable": readable}
    out.write_text(json.dumps({"checks": checks, "case": case_of, "measured": measured}, indent=1))
    for check in checks:
        console.print(f"{check['name']} = {check['value']} {check['unit']}")


def _load(url: str, run: str, seconds: float, rate: float, batch: int, workers: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="reco-load-") as folder:
        report = Path(folder) / "ledger.json"
        command = [sys.executable, str(HERE / "events_load.py"), url, "--out", str(report), "--run", run]
        command += ["--seconds", str(seconds), "--rate", str(rate), "--batch", str(batch), "--workers", str(workers)]
        subprocess.run(command, check=True)
        found: dict[str, Any] = json.loads(report.read_text())
    return found


def _accepted(given: Case, url: str, seconds: float, batch: int, workers: int) -> dict[str, Any]:
    """Closed loop with a sync per write and with one per second, in turn, and the first once more."""
    found: dict[str, Any] = {"events": 0}
    with redis.Redis.from_url(given.store_url) as server:
        for name, sync in (("always", "always"), ("everysec", "everysec"), ("always_again", "always")):
            server.config_set("appendfsync", sync)
            ledger = _load(url, name.replace("_", "-"), seconds, 0.0, batch, workers)
            found[f"{name}_per_s"] = round(ledger["acknowledged_events"] / seconds, 1)
            found[f"{name}_p99_ms"] = round(float(np.percentile(ledger["latencies_ms"], 99)), 2)
            found["events"] += ledger["acknowledged_events"]
        server.config_set("appendfsync", "always")
    return found


def _sunk(given: Case, events: int) -> dict[str, Any]:
    """Fill the bus while nothing reads it, then start the sinks and wait for the last row."""
    before = rows(given.config.root)
    asyncio.run(_fill(given, events))
    start_sinks(given.config, given.store_url)
    started = time.monotonic()
    _await_rows(given, before + events)
    took = time.monotonic() - started
    return {
        "events": events,
        "seconds": round(took, 2),
        "per_s": round(events / took, 1),
        "partitions": given.config.events.bus.partitions,
    }


async def _fill(given: Case, events: int) -> None:
    partitions = given.config.events.bus.partitions
    producer = open_producer(given.config.events, given.config.store.namespace, given.store_url)
    try:
        block: list[Outgoing] = []
        for value, user_id in _values(events):
            block.append(Outgoing(partition_of(user_id, partitions), value))
            if len(block) == 1_000:
                await producer.append(EVENTS, block)
                block = []
        await producer.append(EVENTS, block)
    finally:
        await producer.aclose()


def _values(events: int) -> Iterator[tuple[bytes, str]]:
    chance = np.random.default_rng(0)
    now_us = int(time.time() * 1e6)
    for number, (user, item) in enumerate(
        zip(chance.integers(0, 50_000, events), chance.integers(0, 100_000, events), strict=True)
    ):
        row = {
            "event_id": f"fill-{number}",
            "schema_version": "1.1",
            "type": "view",
            "user_id": f"user-{user}",
            "item_id": f"item-{item}",
            "ts": now_us + number,
            "session_id": f"session-{user}",
            "request_id": f"request-{number // 10}",
            "position": number % 20 + 1,
            "dwell_ms": number % 60_000,
            "context": {"device": "phone", "locale": "de-DE", "surface": "home", "location": None},
            "consent": True,
            "extra": '{"campaign":"spring"}',
            "received_us": now_us,
        }
        yield encode(row), row["user_id"]


def _await_rows(given: Case, wanted: int, seconds: float = 300.0) -> None:
    until, pause = time.monotonic() + seconds, threading.Event()
    while (found := rows(given.config.root)) < wanted:
        if time.monotonic() > until:
            raise TimeoutError(f"found {found} rows in the lake, expected {wanted}")
        pause.wait(0.1)


def _readable(given: Case, url: str, seconds: float, rate: float) -> dict[str, Any]:
    """Follow the table's versions under a steady load; a row is readable when the version that holds it is seen."""
    uri = tables.table_uri(given.config.root, "events")
    table = DeltaTable(uri)
    known, delays, ended = set(table.file_uris()), [], threading.Event()

    def follow() -> None:
        while not ended.is_set():
            table.update_incremental()
            seen_us = time.time() * 1e6
            fresh = set(table.file_uris()) - known
            for file in fresh:
                received = pl.read_parquet(file, columns=["received_ts"])["received_ts"].dt.epoch("us").to_numpy()
                delays.append((seen_us - received) / 1e6)
            known.update(fresh)
            ended.wait(0.02)

    follower = threading.Thread(target=follow)
    follower.start()
    ledger = _load(url, "steady", seconds, rate, 20, 8)
    ended.wait(5)
    ended.set()
    follower.join()
    found = np.concatenate(delays)
    return {
        "events": int(found.size),
        "acknowledged": ledger["acknowledged_events"],
        "p50_s": round(float(np.percentile(found, 50)), 3),
        "p99_s": round(float(np.percentile(found, 99)), 3),
        "max_s": round(float(found.max()), 3),
    }


if __name__ == "__main__":
    typer.run(main)
