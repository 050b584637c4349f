"""`reco`: thin commands over the rooms, for people at a terminal.

`reco demo` and `reco serve` are the two commands of the README; `reco keys` says who may call, `reco events` what comes in,
`reco erasures` who wished to be forgotten, `reco rules` what is shown and what is not, `reco flags` what is switched off,
`reco releases` what was published, `reco rollouts` and `reco overrides` who gets which release, `reco status` where all of it
stands; the rest looks at what is there.
"""

import json
import signal
import threading

import httpx
import polars as pl
import typer
from rich.console import Console
from rich.table import Table

from reco_ray.cli import erasures, events, features, flags, keys, overrides, releases, rollouts, rules
from reco_ray.cli.options import Overrides, configure
from reco_ray.cli.status import status
from reco_ray.cluster import embedded_store, ray_session
from reco_ray.config import Auth, PipelineConfig
from reco_ray.errors import ConfigError, RecoError

__all__ = ["app", "main"]

# a traceback must not show locals: a new API key may be among them
app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_show_locals=False)
app.add_typer(events.app, name="events")
app.add_typer(keys.app, name="keys")
app.add_typer(erasures.app, name="erasures")
app.add_typer(features.app, name="features")
app.add_typer(rules.app, name="rules")
app.add_typer(flags.app, name="flags")
app.add_typer(releases.app, name="releases")
app.add_typer(rollouts.app, name="rollouts")
app.add_typer(overrides.app, name="overrides")
app.command()(rollouts.fallback)
app.command()(status)
_console = Console()
_ERASE_EVERY_S = 60.0


@app.command()
def demo(overrides: list[str] | None = Overrides) -> None:
    """Run everything once on MovieLens: import to evaluation, a release behind HTTP, five films for one user."""
    from reco_ray.workflow import STEPS, run_all
    from reco_ray.workflow.deploy import deploy_release, load_precomputed

    config = configure(overrides)
    if config.serve.auth is not Auth.off:
        raise ConfigError("serve.auth: found keys, expected off, as the demo has no key; then `reco serve serve.auth=keys`")
    with embedded_store(config) as store, ray_session(config.cluster) as dashboard:
        outputs = run_all(STEPS, config)
        load_precomputed(config, outputs["recommend_batch"], store)
        config.release = str(outputs["publish_release"].facts["release"])
        url = deploy_release(config, store, dashboard).url
        user_id = _somebody(config)
        answer = (
            httpx.post(f"{url}/v1/recommendations", json={"user_id": user_id, "k": 5}, timeout=30).raise_for_status().json()
        )
    _console.print(_evaluation_table(outputs["evaluate"].uri))
    _console.print(_slate_table(user_id, answer))
    _console.print(f"release {answer['release']}, answered by POST {url}/v1/recommendations")
    _console.print(f"report   {outputs['evaluate'].uri}/report.html")
    _console.print("next     make serve, then README.md, 'Call the API'")


@app.command()
def serve(overrides: list[str] | None = Overrides) -> None:
    """Serve the newest release until Ctrl-C; jobs can be submitted to the same cluster meanwhile."""
    from reco_ray.workflow.deploy import deploy_release

    config = configure(overrides)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with embedded_store(config) as store, ray_session(config.cluster) as dashboard:
        report = deploy_release(config, store, dashboard)
        url = report.url
        example = json.dumps({"user_id": _somebody(config), "k": 5})
        _console.print(f"serving release {report.release} on {url} (API page: {url}/docs; Ray: {dashboard})")
        if config.serve.auth is Auth.off:
            _console.print("API keys are off (serve.auth=off): it listens on the loopback interface only")
            key = ""
        else:
            _console.print("calls need an API key; `reco keys create NAME --scope recommend` makes one")
            key = ' -H "Authorization: Bearer $RECO_KEY"'
        curl = f"  curl -s {url}/v1/recommendations -H 'content-type: application/json'{key} -d '{example}'"
        _console.print(curl, soft_wrap=True, markup=False)
        _console.print("Ctrl-C ends it")
        while not stop.wait(_ERASE_EVERY_S):
            _work_off_erasures(config, store)
        _console.print("shutting down")


def _work_off_erasures(config: PipelineConfig, store: str) -> None:
    """Erase who wished it, as `jobs/erase_user.py` does on a schedule where there is a cluster."""
    from reco_ray.privacy.run import erase_users

    try:
        for receipt in erase_users(config, store):
            _console.print(f"erasure {receipt.receipt_id}: {receipt.state}")
    except RecoError as exc:  # a job is at work, the store is away: the wish stays
        _console.print(f"erasures wait: {exc}", style="yellow")


@app.command()
def assess(overrides: list[str] | None = Overrides) -> None:
    """Read the lake and say which rung the data justify: lists and rules, or trained models."""
    from reco_ray.lake import tables
    from reco_ray.lake.assess import assess as look

    config = configure(overrides)
    found = look(tables.read(config.root, "events", ["user_id", "item_id", "ts", "type"]))
    table = Table(title="what the lake holds", show_header=False)
    for name, value in found.rows():
        table.add_row(name, value)
    _console.print(table)
    _console.print(found.advice)


@app.command()
def find(
    text: str = typer.Argument(..., help="What somebody typed, e.g. 'space comedy'.", show_default=False),
    k: int = typer.Option(10, min=1, help="How many items."),
    overrides: list[str] | None = Overrides,
) -> None:
    """Find items by their texts in the newest release, or in the one that release=ID names."""
    from reco_ray.recall import load
    from reco_ray.release import newest, open_release

    config = configure(overrides)
    stage = load(open_release(config.root, config.release or newest(config.root)))
    table = Table("item", "title", "score")
    for row, score in zip(*stage.find(text, k), strict=True):
        table.add_row(stage.catalogue.item_ids[row], stage.catalogue.titles[row], f"{score:.3f}")
    _console.print(table)


@app.command()
def purge(
    user: str = typer.Option("", help="Id of the user whose slates go."),
    release: str = typer.Option("", help="Id of the release whose slates go."),
    overrides: list[str] | None = Overrides,
) -> None:
    """Remove the slates of a user or of a release from the online store and, within a second or so, from every gateway."""
    from reco_ray.store import OnlineStore, SlateStore

    if bool(user) == bool(release):
        raise ConfigError(f"purge: found --user {user!r} and --release {release!r}, expected one of them")
    config = configure(overrides)
    with embedded_store(config) as url, OnlineStore(url, config.store.namespace) as store:
        slates = SlateStore(store)
        removed = slates.purge_user(user) if user else slates.purge_release(release)
    _console.print(f"purged: {removed} found in the online store; gateways follow within a second or so")


def main() -> None:
    """Entry point that turns expected errors into one line and exit code 1."""
    try:
        app()
    except RecoError as exc:
        Console(stderr=True).print(f"[red]error:[/red] {exc}", soft_wrap=True, highlight=False)
        raise SystemExit(2 if isinstance(exc, ConfigError) else 1) from None


def _somebody(config: PipelineConfig) -> str:
    """The user with the longest history; the same one each time."""
    from reco_ray.lake import tables

    events = tables.read(config.root, "events", ["user_id"])
    return str(events.group_by("user_id").len().sort("len", "user_id", descending=[True, False])["user_id"][0])


def _evaluation_table(uri: str) -> Table:
    from reco_ray.lake import storage

    report = json.loads(storage.read_bytes(f"{uri}/report.json"))
    table = Table(title=f"test part of the split ({report['split']['kind']}), {report['n_users']} users")
    columns = {"recall": f"Recall@{report['k']}", "mrr": f"MRR@{report['k']}", "coverage": "Coverage"}
    table.add_column("stage", no_wrap=True)
    for label in (f"NDCG@{report['k']}", f"{report['confidence']:.0%} interval", *columns.values()):
        table.add_column(label, justify="right", no_wrap=True)
    for stage in report["stages"]:
        ndcg = stage["metrics"]["ndcg"]
        others = (f"{stage['metrics'][name]['mean']:.3f}" for name in columns)
        table.add_row(stage["stage"], f"{ndcg['mean']:.3f}", f"{ndcg['low']:.3f}-{ndcg['high']:.3f}", *others)
    return table


def _slate_table(user_id: str, answer: dict[str, object]) -> Table:
    table = Table("", "title", "score", "because", title=f"for user {user_id}")
    items = answer["items"]
    frame = pl.DataFrame(items) if isinstance(items, list) else pl.DataFrame()
    for row in frame.iter_rows(named=True):
        table.add_row(str(row["position"]), row["title"], f"{row['score']:.3f}", ", ".join(row["reasons"]))
    return table
