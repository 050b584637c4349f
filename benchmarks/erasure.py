"""Whether an erased user is found anywhere: in files under the root, in the store, in logs, while others keep coming.

``python benchmarks/erasure.py --out FILE``. One user sends events and asks for slates among a load of others, and wishes to go:
``DELETE /v1/users/{id}``, then what `jobs/erase_user.py` runs. Every file is searched as bytes, and those of Parquet, which are
compressed, by their values too; the same search before the erasure shows that it would find them.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import polars as pl
import redis
import typer
from environment import Case, case, deploy_release
from rich.console import Console

from reco_ray.cluster import ray_session, serve_environment
from reco_ray.lake import tables
from reco_ray.privacy.needles import Needle
from reco_ray.privacy.run import erase_users
from reco_ray.workflow.sinks import start_sinks, stop_sinks

HERE = Path(__file__).parent
USER = "leaving-person/4711"
console = Console(width=None if sys.stdout.isatty() else 150)


def main(
    out: Annotated[Path, typer.Option(help="The result as JSON.")],
    rate: Annotated[float, typer.Option(help="Events/s of others.")] = 500.0,
    seconds: Annotated[float, typer.Option(help="Of that load.")] = 60.0,
) -> None:
    """Erase one user under load; exits with 1 where they are found afterwards."""
    os.environ.update(serve_environment())
    settings = ["serve=fused", "lake.date_unit=day", "events.sink_interval_s=0.5", "exposures.features_share=1.0"]
    with case(settings, items=2_000, candidates=50, users=100) as given, ray_session(given.config.cluster) as dashboard:
        url = deploy_release(given, dashboard)
        start_sinks(given.config, given.store_url)
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="reco-load-"))
            command = [sys.executable, str(HERE / "events_load.py"), f"{url}/v1/events", "--out", f"{folder}/ledger.json"]
            load = subprocess.Popen([*command, "--rate", str(rate), "--seconds", str(seconds), "--batch", "20"])
            stack.callback(load.kill)
            _live(url)
            _until(lambda: _rows(given, "events") >= 200 and _rows(given, "exposures") >= 20)
            before = _found(given)
            started = time.monotonic()
            answer = httpx.delete(f"{url}/v1/users/{USER.replace('/', '%2F')}", timeout=10).raise_for_status().json()
            erase_users(given.config, given.store_url)
            took = time.monotonic() - started
            receipt = httpx.get(f"{url}/v1/erasures/{answer['receipt_id']}", timeout=10).raise_for_status().json()
            running = load.poll() is None
            load.wait()
            ledger = json.loads(Path(folder, "ledger.json").read_text())
        after = _found(given)
        stop_sinks(given.config)
    console.print_json(data=receipt)
    checks = [
        {"name": "found_before", "value": sum(before.values()), "unit": "places"},
        {"name": "found_after", "value": sum(after.values()), "unit": "places"},
        {"name": "erased_in_s", "value": round(took, 2), "unit": "s"},
        {"name": "load_ran_on", "value": int(running), "unit": "bool"},
        {"name": "others_acknowledged", "value": ledger["acknowledged_events"], "unit": "events"},
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"checks": checks, "before": before, "after": after, "receipt": receipt}, indent=1))
    for check in checks:
        console.print(f"{check['name']} = {check['value']} {check['unit']}")
    if after:
        console.print(f"still found in {sorted(after)}", style="red")
        raise typer.Exit(1)


def _live(url: str) -> None:
    """Be the user for a while: 200 events, a refused one, and 20 slates."""
    events: list[dict[str, Any]] = [
        {"event_id": f"bye-{n}", "type": "view", "user_id": USER, "item_id": f"item-{n}", "ts": int(time.time() * 1e6)}
        for n in range(200)
    ]
    events.append({"event_id": "bye-bad", "type": "gaze", "user_id": USER, "item_id": "item-1", "ts": 1})
    httpx.post(f"{url}/v1/events", json={"events": events}, timeout=10).raise_for_status()
    for n in range(20):
        httpx.post(f"{url}/v1/recommendations", json={"user_id": USER, "k": 1 + n}, timeout=10).raise_for_status()


def _rows(given: Case, name: str) -> int:
    if not tables.exists(given.config.root, name):
        return 0
    return tables.read(given.config.root, name, ["user_id"], pl.col("user_id") == USER).height


def _found(given: Case) -> dict[str, int]:
    """Where the user's id stands: a table's or folder's name, a kind of key, ``logs``; and in how many files or keys."""
    needle, found = Needle(USER), dict[str, int]()
    for where, parts in (*_files(Path(given.config.root)), *_files(Path("/tmp/ray/session_latest/logs").resolve(), "logs")):
        if any(needle.within(part) for part in parts):
            found[where] = found.get(where, 0) + 1
    with redis.Redis.from_url(given.store_url) as client:
        for key in client.scan_iter(count=1_000):
            if needle.within(key) or any(map(needle.within, _values(client, key))):
                where = f"store {key.decode().split(':')[1]}"
                found[where] = found.get(where, 0) + 1
    return found


def _files(root: Path, name: str = "") -> Iterator[tuple[str, list[bytes]]]:
    for path in root.rglob("*"):
        try:
            if not path.is_file():
                continue
            parts = [path.read_bytes()]
            if path.suffix == ".parquet" and "_delta_log" not in path.parts:
                parts.append(repr(pl.read_parquet(path, hive_partitioning=False).rows()).encode())
        except OSError:  # compacted or vacuumed meanwhile
            continue
        yield name or "/".join(path.relative_to(root).parts[:2]), parts


def _values(client: redis.Redis, key: bytes) -> Iterator[bytes]:
    match client.type(key):
        case b"stream":  # what was removed stays in the dump of a stream's last block until that is trimmed
            for _, fields in client.xrange(key):
                yield from fields.values()
        case b"hash":
            for name, value in client.hgetall(key).items():
                yield from (name, value)
        case _:
            yield client.dump(key) or b""


def _until(done: Callable[[], bool], seconds: float = 60.0) -> None:
    until, pause = time.monotonic() + seconds, threading.Event()
    while not done():
        if time.monotonic() > until:
            raise TimeoutError("the user's events and exposures did not reach the lake")
        pause.wait(0.5)


if __name__ == "__main__":
    typer.run(main)
