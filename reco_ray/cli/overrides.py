"""`reco overrides`: send named test users to a release, whatever their share says. The store keeps digests of their ids."""

import contextlib
import getpass
import time
from collections.abc import Iterator

import typer
from rich.console import Console
from rich.table import Table

from reco_ray.cli.options import Overrides, configure
from reco_ray.cluster import embedded_store
from reco_ray.hashing import user_digest
from reco_ray.rollout import commands
from reco_ray.store import OnlineStore, RolloutStore

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Overrides for test users: set, unset, list.")

_User = typer.Argument(..., help="Id of the user, as requests name it.", show_default=False)
_Why = typer.Option(..., "--why", help="For the audit record, which does not name the user.")


@app.command("set")
def set_(
    user: str = _User,
    to: str = typer.Option(..., "--to", help="A loaded release, or main or canary."),
    why: str = _Why,
    overrides: list[str] | None = Overrides,
) -> None:
    """Send a user there; gateways follow within a second or so, and answers have the variant "override"."""
    _set(user, to, why, overrides)


@app.command()
def unset(user: str = _User, why: str = _Why, overrides: list[str] | None = Overrides) -> None:
    """Let a user have what their share says."""
    _set(user, "", why, overrides)


@app.command("list")
def list_(overrides: list[str] | None = Overrides) -> None:
    """List the users, by the beginnings of their digests, and where each goes; what is not loaded leaves them their share."""
    table = Table("user", "to", "loaded")
    with _open(overrides) as store:
        traffic = store.traffic()
    for user, to in sorted(traffic.overrides.items(), key=lambda each: (each[1], each[0])):
        table.add_row(user[:12], to, "" if to in ("main", "canary") else "yes" if to in traffic.weights else "no")
    Console().print(table)


def _set(user: str, to: str, why: str, overrides: list[str] | None) -> None:
    with _open(overrides) as store:
        n = commands.override(RolloutStore(store), user_digest(user), to, time.time(), getpass.getuser(), why)
    typer.echo(f"overrides: {n}")


@contextlib.contextmanager
def _open(overrides: list[str] | None) -> Iterator[OnlineStore]:
    config = configure(overrides)
    with embedded_store(config) as url, OnlineStore(url, config.store.namespace) as store:
        yield store
