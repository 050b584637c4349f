"""`reco features`: the feature views, and in what those of two releases differ."""

import typer
from rich.console import Console
from rich.table import Table

from reco_ray.cli.options import Overrides, configure
from reco_ray.errors import DataError
from reco_ray.features import VIEWS, Catalogue
from reco_ray.features.views import View
from reco_ray.release import open_release, verify

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Feature views: list them, show one, compare those of two releases.")


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


def _view(name: str) -> View:
    found = {view.name: view for view in VIEWS}
    if name not in found:
        raise DataError(f"view {name!r}: found none, expected one of {', '.join(found)}")
    return found[name]
