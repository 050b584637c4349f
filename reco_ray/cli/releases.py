"""`reco releases`: which there are, what one holds, what two differ in, whether one is whole, who approved, which may go."""

import json
import time
from dataclasses import asdict

import typer
from rich.console import Console
from rich.table import Table

from reco_ray.cli.options import Overrides, configure
from reco_ray.cluster import embedded_store
from reco_ray.release import open_release, read_part, release_ids, verify
from reco_ray.release.card import CARD, with_verdicts
from reco_ray.release.shelf import differences, gates_said, read_manifest, size_bytes
from reco_ray.rollout import commands
from reco_ray.store import OnlineStore, RolloutStore
from reco_ray.workflow.fitness import approvals, approve
from reco_ray.workflow.gates import who
from reco_ray.workflow.releases import point_aliases, prune, read_roles

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Releases: list, show, card, approve, diff, verify, prune, sync.")

_Release = typer.Argument(..., help="Id of a published release.", show_default=False)


@app.command("list")
def list_(overrides: list[str] | None = Overrides) -> None:
    """List the published releases, oldest first, with their role and share of the users."""
    config = configure(overrides)
    with embedded_store(config) as url, OnlineStore(url, config.store.namespace) as store:
        roles, weights = read_roles(config, store), store.traffic().weights
    table = Table("release", "made", "commit", "NDCG@10", "MB", "role", "share")
    for release in release_ids(config.root):
        facts = read_manifest(config.root, release).facts
        metrics = facts.get("metrics", {})
        ndcg = metrics.get("reranked_ndcg10") if isinstance(metrics, dict) else None
        table.add_row(
            release,
            str(facts.get("made_ts", ""))[:19],
            str(facts.get("commit", "")),
            f"{ndcg:.4f}" if ndcg else "",
            f"{size_bytes(config.root, release) / 1e6:.1f}",
            roles.of(release),
            f"{weights[release]:.0%}" if release in weights else "",
        )
    Console().print(table)


@app.command()
def show(release: str = _Release, overrides: list[str] | None = Overrides) -> None:
    """Print what a release says of itself, as JSON: settings, lake versions, metrics, files; and what the gates said last."""
    config = configure(overrides)
    found = asdict(read_manifest(config.root, release))
    if (said := gates_said(config.root, release)) is not None:
        found["gates"] = said
    typer.echo(json.dumps(found, indent=1, sort_keys=True, default=str))


@app.command()
def card(release: str = _Release, overrides: list[str] | None = Overrides) -> None:
    """Print the model card of a release, with what the gates said last and who approved of it, as Markdown."""
    config = configure(overrides)
    text, said = read_part(config.root, release, CARD).decode(), gates_said(config.root, release)
    typer.echo(with_verdicts(text, said, approvals(config.root, release)))


@app.command("approve")
def approve_(
    release: str = _Release,
    by: str = typer.Option(..., "--by", help="Who answers for it."),
    note: str = typer.Option("", help="Kept with the name."),
    withdraw: bool = typer.Option(False, "--withdraw", help="Take the name back."),
    overrides: list[str] | None = Overrides,
) -> None:
    """Put a name to a release: where gates.approvals asks for names, it takes no traffic without them."""
    config = configure(overrides)
    with embedded_store(config) as url, OnlineStore(url, config.store.namespace) as store:
        names = [each["by"] for each in approve(config.root, release, by, note, withdraw=withdraw)]
        action = "approval_withdrawn" if withdraw else "approval"
        commands.note(RolloutStore(store), action, release, f"{by}: {note}" if note else by, time.time(), who())
    typer.echo(f"release {release}: approved by {', '.join(names) or 'nobody'}")


@app.command()
def diff(before: str = _Release, after: str = _Release, overrides: list[str] | None = Overrides) -> None:
    """Show what two releases differ in: settings, inputs, metrics, files."""
    config = configure(overrides)
    table = Table("what", before, after)
    for each in differences(read_manifest(config.root, before), read_manifest(config.root, after)):
        table.add_row(each.what, *("" if value is None else str(value) for value in (each.before, each.after)))
    Console().print(table)


@app.command("verify")
def verify_(release: str = _Release, overrides: list[str] | None = Overrides) -> None:
    """Check every file of a release against its manifest."""
    config = configure(overrides)
    manifest = verify(open_release(config.root, release))
    typer.echo(f"release {release}: {len(manifest.files)} files as published")


@app.command("prune")
def prune_(
    yes: bool = typer.Option(False, "--yes", help="Remove them; without it they are only named."),
    overrides: list[str] | None = Overrides,
) -> None:
    """Remove releases that are in no use, but for the last releases.keep; never one that is loaded or in a rollout."""
    config = configure(overrides)
    with embedded_store(config) as url, OnlineStore(url, config.store.namespace) as store:
        found = prune(config, store, dry_run=not yes)
    for release in found:
        typer.echo(f"{release}  {'removed' if yes else 'would go'}")
    if not found:
        typer.echo("nothing to remove")
    elif not yes:
        typer.echo("nothing was removed; --yes does it")


@app.command()
def sync(overrides: list[str] | None = Overrides) -> None:
    """Point MLflow's aliases at the releases that have the roles now."""
    config = configure(overrides)
    with embedded_store(config) as url, OnlineStore(url, config.store.namespace) as store:
        for role, release in point_aliases(config, store).items():
            typer.echo(f"{role}: {release}")
