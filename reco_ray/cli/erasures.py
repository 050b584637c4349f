"""`reco erasures`: who wished to be erased, and what became of it; without their ids."""

import json

import typer
from rich.console import Console
from rich.table import Table

from reco_ray.cli.options import Overrides, configure
from reco_ray.cluster import embedded_store
from reco_ray.errors import DataError
from reco_ray.privacy import Receipt, audited, receipts
from reco_ray.store import ErasureStore, OnlineStore

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Receipts of erasures: list them, show one.")


@app.command("list")
def list_(overrides: list[str] | None = Overrides) -> None:
    """List the receipts, oldest wish first."""
    table = Table(title="erasures, times in UTC")
    for label in ("receipt", "requested", "state", "done", "removed", "left"):
        table.add_column(label, no_wrap=label in ("receipt", "state"), overflow="fold")
    for receipt in _all(overrides):
        places = receipt.places.values()
        removed, left = sum(each.removed for each in places), sum(each.found - each.removed for each in places)
        table.add_row(
            receipt.receipt_id, receipt.requested_ts[:16], receipt.state, receipt.done_ts[:16], str(removed), str(left)
        )
    Console().print(table)


@app.command()
def show(
    receipt_id: str = typer.Argument(..., help="As `reco erasures list` shows it.", show_default=False),
    overrides: list[str] | None = Overrides,
) -> None:
    """Print a receipt as JSON."""
    found = {receipt.receipt_id: receipt for receipt in _all(overrides)}
    if receipt_id not in found:
        raise DataError(f"erasure {receipt_id}: found no such receipt, expected one that `reco erasures list` shows")
    typer.echo(json.dumps(found[receipt_id].to_json(), indent=1))


def _all(overrides: list[str] | None) -> list[Receipt]:
    """Those on record under root, and over them what the store knows of them now."""
    config = configure(overrides)
    with embedded_store(config) as url, OnlineStore(url, config.store.namespace) as store:
        found = {each.receipt_id: each for each in (*audited(config.root), *receipts(ErasureStore(store)))}
    return sorted(found.values(), key=lambda receipt: receipt.requested_ts)
