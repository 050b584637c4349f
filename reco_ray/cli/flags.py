"""`reco flags`: switch a source, the ranker, exploration or a rung off and on again, without a restart."""

import contextlib
import getpass
from collections.abc import Iterator

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reco_ray.cli.options import Overrides, configure
from reco_ray.cluster import embedded_store
from reco_ray.store import FLAGS, FlagStore, OnlineStore

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Flags of stages and sources: list, set, unset, history.")

_Name = typer.Argument(..., help="As `reco flags list` shows it.", show_default=False)
_Why = typer.Option(..., "--why", help="For the audit record.")


@app.command("list")
def list_(overrides: list[str] | None = Overrides) -> None:
    """List all flags, and who switched off what, when and why."""
    table = Table("flag", "state", "since", "by", "why", "what it switches")
    with _flags(overrides) as flags:
        off = flags.load().off
    for name, what in FLAGS.items():
        said = off.get(name, {})
        told = (escape(said.get(each, "")) for each in ("ts", "by", "why"))
        table.add_row(name, "off" if said else "on", *told, what)
    Console().print(table)


@app.command("set")
def set_(name: str = _Name, why: str = _Why, overrides: list[str] | None = Overrides) -> None:
    """Switch off; gateways and stages follow within a second or so, and answers say so."""
    _switch(name, why, overrides, off=True)


@app.command()
def unset(name: str = _Name, why: str = _Why, overrides: list[str] | None = Overrides) -> None:
    """Switch on again."""
    _switch(name, why, overrides, off=False)


@app.command()
def history(
    n: int = typer.Option(20, min=1, help="How many changes."),
    overrides: list[str] | None = Overrides,
) -> None:
    """Show the last changes, newest first."""
    table = Table("when", "who", "flag", "state", "why")
    with _flags(overrides) as flags:
        for each in flags.history(n):
            table.add_row(each["ts"], escape(each["by"]), each["flag"], "off" if each["off"] else "on", escape(each["why"]))
    Console().print(table)


def _switch(name: str, why: str, overrides: list[str] | None, *, off: bool) -> None:
    with _flags(overrides) as flags:
        now = flags.switch(name, off=off, by=getpass.getuser(), why=why)
    typer.echo(f"flags {now.version}: {', '.join(sorted(now.off)) + ' off' if now.off else 'all on'}")


@contextlib.contextmanager
def _flags(overrides: list[str] | None) -> Iterator[FlagStore]:
    config = configure(overrides)
    with embedded_store(config) as url, OnlineStore(url, config.store.namespace) as store:
        yield FlagStore(store)
