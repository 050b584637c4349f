"""Whether an acknowledged event is in the lake exactly once, whatever is killed on the way.

``python benchmarks/chaos_events.py --out FILE [--runs N]``. In each run a load of batches with retries (`events_load.py`) meets
SIGKILLs of a gateway replica, of a sink's process and of valkey-server, in a random order at random moments; afterwards the
lake is held against the load's ledger, and at the end the online features, which the sinks' processes keep as well, against the
lake. Half of the sink's kills wait for a data file that is not committed yet.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import synthetic
import typer
from environment import RELEASE, Case, case, deploy_release
from lake_ledger import Count, count, orphans
from processes import processes
from rich.console import Console
from rich.table import Table

from reco_ray.cluster import ray_session, serve_environment
from reco_ray.events.bus import EVENTS
from reco_ray.events.feed import writer_name
from reco_ray.events.open import open_reader
from reco_ray.lake import tables
from reco_ray.release import features_of, verify
from reco_ray.serve.render import GATEWAY
from reco_ray.store import FeatureStore, OnlineStore
from reco_ray.streaming.features import go_on_from
from reco_ray.workflow.sinks import sink_status, start_sinks, stop_sinks
from reco_ray.workflow.skew import check_feature_parity

HERE = Path(__file__).parent
_KILLS = ("gateway", "sink", "store")
_AT_WORK_S = 2.0  # a request that began before a kill and ended so soon after it without an answer was hurt by it
_DRAIN_S = 120.0
Run = tuple[str, dict[str, Any], dict[str, Any]]
"""Its name, the load's ledger, and what was found right after it."""
console = Console(width=None if sys.stdout.isatty() else 150)


def main(
    out: Annotated[Path, typer.Option(help="The result as JSON.")],
    runs: int = 20,
    seconds: Annotated[float, typer.Option(help="Of load in a run.")] = 18.0,
    rate: Annotated[float, typer.Option(help="Events/s.")] = 1_200.0,
    repeat: Annotated[float, typer.Option(help="Share of the batches that clients send twice.")] = 0.05,
    seed: int = 0,
) -> None:
    """Run, count, and exit with 1 where an acknowledged event was lost or stored twice."""
    os.environ.update(serve_environment())
    chance = random.Random(seed)
    settings = ["serve=fused", "lake.date_unit=day", "events.sink_interval_s=0.3", "skew.rows=1000000", "skew.limit=1"]
    with case(settings, items=2_000, candidates=50, users=100) as given, ray_session(given.config.cluster) as dashboard:
        url = f"{deploy_release(given, dashboard)}/v1/events"
        _keep_features(given)
        start_sinks(given.config, given.store_url)
        done = [_run(given, url, f"r{number:02d}", seconds, rate, repeat, chance) for number in range(runs)]
        features = _features(given)
        # again at the end: a sink that was just starting may have said that nothing waits
        found = [each | asdict(count(given.config.root, run, ledger)) for run, ledger, each in done]
        stop_sinks(given.config)
    _report(out, found, features, {"seconds": seconds, "rate": rate, "repeat": repeat, "seed": seed})


def _keep_features(given: Case) -> None:
    """Let the streams keep the user view of the release from now on."""
    config, partitions = given.config, range(given.config.events.bus.partitions)
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(OnlineStore(given.store_url, config.store.namespace))
        readers = [open_reader(config.events, config.store.namespace, given.store_url, EVENTS, each) for each in partitions]
        for reader in readers:
            stack.callback(reader.close)
        positions = dict.fromkeys(partitions, -1)
        go_on_from(readers, synthetic.USER_VIEW, positions)
        settings = asdict(features_of(verify(given.folder)))  # as the release names them: what the comparison computes with
        of = {"root": config.root, "release": RELEASE, "features": settings, "partitions": len(partitions)}
        FeatureStore(store, synthetic.USER_VIEW, config.store.ttl_days * 86_400).end_rebuild({}, positions, of)


def _features(given: Case) -> dict[str, Any]:
    """Wait until the streams are where the sinks are, and compare all users' rows with the lake."""
    config, until, pause = given.config, time.monotonic() + _DRAIN_S, threading.Event()
    partitions = range(config.events.bus.partitions)
    stands = [tables.remembered(config.root, EVENTS, writer_name(EVENTS, each)) for each in partitions]
    with OnlineStore(given.store_url, config.store.namespace) as store:
        view = FeatureStore(store, synthetic.USER_VIEW, 1)
        while any((view.position(each) or -1) < stands[each] for each in partitions):
            if time.monotonic() > until:
                raise SystemExit(f"features: found {[view.position(each) for each in partitions]}, expected {stands}")
            pause.wait(0.5)
    return asdict(check_feature_parity(config, given.store_url)[RELEASE])


def _run(given: Case, url: str, run: str, seconds: float, rate: float, repeat: float, chance: random.Random) -> Run:
    victims = chance.sample(_KILLS, len(_KILLS))
    moments = sorted(chance.uniform(0.15, 0.9) * seconds for _ in victims)
    left = orphans(given.config.root)
    kills: list[tuple[float, str]] = []
    with tempfile.TemporaryDirectory(prefix="reco-load-") as folder:
        report = Path(folder) / "ledger.json"
        command = [sys.executable, str(HERE / "events_load.py"), url, "--out", str(report), "--run", run]
        command += [
            "--seconds",
            str(seconds),
            "--rate",
            str(rate),
            "--repeat",
            str(repeat),
            "--seed",
            str(chance.randrange(10**6)),
        ]
        started, pause = time.monotonic(), threading.Event()
        load = subprocess.Popen(command)
        for moment, victim in zip(moments, victims, strict=True):
            pause.wait(max(0.0, started + moment - time.monotonic()))
            if victim == "sink" and chance.random() < 0.5:
                _await_file(given.config.root)
            kills.append((_kill(given, victim, chance), victim))
        if load.wait():
            raise SystemExit(f"the load ended with {load.returncode}")
        ledger = json.loads(report.read_text())
    result = _drained(given, run, ledger)
    in_batch = _hurt(kills, ledger, len(orphans(given.config.root) - left))
    console.print(f"{run}: {' '.join(victims)}; {asdict(result)}; in a batch: {dict(in_batch)}", highlight=False)
    facts = {
        **asdict(result),
        "kills": [victim for _, victim in kills],
        "mid_batch": dict(in_batch),
        "failures": Counter(kind for _, _, kind in ledger["failures"]),
        "statuses": ledger["statuses"],
    }
    return run, ledger, facts


def _kill(given: Case, victim: str, chance: random.Random) -> float:
    if victim == "store":
        found = [int((Path(given.config.root) / "store" / "valkey.pid").read_text())]
    elif victim == "gateway":
        found = processes(f"ray::ServeReplica:{GATEWAY}:Gateway", own=True)
    else:
        found = processes("ray::SinkActor", own=True) or processes("ray::Sink", own=True)
    if not found:
        raise LookupError(f"found no process of the {victim}")
    at = time.time()
    os.kill(chance.choice(found), signal.SIGKILL)
    return at


def _await_file(root: str) -> None:
    """Wait, not for long, until a new data file lies there: its commit follows within milliseconds."""
    before = _data_files(root)
    until = time.monotonic() + 5
    while time.monotonic() < until and not _data_files(root) - before:
        pass


def _data_files(root: str) -> set[str]:
    return {path.name for path in Path(tables.table_uri(root, "events")).glob("date=*/*.parquet")}


def _drained(given: Case, run: str, ledger: Mapping[str, Any]) -> Count:
    """Wait until the lake holds what was acknowledged, or nothing changes any more."""
    until, pause, last = time.monotonic() + _DRAIN_S, threading.Event(), -1
    while True:
        found = count(given.config.root, run, ledger)
        states = [state for state in sink_status(given.config) if state.topic == EVENTS and state.running]
        # one that was killed says nothing until it is back
        ended = len(states) == given.config.events.bus.partitions and not any(
            state.lag is None or state.lag for state in states
        )
        if (ended and found.stored == last) or time.monotonic() > until:
            return found
        last = found.stored
        pause.wait(1.0)


def _hurt(kills: list[tuple[float, str]], ledger: Mapping[str, Any], left_behind: int) -> Counter[str]:
    """Count the kills that are known to have hit a batch: a request lost its answer, or a data file was never committed."""
    found: Counter[str] = Counter()
    for at, victim in kills:
        if victim == "sink":
            found[victim] += left_behind > 0
        else:
            found[victim] += any(begun <= at <= ended < at + _AT_WORK_S for begun, ended, _ in ledger["failures"])
    return found


def _report(out: Path, found: list[dict[str, Any]], features: dict[str, Any], settings: dict[str, Any]) -> None:
    names = ("sent", "acknowledged", "stored", "duplicated", "lost")
    table = Table("run", "killed, in this order", "in a batch", *names, title="events through kills")
    for number, each in enumerate(found):
        cells = [
            " ".join(each["kills"]),
            ", ".join(v for v, n in each["mid_batch"].items() if n),
            *(str(each[n]) for n in names),
        ]
        table.add_row(str(number + 1), *cells)
    totals = {name: sum(each[name] for each in found) for name in names}
    table.add_row("all", "", str(sum(sum(each["mid_batch"].values()) for each in found)), *(str(n) for n in totals.values()))
    console.print(table)
    checks = [{"name": name, "value": totals[name], "unit": "events"} for name in ("acknowledged", "lost", "duplicated")]
    checks.append({"name": "kills", "value": sum(len(each["kills"]) for each in found), "unit": "count"})
    checks.append({"name": "kills_mid_batch", "value": sum(sum(e["mid_batch"].values()) for e in found), "unit": "count"})
    checks.append({"name": "runs", "value": len(found), "unit": "count"})
    checks += [
        {"name": f"feature_rows_{name}", "value": features[name], "unit": "rows"} for name in ("rows", "skewed", "ahead")
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"checks": checks, "settings": settings, "features": features, "runs": found}, indent=1))
    for check in checks:
        console.print(f"{check['name']} = {check['value']} {check['unit']}")
    if totals["lost"] or totals["duplicated"] or features["skewed"] or features["ahead"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
