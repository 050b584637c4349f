"""`reco rollouts` and `reco fallback`: give a release its users step by step, watch it, end it, and go back at once."""

import contextlib
import getpass
import json
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reco_ray.cli.options import Overrides, configure
from reco_ray.cluster import embedded_store, ray_session
from reco_ray.config import PipelineConfig
from reco_ray.errors import ConfigError
from reco_ray.rollout import DEFAULT_POLICY, Policy, State, commands, sample_size
from reco_ray.store import OnlineStore, RolloutStore

__all__ = ["app", "fallback"]

app = typer.Typer(no_args_is_help=True, help="Rollouts: start, status, pause, resume, abort, history, plan, run.")

_Policy = typer.Option(None, help="JSON with steps and guards; without it the default policy.")
_Reason = typer.Option("by hand", help="Why; kept with the audit record.")


@app.command()
def start(
    release: str = typer.Argument(..., help="A published release.", show_default=False),
    policy: Path | None = _Policy,
    overrides: list[str] | None = Overrides,
) -> None:
    """Verify a release, bring it up beside the one that has the traffic, and give it its first share."""
    from reco_ray.workflow.deploy import bring_up_beside

    config = configure(overrides)
    wanted = DEFAULT_POLICY if policy is None else _policy(policy)
    config.release = release
    with embedded_store(config) as url, ray_session(config.cluster) as dashboard, _open(config, url) as rollouts:
        bring_up_beside(config, url, dashboard)
        state = commands.start(rollouts, release, wanted, time.time(), getpass.getuser())
        _point(config, url)
    typer.echo(f"rollout {state.rollout_id}: {state.release} has {state.share:.0%} of the users, {state.champion} the rest")


@app.command()
def status(overrides: list[str] | None = Overrides) -> None:
    """Say where the last rollout stands, as JSON, with the numbers of the last decision."""
    with _rollouts(configure(overrides)) as rollouts:
        found, last = rollouts.load(), rollouts.history(1)
    if found is None:
        raise ConfigError("rollouts: found none, expected one; `reco rollouts start RELEASE` begins it")
    state = State.from_json(found)
    typer.echo(json.dumps({**state.to_json(), "share": state.share, "last": last[0] if last else None}, indent=1))


@app.command()
def pause(reason: str = _Reason, overrides: list[str] | None = Overrides) -> None:
    """Keep the shares until `resume`; a breach still ends the rollout."""
    with _rollouts(configure(overrides)) as rollouts:
        _say(commands.pause(rollouts, time.time(), getpass.getuser(), reason))


@app.command()
def resume(overrides: list[str] | None = Overrides) -> None:
    """Go on after `pause`."""
    with _rollouts(configure(overrides)) as rollouts:
        _say(commands.resume(rollouts, time.time(), getpass.getuser()))


@app.command()
def abort(reason: str = _Reason, overrides: list[str] | None = Overrides) -> None:
    """End the rollout: the release before has all traffic at once."""
    config = configure(overrides)
    with embedded_store(config) as url, _open(config, url) as rollouts:
        _say(commands.abort(rollouts, time.time(), getpass.getuser(), reason))
        _point(config, url)


@app.command()
def history(n: int = typer.Option(20, min=1, help="How many."), overrides: list[str] | None = Overrides) -> None:
    """Show the last decisions, newest first; `status` has the numbers of the last one."""
    table = Table(title="rollouts, times in UTC")
    for label in ("time", "by", "action", "release", "share", "reason"):
        table.add_column(label, overflow="fold")
    with _rollouts(configure(overrides)) as rollouts:
        for each in rollouts.history(n):
            at = f"{datetime.fromtimestamp(each['ts'], UTC):%Y-%m-%d %H:%M:%S}"
            share = f"{each['share']:.0%}" if "share" in each else ""
            table.add_row(at, escape(each["by"]), each["action"], each.get("release", ""), share, escape(each["reason"]))
    Console().print(table)


@app.command()
def plan(
    rate: float = typer.Option(..., help="Click rate of the release that answers now, such as 0.05."),
    effect: float = typer.Option(-0.2, help="Relative change to be found."),
    share: float = typer.Option(0.05, help="Share of the users that have the candidate."),
    power: float = typer.Option(0.8, help="Chance to find it."),
    clustering: float = typer.Option(1.0, help="Variance of users' click rates over that of single answers."),
) -> None:
    """Say how many answers it takes until a change of the click rate is found."""
    n = sample_size(rate, effect, share, power=power, clustering=clustering)
    typer.echo(f"{n} answers in all, {round(n * share)} of them by the candidate")


@app.command()
def run(overrides: list[str] | None = Overrides) -> None:
    """Be the controller until Ctrl-C. One works at a time; another one takes over within ten seconds of its death."""
    from reco_ray.rollout.running import run_controller

    config, stop = configure(overrides), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with embedded_store(config) as url:
        run_controller(config.events, config.store.namespace, url, config.serve.rollout_webhook, stop=stop)


@app.command("end-holdout")
def end_holdout(reason: str = _Reason, overrides: list[str] | None = Overrides) -> None:
    """End the holdout that a policy declared: its users have what their share says."""
    with _rollouts(configure(overrides)) as rollouts:
        commands.end_holdout(rollouts, time.time(), getpass.getuser(), reason)
    typer.echo("nobody is held out any more; gateways follow within a second or so")


def fallback(
    release: str = typer.Option("", help="Where to; without it the champion, or the only other release that is loaded."),
    why: str = typer.Option("", help="For the audit record."),
    overrides: list[str] | None = Overrides,
) -> None:
    """Send all traffic to another loaded release at once, and end the rollout that runs."""
    config = configure(overrides)
    with embedded_store(config) as url, _open(config, url) as rollouts:
        to = commands.fall_back(rollouts, release, time.time(), getpass.getuser(), why)
        typer.echo(f"all traffic goes to {to}; gateways follow within a second or so")
        _point(config, url)


@contextlib.contextmanager
def _rollouts(config: PipelineConfig) -> Iterator[RolloutStore]:
    with embedded_store(config) as url, _open(config, url) as rollouts:
        yield rollouts


@contextlib.contextmanager
def _open(config: PipelineConfig, url: str) -> Iterator[RolloutStore]:
    with OnlineStore(url, config.store.namespace) as store:
        yield RolloutStore(store)


def _point(config: PipelineConfig, url: str) -> None:
    from reco_ray.workflow.releases import point_aliases

    with OnlineStore(url, config.store.namespace) as store:
        point_aliases(config, store)


def _policy(path: Path) -> Policy:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as exc:
        raise ConfigError(f"policy {path}: found {exc}, expected a file with JSON") from exc
    return Policy.from_json(found)


def _say(state: State) -> None:
    typer.echo(f"rollout {state.rollout_id} of {state.release}: {state.status}, {state.share:.0%} of the users")
