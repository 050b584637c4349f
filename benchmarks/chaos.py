"""What callers notice of faults: each one injected under a steady load on a real release.

``python benchmarks/chaos.py --out FILE``. The load is an open loop, so a stall counts for everyone who came meanwhile; the
slate cache answers nothing (``ttl_s=0``), so that what is counted are the stages and the ladder below them.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from environment import case
from injuries import FAULTS, Fault, System
from load_process import Load, run_load, start_load
from outcome import BEFORE_S, Outcome, outcome_of
from rich.console import Console
from rich.table import Table

from reco_ray.cluster import ray_session, serve_environment
from reco_ray.config import SourceName

_SHARE = 0.2  # of what a closed loop reaches: two replicas that start leave little of two cores
_LEAST_SENT = 21_000
_NO_CACHE = ["serve=staged", "serve.cache.ttl_s=0", "serve.cache.stale_s=0"]
console = Console(width=None if sys.stdout.isatty() else 150)


def main(
    out: Annotated[Path, typer.Option(help="The result as JSON.")],
    rate: Annotated[float, typer.Option(help="Requests/s; by default 20% of what 16 connections reach.")] = 0.0,
    seconds: Annotated[float, typer.Option(help="Factor on each fault's time; raised until enough is sent.")] = 1.0,
    deadline_ms: int = 150,
    items: int = 100_000,
    candidates: int = 500,
    only: Annotated[list[str], typer.Option(help="Name of a fault; may be repeated. By default all.")] = [],  # noqa: B006
    override: Annotated[list[str], typer.Option(help="Of the configuration; may be repeated.")] = [],  # noqa: B006
    seed: int = 0,
) -> None:
    """Inject each fault once, report what came of it, and exit with 1 where an answer failed or hid what it lacks."""
    if unknown := sorted(set(only) - {fault.name for fault in FAULTS}):
        raise typer.BadParameter(f"only: found {unknown}, expected some of {[fault.name for fault in FAULTS]}")
    faults = [fault for fault in FAULTS if not only or fault.name in only]
    os.environ.update(serve_environment())
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    quotas = {SourceName.two_tower: candidates * 4 // 5, SourceName.popular: candidates // 5}
    settings = [*_NO_CACHE, f"serve.deadline_ms={deadline_ms}", *override]
    with case(settings, items=items, candidates=candidates, quotas=quotas) as given, ray_session(given.config.cluster) as ray:
        system = System(given, ray, items, quotas)
        system.publish_other()
        system.deploy()
        system.settle()
        base = Load(url=f"{system.url}/v1/recommendations", bodies=given.bodies, warmup_s=1.0, seed=seed)
        closed = run_load(dataclasses.replace(base, connections=16, seconds=6.0, warmup_s=2.0))
        rate = rate or round(_SHARE * closed["per_s"], 1)
        per_fault = rate * sum(BEFORE_S + fault.seconds for fault in faults)
        if not only:
            seconds = max(seconds, _LEAST_SENT / per_fault)
        outcomes, details = {}, {}
        for fault in faults:
            system.settle()
            outcomes[fault.name], details[fault.name] = _hurt(system, fault, dataclasses.replace(base, rate=rate), seconds)
    case_of = {"rate": rate, "closed_loop_per_s": closed["per_s"], "deadline_ms": deadline_ms, "items": items}
    checks = _checks(faults, outcomes)
    _write(out, checks, case_of | {"candidates": candidates, "seconds": seconds, "override": override}, outcomes, details)
    console.print(_table(outcomes, rate))
    for check in checks:
        console.print(f"{check['name']} = {check['value']} {check['unit']}")
    if any(check["value"] for check in checks if check["name"] in ("errors_5xx", "errors_other", "undeclared_degraded")):
        raise typer.Exit(1)


def _hurt(system: System, fault: Fault, load: Load, factor: float) -> tuple[Outcome, dict[str, Any]]:
    """Run a load, inject the fault after a while; returns what came of it and the load's own report."""
    with start_load(dataclasses.replace(load, seconds=BEFORE_S + factor * fault.seconds)) as running:
        running.wait(load.warmup_s + BEFORE_S)
        running.mark("begin")
        fault.inject(system)
        running.mark("end")
        report = running.result()
    begin, end = (mark["t"] for mark in report["marks"])
    found = outcome_of(report, begin, end)
    console.print(f"{fault.name}: {end - begin:.1f} s, {found.recovery_s} s to recover, {found.errors_5xx} 5xx", style="dim")
    return found, report


def _checks(faults: list[Fault], outcomes: dict[str, Outcome]) -> list[dict[str, Any]]:
    blamed = [outcomes[fault.name] for fault in faults if not fault.breaks_http]
    every = list(outcomes.values())
    # one that did not recover counts as the longest there was time for
    recoveries = [
        each.recovery_s if each.recovery_s is not None else fault.seconds for fault, each in zip(faults, every, strict=True)
    ]
    found: list[tuple[str, float, str]] = [
        ("sent", sum(each.sent for each in every), "count"),
        ("faults", len(every), "count"),
        ("errors_5xx", sum(each.errors_5xx for each in blamed), "count"),
        ("errors_other", sum(each.errors_other for each in blamed), "count"),
        ("undeclared_degraded", sum(each.undeclared for each in every), "count"),
        ("full_share", min(min(each.full_before, each.full_after) for each in every), "share"),
        ("worst_recovery_s", max(recoveries), "s"),
    ]
    return [{"name": name, "value": value, "unit": unit} for name, value, unit in found]


def _write(
    out: Path, checks: list[dict[str, Any]], settings: dict[str, Any], outcomes: dict[str, Outcome], details: dict[str, Any]
) -> None:
    faults = {name: {**dataclasses.asdict(found), "load": details[name]} for name, found in outcomes.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"checks": checks, "case": settings, "faults": faults}, indent=1))


def _table(outcomes: dict[str, Outcome], rate: float) -> Table:
    columns = (
        "sent",
        "200",
        "full",
        "degraded by rung",
        "by reason",
        "5xx",
        "other",
        "p99 ms",
        "recovery s",
        "before",
        "after",
    )
    table = Table("fault", *columns, title=f"faults under {rate:.0f} requests/s")
    for name, found in outcomes.items():
        table.add_row(
            name,
            *(str(n) for n in (found.sent, found.ok, found.full)),
            *("\n".join(f"{n} {what}" for what, n in each.items()) or "-" for each in (found.rungs, found.reasons)),
            *(str(n) for n in (found.errors_5xx, found.errors_other)),
            f"{found.worst_p99_ms:.0f}",
            "never" if found.recovery_s is None else f"{found.recovery_s:.1f}",
            *(f"{share:.1%}" for share in (found.full_before, found.full_after)),
        )
    return table


if __name__ == "__main__":
    typer.run(main)
