"""What scaling does: a ranker from one replica to two and back under load, and a release at zero that gets a visit.

``python benchmarks/scaling.py --out FILE``. The stages sleep, so that two replicas do twice as much on any number of cores;
what is measured is how long scaling takes, what callers notice of it, and what it saves.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import synthetic
import typer

from reco_ray.cluster import embedded_store, ray_session, serve_environment
from reco_ray.compose import compose_config
from reco_ray.config import CacheConfig
from reco_ray.store import OnlineStore

HERE = Path(__file__).parent
STAGES = ("Recall", "Ranker", "Reranker")
LOADER = "serve_fakes:SleepingLoader"
PORT = 8012
URL = f"http://127.0.0.1:{PORT}/v1/recommendations"
IDLE_S = 5.0
VISITS, REQUESTS = 24, 20  # a day of the shop that the cost is given for: visits, requests in each
DEFAULT_IDLE_S = 600.0
BUDGET_MS = 2000


def main(out: Annotated[Path, typer.Option()], tries: Annotated[int, typer.Option(min=2)] = 5, down_s: float = 10.0) -> None:
    """Measure and write the result; exits with 1 when a request failed while the ranker scaled."""
    os.environ.update(serve_environment())
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent / "tests" / "serve"), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory(prefix="reco-bench-", ignore_cleanup_errors=True) as root:
        config = compose_config([f"root={root}", "store.port=6399", "store.namespace=scaling", "cluster.dashboard_port=8275"])
        with embedded_store(config) as store_url, OnlineStore(store_url, "scaling") as store, ray_session(config.cluster):
            store.write_users(synthetic.users(10, 100), "v1")
            with _gateway(store_url):
                checks, answers = _under_load(store, Path(root), down_s)
                checks += _from_zero(store, tries)
    case = {"ms_per_row": 10, "up_s": 2, "down_s": down_s, "idle_to_zero_s": IDLE_S, "tries": tries, "gateways": 2}
    cost = {"visits_per_day": VISITS, "requests_per_visit": REQUESTS, "idle_to_zero_s": DEFAULT_IDLE_S}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"checks": checks, "case": case, "cost_case": cost, "answers_while_scaling": answers}, indent=1))
    for check in checks:
        sys.stdout.write(f"{check['name']} = {check['value']} {check['unit']}\n")
    if next(check["value"] for check in checks if check["name"] == "failed_while_scaling"):
        raise typer.Exit(1)


@contextlib.contextmanager
def _gateway(store_url: str) -> Iterator[None]:
    from ray import serve

    from reco_ray.serve.app import GatewayArgs, build_gateway

    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    try:
        uncached = CacheConfig(ttl_s=0, stale_s=0)  # the stages are what scales
        args = GatewayArgs(
            root="",
            store_url=store_url,
            namespace="scaling",
            loader=LOADER,
            deadline_ms=BUDGET_MS,
            store_timeout_ms=BUDGET_MS // 4,  # its share: a replica that starts holds up the store's disk for 100 ms and more
            cache=uncached,
        )
        serve.run(build_gateway(args), name="gateway", route_prefix="/")
        yield
    finally:
        serve.shutdown()


def _release(store: OnlineStore, name: str, root: str, **fields: Any) -> None:
    from ray import serve

    from reco_ray.serve.app import ReleaseArgs, build_release

    args = ReleaseArgs.model_validate({"root": root, "release_id": name, "loader": LOADER, **fields})
    serve.run(build_release(args), name=f"release-{name}", route_prefix=None)
    store.set_traffic({name: 1.0}, {name: "v1"})
    _until(lambda: _ask(BUDGET_MS)[1] == name)


def _replicas(release: str) -> dict[str, Counter[str]]:
    from ray import serve

    found = serve.status().applications[f"release-{release}"].deployments
    return {stage: Counter({str(state): n for state, n in found[stage].replica_states.items()}) for stage in STAGES}


def _ask(budget_ms: int) -> tuple[str, str]:
    """Ask once; returns ``full``, or what it was instead, and the release."""
    headers = {"x-request-timeout-ms": str(budget_ms)}
    response = httpx.post(URL, json={"user_id": "user-1", "k": 5}, headers=headers, timeout=10)
    answer = response.json()
    found = ",".join(answer["degraded"]) or "full" if response.status_code == 200 else str(response.status_code)
    return found, answer.get("release", "")


def _until(check: Callable[[], bool], seconds: float = 120) -> float:
    started, pause = time.monotonic(), threading.Event()
    while not check():
        if time.monotonic() - started > seconds:
            raise TimeoutError(f"not within {seconds} s")
        pause.wait(0.5)
    return time.monotonic() - started


def _under_load(store: OnlineStore, root: Path, down_s: float) -> tuple[list[dict[str, object]], dict[str, int]]:
    """One visitor, ten requests a second, all the time; twelve clients on top, until there were two rankers for a while."""
    _release(store, "busy", "fake:0,10,0", ranker={"max_replicas": 2}, scaling={"down_s": down_s})
    bodies = root / "bodies.jsonl"
    # equal requests at one time are computed once
    bodies.write_text("\n".join(json.dumps({"user_id": f"user-{n % 10}", "k": 1 + n // 10}) for n in range(200)))
    answers: Counter[str] = Counter()
    changes: list[tuple[float, int]] = []
    stop = threading.Event()

    def visit() -> None:
        while not stop.wait(0.1):
            answers[_ask(BUDGET_MS)[0]] += 1

    def watch() -> None:
        while not stop.wait(0.5):  # asking takes 60 ms of a core
            running = _replicas("busy")["Ranker"]["RUNNING"]
            if not changes or changes[-1][1] != running:
                changes.append((time.monotonic(), running))

    threads = [threading.Thread(target=each) for each in (visit, watch)]
    for thread in threads:
        thread.start()
    try:
        _until(lambda: bool(changes))
        began = time.monotonic()
        loads = [_load(bodies)]
        while changes[-1][1] < 2:
            if time.monotonic() - began > 120:
                raise TimeoutError("found one ranker after 120 s of load, expected two")
            loads.append(_load(bodies))
        loads += [_load(bodies), _load(bodies)]  # the gateways learn of the second one within 5 s
        ended = time.monotonic()
        _until(lambda: changes[-1][1] == 1)
        stop.wait(15)  # and it stays so
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    seen = Counter({f"visitor: {what}": n for what, n in answers.items()})
    for load in loads:
        seen.update(
            {
                f"{kind}: {what}": n
                for kind in ("by_status", "errors_by_kind", "rungs", "degraded")
                for what, n in load[kind].items()
            }
        )
    failed = sum(n for what, n in answers.items() if what != "full") + sum(load["errors"] for load in loads)
    checks = [
        _check("ranker_up", changes[1][0] - began, "s"),
        _check("ranker_down", changes[2][0] - ended, "s"),
        _check("ranker_changes", len(changes) - 1, "count"),
        _check("rate_one", loads[0]["per_s"], "requests/s"),
        _check("rate_two", loads[-1]["per_s"], "requests/s"),
        _check("p95_one", loads[0]["p95_ms"], "ms"),
        _check("p95_two", loads[-1]["p95_ms"], "ms"),
        _check("requests_while_scaling", answers.total() + sum(load["requests"] for load in loads), "count"),
        _check("failed_while_scaling", failed, "count"),
    ]
    return checks, dict(seen)


def _load(bodies: Path) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "client.py"), URL, str(bodies), "--connections", "12", "--seconds", "5"]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def _from_zero(store: OnlineStore, tries: int) -> list[dict[str, object]]:
    """A caller with the default budget asks four times a second until the answer is full; then all goes back to zero."""
    size = {"min_replicas": 0, "max_replicas": 1}
    sizes = {"recall": size, "ranker": size, "reranker": size}
    _release(store, "rare", "fake:0,1,0", **sizes, scaling={"idle_to_zero_s": IDLE_S})

    def asleep() -> bool:
        return not any(_replicas("rare").values())

    _until(asleep)
    starts, awake, meanwhile = [], [], Counter[str]()
    for _ in range(tries):
        began = time.monotonic()
        while (found := _ask(150)[0]) != "full":
            meanwhile[found] += 1
            threading.Event().wait(0.25)
        starts.append(time.monotonic() - began)
        _until(asleep)
        awake.append(time.monotonic() - began)
    per_visit = 3 * (statistics.mean(awake) - IDLE_S + DEFAULT_IDLE_S)
    thousands = VISITS * REQUESTS / 1e3
    return [
        _check("cold_start_p50", statistics.median(starts), "s"),
        _check("cold_start_p95", statistics.quantiles(starts, n=20, method="inclusive")[-1], "s"),
        *(_check(f"meanwhile_{what}", n / tries, "answers/cold start") for what, n in sorted(meanwhile.items())),
        _check("awake_beyond_idle_time", statistics.mean(awake) - IDLE_S, "s"),
        _check("sporadic_cost", VISITS * per_visit / thousands, "replica-s/1000 requests"),
        _check("always_warm_cost", 3 * 86_400 / thousands, "replica-s/1000 requests"),
        _check("sporadic_vs_warm", VISITS * per_visit / (3 * 86_400), "ratio"),
    ]


def _check(name: str, value: float, unit: str) -> dict[str, object]:
    return {"name": name, "value": round(value, 3), "unit": unit}


if __name__ == "__main__":
    typer.run(main)
