"""Sends batches of events as applications do: with ids of its own, again and again until they are acknowledged, and a ledger.

``python benchmarks/events_load.py URL --out FILE``. A batch that gets no answer, or one that is no success, is sent again with
the same ids. The ledger holds which ids were acknowledged, and when which batch failed how. One process, its own event loop.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import orjson
import typer

_TYPES = ("view", "view", "view", "click", "impression", "impression", "add_to_cart", "like")
_RETRY_S = 0.1


@dataclass(slots=True)
class Ledger:
    """What was sent and what came back. ``acknowledged``: first number and count of each batch, per worker."""

    sent: int = 0
    acknowledged: list[tuple[int, int, int]] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[float, float, str]] = field(default_factory=list)  # begun, ended, kind
    latencies_ms: list[float] = field(default_factory=list)


def main(
    url: str,
    out: Annotated[Path, typer.Option(help="The ledger as JSON.")],
    run: Annotated[str, typer.Option(help="Starts each id.")] = "run",
    seconds: float = 10.0,
    rate: Annotated[float, typer.Option(help="Events/s; 0 sends the next batch when the last is acknowledged.")] = 0.0,
    batch: int = 100,
    workers: int = 8,
    users: int = 10_000,
    repeat: Annotated[float, typer.Option(help="Share of the batches sent a second time, as clients do.")] = 0.0,
    patience_s: Annotated[float, typer.Option(help="How long after the end a batch is still sent again.")] = 60.0,
    seed: int = 0,
) -> None:
    """Send for a while, wait until everything is acknowledged, and write the ledger."""
    ledger = Ledger()
    started = time.time()
    asyncio.run(_send(url, ledger, run, seconds, rate, batch, workers, users, repeat, patience_s, seed))
    report = {
        "run": run,
        "batch": batch,
        "seconds": seconds,
        "started_unix": started,
        "sent": ledger.sent,
        "acknowledged": ledger.acknowledged,
        "acknowledged_events": sum(n for _, _, n in ledger.acknowledged),
        "statuses": ledger.statuses,
        "failures": ledger.failures,
        "latencies_ms": ledger.latencies_ms,
    }
    out.write_text(json.dumps(report))


async def _send(
    url: str,
    ledger: Ledger,
    run: str,
    seconds: float,
    rate: float,
    batch: int,
    workers: int,
    users: int,
    repeat: float,
    patience_s: float,
    seed: int,
) -> None:
    until = time.monotonic() + seconds
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=workers)) as session:

        async def work(worker: int) -> None:
            chance = random.Random(f"{seed}-{run}-{worker}")
            pause_s = workers * batch / rate if rate else 0.0
            due = time.monotonic() + chance.random() * pause_s
            number = 0
            while time.monotonic() < until:
                if rate:
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                    due += pause_s
                body = orjson.dumps({"events": [_event(run, worker, number + i, users, chance) for i in range(batch)]})
                ledger.sent += batch
                for _ in range(2 if chance.random() < repeat else 1):
                    if await _until_acknowledged(session, url, body, ledger, until + patience_s):
                        ledger.acknowledged.append((worker, number, batch))
                number += batch

        await asyncio.gather(*(work(worker) for worker in range(workers)))


async def _until_acknowledged(session: aiohttp.ClientSession, url: str, body: bytes, ledger: Ledger, until: float) -> bool:
    while time.monotonic() < until:
        begun, at = time.time(), time.perf_counter()
        try:
            async with session.post(url, data=body, headers={"content-type": "application/json"}) as response:
                answer = await response.read()
                kind = "" if response.status == 200 else str(response.status)
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            kind = type(exc).__name__
        if not kind:
            ledger.latencies_ms.append((time.perf_counter() - at) * 1e3)
            statuses = Counter(result["status"] for result in orjson.loads(answer)["results"])
            ledger.statuses.update(statuses)
            if statuses["rejected"]:
                raise SystemExit(f"events were rejected: {answer[:500]!r}")
            return True
        ledger.failures.append((begun, time.time(), kind))
        await asyncio.sleep(_RETRY_S)
    return False


def _event(run: str, worker: int, number: int, users: int, chance: random.Random) -> dict[str, Any]:
    return {
        "event_id": f"{run}-{worker}-{number}",
        "schema_version": "1.1",
        "type": _TYPES[number % len(_TYPES)],
        "user_id": f"user-{chance.randrange(users)}",
        "item_id": f"item-{chance.randrange(100_000)}",
        "ts": int(time.time() * 1e6),
        "session_id": f"{run}-{worker}",
        "request_id": f"{run}-request-{number // 10}",
        "position": number % 20 + 1,
        "dwell_ms": chance.randrange(60_000),
        "context": {"device": "phone", "locale": "de-DE", "surface": "home"},
        "consent": True,
        "campaign": "spring",
    }


if __name__ == "__main__":
    sys.exit(typer.run(main))
