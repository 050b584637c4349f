"""What serving costs: the pipeline in one process, behind FastAPI + uvicorn, and behind Ray Serve, staged, fused and cached.

``python benchmarks/serve.py --out FILE`` measures all in one run and writes requests/s and latencies at 1, 8 and 32 closed-loop
clients, and the ratios to uvicorn at 32 clients. Absolute numbers drift with the machine; the ratios are the result.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import httpx
import synthetic
import typer
from environment import case, deploy_release
from load_process import Load, run_load
from rich.console import Console
from rich.table import Table

from reco_ray.cluster import ray_session
from reco_ray.config import CacheConfig, Topology
from reco_ray.slate import Pipeline
from reco_ray.types import Request

CLIENTS = (1, 8, 32)
_TRIES = 3  # the kernel may give most connections to one of uvicorn's two workers, which halves it; its best of three counts
HERE = Path(__file__).parent


def main(out: Annotated[Path, typer.Option()], seconds: float = 8.0, items: int = 100_000, candidates: int = 500) -> None:
    """Measure and write the result; exits with 1 when something could not be measured."""
    # nothing may degrade and nothing is cached: every answer is the whole computation
    whole = ["serve.deadline_ms=5000", "store.timeout_ms=2000", "serve.cache.ttl_s=0", "serve.cache.stale_s=0"]
    with case(whole, items=items, candidates=candidates) as given:
        measured: dict[str, dict[str, dict[str, float]]] = {"in-process": {"1": _in_process(given.folder, items, seconds)}}
        with _uvicorn(given.folder, given.store_url) as url:
            measured["uvicorn x 2"] = _load(url, given.bodies, seconds, tries=_TRIES)
        with ray_session(given.config.cluster) as dashboard:
            for topology in (Topology.staged, Topology.fused):
                given.config.serve.topology = topology
                measured[f"Serve, {topology.value}"] = _load(deploy_release(given, dashboard), given.bodies, seconds)
            given.config.serve.topology, given.config.serve.cache = Topology.staged, CacheConfig(ttl_s=600)
            measured["Serve, cached"] = _load(deploy_release(given, dashboard), given.bodies, seconds, 12.0)
        with _uvicorn(given.folder, given.store_url) as url:
            measured["uvicorn, again"] = _load(url, given.bodies, seconds, tries=_TRIES)
    # its best at any number of clients, before or after: neither bad luck nor a neighbour's load must flatter Serve
    base = max(m["per_s"] for name in ("uvicorn x 2", "uvicorn, again") for m in measured[name].values())
    checks: list[dict[str, object]] = []
    for name in ("fused", "staged", "cached"):
        found = measured[f"Serve, {name}"]
        checks.append({"name": f"{name}_vs_uvicorn", "value": round(found["32"]["per_s"] / base, 3), "unit": "ratio"})
        checks.append({"name": f"{name}_p50_of_one_client", "value": round(found["1"]["p50_ms"], 2), "unit": "ms"})
    settings = {"items": items, "candidates": candidates, "trees": 200, "depth": 6, "k": 20, "seconds": seconds}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"checks": checks, "case": settings, "measured": measured}, indent=1))
    _show(measured, checks)
    failed = sum(int(m["errors"]) for by_clients in measured.values() for m in by_clients.values())
    if failed:
        Console(stderr=True).print(f"{failed} answers were not full: nothing was measured that counts")
        raise typer.Exit(1)


def _in_process(folder: Path, items: int, seconds: float) -> dict[str, float]:
    pipeline = Pipeline.load(folder)
    requests = [Request(request_id="r", user_id=u, k=20, user=row) for u, row in synthetic.users(200, items)]
    latencies: list[float] = []
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        pipeline.run([requests[len(latencies) % len(requests)]])
        latencies.append(time.perf_counter() - started)
    latencies.sort()
    p50, p95, p99 = (1e3 * latencies[int(q * len(latencies))] for q in (0.5, 0.95, 0.99))
    return {"errors": 0, "per_s": len(latencies) / seconds, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}


@contextlib.contextmanager
def _uvicorn(folder: Path, store_url: str) -> Iterator[str]:
    command = [sys.executable, "-m", "uvicorn", "baseline:app", "--port", "8011", "--workers", "2", "--no-access-log"]
    command += ["--loop", "uvloop", "--log-level", "warning"]
    env = os.environ | {"BENCH_RELEASE": str(folder), "BENCH_STORE": store_url, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=HERE, env=env)
    url = "http://127.0.0.1:8011"
    try:
        _await(f"{url}/openapi.json")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)


def _await(url: str) -> None:
    pause = threading.Event()
    for _ in range(300):
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url).status_code == 200:
                return
        pause.wait(0.2)
    raise typer.Exit(1)


def _load(url: str, bodies: Path, seconds: float, warmup_s: float = 2.0, tries: int = 1) -> dict[str, dict[str, float]]:
    """Measure each number of clients; of several tries with connections of their own, the fastest counts."""
    found = {}
    _client(url, bodies, 8, warmup_s)
    for clients in CLIENTS:
        each = [_client(url, bodies, clients, seconds) for _ in range(tries if clients > 1 else 1)]
        found[str(clients)] = max(each, key=lambda m: m["per_s"])
    return found


def _client(url: str, bodies: Path, clients: int, seconds: float) -> dict[str, float]:
    found = run_load(Load(url=f"{url}/v1/recommendations", bodies=bodies, connections=clients, seconds=seconds))
    if found["p99_ms"] is None:
        Console(stderr=True).print(f"{url}: found no answer, only {found['errors_by_kind']}")
        raise typer.Exit(1)
    return {name: found[name] for name in ("requests", "errors", "per_s", "p50_ms", "p95_ms", "p99_ms")}


def _show(measured: dict[str, dict[str, dict[str, float]]], checks: list[dict[str, object]]) -> None:
    table = Table("", "clients", "requests/s", "p50 ms", "p95 ms", "p99 ms", "not full", title="serving, closed loop")
    for name, by_clients in measured.items():
        for clients, m in by_clients.items():
            table.add_row(
                name,
                clients,
                f"{m['per_s']:.0f}",
                *(f"{m[p]:.1f}" for p in ("p50_ms", "p95_ms", "p99_ms")),
                f"{m['errors']:.0f}",
            )
    Console().print(table)
    for check in checks:
        Console().print(f"{check['name']} = {check['value']}")


if __name__ == "__main__":
    typer.run(main)
