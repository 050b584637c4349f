"""`reco rules`: check, put, show and roll back the rules of reranking; hold items back, and approve them.

A file is YAML or JSON as docs/rules.md has it, or, with the ending .csv, a merchandiser's sheet. Replicas follow within about a
second.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reco_ray.cli.options import Overrides, configure
from reco_ray.cluster import embedded_store
from reco_ray.config import PipelineConfig
from reco_ray.errors import ConfigError
from reco_ray.features import Catalogue
from reco_ray.release import newest, open_release, release_ids
from reco_ray.rules import Document, RuleBook, Standing, check_document, parse, read_csv, read_text, unknown_items
from reco_ray.slate import Pipeline, Trial, recent_requests, try_rules
from reco_ray.store import OnlineStore, RuleRecord, RuleStore

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Rules of reranking: check, put, show, roll back; hold items, approve them.")

_File = typer.Argument(..., help="Rules in YAML, JSON, or CSV.", show_default=False)
_Author = typer.Option(..., "--author", help="Who answers for the change; kept with it.")
_Note = typer.Option("", "--note", help="Why; kept with it.")
_Reason = typer.Option(..., "--reason", help="Why; kept with it.")
_Item = typer.Argument(..., help="Id of the item.", show_default=False)
_Hours = typer.Option(1.0, min=0, help="Requests of so many hours are answered again; 0 tries nothing.")


@app.command()
def check(file: Path = _File, hours: float = _Hours, overrides: list[str] | None = Overrides) -> None:
    """Check a file, and say what it would change; changes nothing."""
    config = configure(overrides)
    with _rules(config) as rules:
        document = _checked(config, rules.current(), file, hours)
    typer.echo(f"{len(document.rules)} rules, nothing wrong with them")


@app.command()
def put(
    file: Path = _File,
    author: str = _Author,
    note: str = _Note,
    hours: float = _Hours,
    overrides: list[str] | None = Overrides,
) -> None:
    """Check a file, and bring its rules into force in place of those before."""
    config = configure(overrides)
    with _rules(config) as rules:
        now = rules.current()
        document = _checked(config, now, file, hours)
        record = rules.put(_plain(document), author, note, now.version)
    typer.echo(f"version {record.version}: {len(record.rules)} rules in force")


@app.command()
def convert(file: Path = _File) -> None:
    """Print a file's rules as YAML; so a sheet becomes a document."""
    typer.echo(yaml.safe_dump({"rules": list(_plain(_read(file)))}, sort_keys=False, allow_unicode=True))


@app.command()
def show(
    version: int = typer.Option(0, min=0, help="Of the last 200; 0 is the one in force."),
    overrides: list[str] | None = Overrides,
) -> None:
    """Print rules as YAML, ready to be put again."""
    with _rules(configure(overrides)) as rules:
        record = rules.at(version) if version else rules.current()
    said = f" ({record.note})" if record.note else ""
    typer.echo(
        f"# version {record.version}, {record.action} by {record.author} at {record.ts}{said}" if record.version else "#"
    )
    document = parse({"rules": list(record.rules)})
    content = document.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    typer.echo(yaml.safe_dump(content or {"rules": []}, sort_keys=False, allow_unicode=True))


@app.command()
def history(overrides: list[str] | None = Overrides) -> None:
    """List the last 200 changes, the newest first: who, what, when and why."""
    table = Table("version", "when", "who", "what", "rules", "why", title="changes of the rules, times in UTC")
    with _rules(configure(overrides)) as rules:
        for each in rules.history():
            row = (str(each.version), each.ts[:16], escape(each.author), each.action, str(len(each.rules)), escape(each.note))
            table.add_row(*row)
    Console().print(table)


@app.command()
def rollback(
    version: int = typer.Argument(..., help="As `reco rules history` shows it.", show_default=False),
    author: str = _Author,
    note: str = _Note,
    overrides: list[str] | None = Overrides,
) -> None:
    """Bring the rules of an earlier version into force again; what was held or approved meanwhile stays so."""
    with _rules(configure(overrides)) as rules:
        record = rules.rollback(version, author, note)
    typer.echo(f"version {record.version}: the {len(record.rules)} rules of version {version} in force")


@app.command()
def hold(item_id: str = _Item, author: str = _Author, reason: str = _Reason, overrides: list[str] | None = Overrides) -> None:
    """Show an item to nobody until it is approved."""
    with _rules(configure(overrides)) as rules:
        record = rules.hold(item_id, author, reason)
    typer.echo(f"version {record.version}: held back")


@app.command()
def approve(
    item_id: str = _Item, author: str = _Author, reason: str = _Reason, overrides: list[str] | None = Overrides
) -> None:
    """Show an item again that was held back, or that a review rule waits for."""
    with _rules(configure(overrides)) as rules:
        record = rules.approve(item_id, author, reason)
    typer.echo(f"version {record.version}: approved")


@app.command()
def queue(overrides: list[str] | None = Overrides) -> None:
    """List the items that wait for an approval: held back one by one, or flagged by a review rule of any campaign."""
    config = configure(overrides)
    with _rules(config) as rules:
        record = rules.current()
    table = Table("item", "title", "because", "since", title="items that wait for `reco rules approve`")
    catalogue = _catalogue(config)
    titles = {} if catalogue is None else dict(zip(catalogue.item_ids, catalogue.titles, strict=True))
    for item_id, each in record.held.items():
        because = escape(f"{each.reason} ({each.author})")
        table.add_row(escape(item_id), escape(titles.get(item_id, "")), because, each.ts[:16])
    if catalogue is not None:
        for row, rule in RuleBook(Standing.of(record), catalogue).waiting():
            table.add_row(escape(catalogue.item_ids[row]), escape(catalogue.titles[row]), f"rule {rule}", "")
    Console().print(table)


@contextlib.contextmanager
def _rules(config: PipelineConfig) -> Iterator[RuleStore]:
    with embedded_store(config) as url, OnlineStore(url, config.store.namespace) as store:
        yield RuleStore(store)


def _read(file: Path) -> Document:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{file}: found {exc}, expected a file of rules") from exc
    return read_csv(text) if file.suffix.lower() == ".csv" else parse(read_text(text))


def _checked(config: PipelineConfig, now: RuleRecord, file: Path, hours: float) -> Document:
    document, catalogue = _read(file), _catalogue(config)
    check_document(document, catalogue)
    if catalogue is None:
        typer.echo("there is no release yet: names of categories and items are not checked", err=True)
        return document
    for rule, item_id in unknown_items(document, catalogue):
        typer.echo(f"rule {rule}: the release does not know item {item_id!r}", err=True)
    requests = recent_requests(config.root, hours) if hours else []
    if requests:
        after = Standing(now.version + 1, document, frozenset(now.held), frozenset(now.approved))
        trial = try_rules(Pipeline.load(_release(config)), requests, Standing.of(now), after)
        _print(trial)
        trial.check()
    return document


def _print(trial: Trial) -> None:
    table = Table("rule", "effect", "times", title=f"of {trial.requests} recent slates {trial.changed} would change")
    for rule, effects in sorted(trial.hits.items()):
        for effect, n in effects.items():
            table.add_row(rule, effect, str(n))
    Console().print(table)
    for each in trial.examples:
        typer.echo(f"{each.surface}: {', '.join(each.before)}  ->  {', '.join(each.after)}")


def _catalogue(config: PipelineConfig) -> Catalogue | None:
    return Catalogue.load(_release(config)) if config.release or release_ids(config.root) else None


def _release(config: PipelineConfig) -> Path:
    return open_release(config.root, config.release or newest(config.root))


def _plain(document: Document) -> tuple[dict[str, object], ...]:
    return tuple(document.model_dump(mode="json", exclude_none=True)["rules"])
