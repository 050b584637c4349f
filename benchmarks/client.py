"""An HTTP load in a process of its own: raw keep-alive connections on uvloop, so that the client costs little.

``python benchmarks/client.py URL BODIES --connections N --seconds S`` is a closed loop, ``--rate R`` an open one: arrivals do
not wait for answers, and latency counts from when a request was meant to leave. Prints one JSON line; see `tally.Tally`.
"""

import asyncio
import dataclasses
import json
import signal
import sys
import time
from array import array
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import uvloop
from http1 import Answer
from plan import Load, arrival_times, payloads
from pool import Pending, Pool
from tally import Tally, quantiles

__all__ = ["run"]

_PAUSE_S = 0.05  # of a closed loop before it tries again to connect: failures would otherwise come by the thousand


class _Run:
    """One load while it runs; all times inside are of `time.perf_counter`."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._bodies = payloads(load)
        self._tally = Tally(load.warmup_s)
        self._pool = Pool(load.url, load.max_connections if load.rate else load.connections, load.timeout_s, self._note)
        self._lag = array("d")
        self.stopped = asyncio.Event()
        delay_s = max(0.0, load.start_at - time.time())
        self.start = time.perf_counter() + delay_s
        self.start_unix = time.time() + delay_s + load.warmup_s

    def _note(self, pending: Pending, kind: str, answer: Answer | None) -> None:
        self._tally.add(pending.intended - self.start, time.perf_counter() - self.start, kind, answer)

    async def __call__(self) -> dict[str, Any]:
        times = arrival_times(self._load) if self._load.rate else []
        await asyncio.sleep(self.start - time.perf_counter())
        await (self._open_loop(times) if self._load.rate else self._closed_loop())
        ran = time.perf_counter() - self.start - self._load.warmup_s
        seconds = min(self._load.seconds, ran) if self.stopped.is_set() else self._load.seconds
        await self._pool.settle()
        self._pool.close()
        lag_ms = quantiles(1e3 * np.asarray(self._lag))
        return {
            "mode": "open" if self._load.rate else "closed",
            "rate": self._load.rate,
            "started_unix": self.start_unix,
            **self._tally.report(max(seconds, 1e-3), self._load.timeline_s),
            "waited": self._pool.waited,
            "connections": self._pool.most,
            "opened": self._pool.opened,
            "lag_p99_ms": lag_ms["p99"],  # the generator's own lateness; it is part of the latencies
        }

    async def _open_loop(self, times: list[float]) -> None:
        at = 0
        while at < len(times) and not self.stopped.is_set():
            now = time.perf_counter() - self.start
            while at < len(times) and times[at] <= now:
                self._lag.append(now - times[at])
                self._pool.offer(Pending(self.start + times[at], next(self._bodies)))
                at += 1
            if at < len(times):
                await asyncio.sleep(times[at] - now)
        left = self.start + self._load.warmup_s + self._load.seconds - time.perf_counter()
        if left > 0:
            await self._until(left)

    async def _closed_loop(self) -> None:
        loop = asyncio.get_running_loop()
        left = self._load.warmup_s + self._load.seconds
        until = self.start + left

        def again(kind: str) -> None:
            if kind.isdigit():
                send()
            else:
                loop.call_later(_PAUSE_S, send)

        def send() -> None:
            if (now := time.perf_counter()) < until and not self.stopped.is_set():
                self._pool.offer(Pending(now, next(self._bodies), again))

        for _ in range(self._load.connections):
            send()
        await self._until(left)

    async def _until(self, left_s: float) -> None:
        """Wait for the end of the load, or for being stopped before."""
        try:
            async with asyncio.timeout(left_s):
                await self.stopped.wait()
        except TimeoutError:
            pass


async def run(load: Load, *, announce: bool = False) -> dict[str, Any]:
    """Run a load and report on it.

    Args:
        announce: print ``{"started_unix": ...}`` before the first request; SIGTERM then ends the load early, with a report.
    """
    loop, this, broken = asyncio.get_running_loop(), _Run(load), list[dict[str, Any]]()
    loop.set_exception_handler(lambda _, context: broken.append(context))
    if announce:
        loop.add_signal_handler(signal.SIGTERM, this.stopped.set)
        print(json.dumps({"started_unix": this.start_unix}), flush=True)
    report = await this()
    if broken:  # in a callback: an error of ours, which would otherwise look like one of the server's
        raise RuntimeError(f"{len(broken)} callbacks failed: {broken[0]['message']}") from broken[0].get("exception")
    return report


def main(
    url: str,
    bodies: Path,
    seconds: float = Load.seconds,
    warmup_s: float = Load.warmup_s,
    rate: Annotated[float, typer.Option(help="Arrivals per second; 0 for a closed loop.")] = Load.rate,
    connections: Annotated[int, typer.Option(help="Of a closed loop.")] = Load.connections,
    arrivals: Annotated[str, typer.Option(help="poisson or fixed, of an open loop.")] = Load.arrivals,
    max_connections: Annotated[int, typer.Option(help="Of an open loop.")] = Load.max_connections,
    zipf: Annotated[float, typer.Option(help="Exponent of the bodies' popularity; 0 takes them in turn.")] = Load.zipf,
    seed: int = Load.seed,
    header: Annotated[list[str], typer.Option(help="'Name: value', may be repeated.")] = [],  # noqa: B006
    timeout_s: float = Load.timeout_s,
    timeline_s: float = Load.timeline_s,
    start_at: Annotated[float, typer.Option(help="Unix time; 0 starts at once.")] = Load.start_at,
    announce: Annotated[bool, typer.Option(help="Print the start; end early on SIGTERM.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the report here instead of printing it.")] = None,
) -> None:
    """Send the JSON bodies (one a line) and report what came of it."""
    given = locals()
    try:
        load = Load(**{f.name: given[f.name] for f in dataclasses.fields(Load)} | {"header": tuple(header)})
        report = uvloop.run(run(load, announce=announce))
    except (ValueError, OSError) as exc:
        sys.stderr.write(f"{exc}\n")
        raise typer.Exit(2) from exc
    text = json.dumps(report)
    if out is None:
        print(text)
    else:
        out.write_text(text)


if __name__ == "__main__":
    typer.run(main)
