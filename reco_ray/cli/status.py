"""`reco status`: where everything stands, on one page."""

import json
from collections.abc import Mapping
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reco_ray.cli.options import Overrides, configure
from reco_ray.cluster import embedded_store
from reco_ray.store import OnlineStore
from reco_ray.workflow.status import read_status

__all__ = ["status"]


def status(
    as_json: bool = typer.Option(False, "--json", help="As JSON, with everything."),
    overrides: list[str] | None = Overrides,
) -> None:
    """Say who has the traffic, where the rollout stands, and what the last retraining and the last gates came to."""
    config = configure(overrides)
    with embedded_store(config) as url, OnlineStore(url, config.store.namespace) as store:
        found = read_status(config, store)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    table = Table(show_header=False)
    for name, line in (
        ("traffic", ", ".join(f"{release} {weight:.0%}" for release, weight in found["traffic"].items()) or "none"),
        ("roles", ", ".join(f"{role} {release}" for role, release in found["roles"].items()) or "none"),
        ("rollout", _rollout(found["rollout"])),
        ("retraining", _retrain(found["retrain"], found["retrain_running"])),
        ("gates", _gates(found["gates"])),
    ):
        table.add_row(name, escape(line))
    Console().print(table)


def _rollout(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "none yet"
    return f"{found['rollout_id']} of {found['release']}: {found['status']}, step {found['step'] + 1}; {found['reason']}"


def _retrain(found: Mapping[str, Any] | None, running: str) -> str:
    now = f"at work: {running}. " if running else ""
    if found is None:
        return f"{now}none yet"
    release = f", release {found['release']}" if found["release"] else ""
    why = found["error"] or "; ".join(found["reasons"])
    cost = f", cost {found['cost']:g}" if found.get("cost") else ""
    return (
        f"{now}{found['made_ts'][:19]} {found['outcome']}{release} in {found['seconds']:.0f} s{cost}{f': {why}' if why else ''}"
    )


def _gates(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "none yet"
    said = ", ".join(f"{each['name']} {'passed' if each['passed'] else 'NOT PASSED'}" for each in found["gates"])
    return f"{found['made_ts'][:19]} release {found['release']}: {found['action']}; {said}"
