"""`reco features`: the feature views, in what those of two releases differ, and how fresh they are."""

import asyncio
import time

import typer
from rich.console import Console
from rich.table import Table

from reco_ray.cli.options import Overrides, configure
from reco_ray.cluster import embedded_store
from reco_ray.errors import DataError
from reco_ray.features import VIEWS, Catalogue
from reco_ray.features.page import page
from reco_ray.features.views import View
from reco_ray.release import open_release, verify
from reco_ray.store import OnlineStore, fresh_until, registered_views

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, help="Feature views: list them, show one, compare those of two releases, see how fresh they are."
)


@app.command("list")
def list_() -> None:
    """List the views."""
    table = Table("view", "columns", "per category", "from", "fresh within", "owner", "what it is")
    for view in VIEWS:
        sizes = str(len(view.columns)), str(len(view.per_category))
        table.add_row(view.name, *sizes, ", ".join(view.sources), f"{view.freshness_s:g} s", view.owner, view.description)
    Console().print(table)


@app.command()
def show(name: str = typer.Argument(..., help="As `reco features list` shows it.", show_default=False)) -> None:
    """Show the columns of a view, in the order of the row."""
    view = _view(name)
    table = Table("column", "unknown", "what it is", title=f"{view.name}: {view.description} All columns are float32.")
    for column in view.columns:
        table.add_row(column.name, f"{column.default:g}", column.description + " (sensitive)" * column.sensitive)
    for column in view.per_category:
        table.add_row(f"{column.name}:<category>", f"{column.default:g}", column.description)
    Console().print(table)


@app.command()
def diff(
    release: str = typer.Argument(..., help="Id of a release.", show_default=False),
    other: str = typer.Argument(..., help="Id of another.", show_default=False),
    overrides: list[str] | None = Overrides,
) -> None:
    """Say in what the user views of two releases differ: one is not served the other's rows."""
    config = configure(overrides)
    versions, categories = [], []
    for each in (release, other):
        folder = open_release(config.root, each)
        versions.append(verify(folder).user_view)
        categories.append(Catalogue.load(folder).categories)
    if versions[0] == versions[1]:
        typer.echo(f"both read user view {versions[0]}")
        return
    typer.echo(f"{release} reads user view {versions[0]}, {other} reads {versions[1]}")
    gone, new = ([c for c in one if c not in two] for one, two in (categories, categories[::-1]))
    if gone or new:
        typer.echo(f"categories only in the first: {', '.join(gone) or 'none'}; only in the second: {', '.join(new) or 'none'}")
    elif categories[0] != categories[1]:
        typer.echo("the same categories in another order, by how frequent they are")
    else:
        typer.echo("the same columns, made with other settings of `features` or by another version of the code")


@app.command()
def status(overrides: list[str] | None = Overrides) -> None:
    """Show how far the streams are behind with each view that is kept up to date; ends with 1 where one is late."""
    config = configure(overrides)
    limit_s = _view("user").freshness_s
    table = Table("user view", "release", "partition", "behind", "limit", title="online features")
    late = []
    with embedded_store(config) as url, OnlineStore(url, config.store.namespace) as store:
        for name, of in sorted(registered_views(store).items()):
            for partition, until in enumerate(asyncio.run(_fresh_until(url, config.store.namespace, name, of["partitions"]))):
                age_s = None if until is None else max(0.0, time.time() - until)
                behind = "being rebuilt" if age_s is None else f"{age_s:.1f} s"
                table.add_row(name, of["release"], str(partition), behind, f"{limit_s:g} s")
                late += [f"{name} of partition {partition}"] * (age_s is not None and age_s > limit_s)
    Console().print(table)
    if late:
        typer.echo(
            f"late: {', '.join(late)}; expected at most {limit_s:g} s; see that the sinks run: jobs/run_sinks.py", err=True
        )
        raise typer.Exit(1)


@app.command()
def docs() -> None:
    """Print the page about the views, as Markdown."""
    typer.echo(page(), nl=False)


async def _fresh_until(url: str, namespace: str, view: str, partitions: int) -> list[float | None]:
    store = OnlineStore(url, namespace)
    try:
        return await fresh_until(store, view, partitions)
    finally:
        await store.calls.aclose()


def _view(name: str) -> View:
    found = {view.name: view for view in VIEWS}
    if name not in found:
        raise DataError(f"view {name!r}: found none, expected one of {', '.join(found)}")
    return found[name]
