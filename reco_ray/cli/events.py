"""`reco events`: follow the bus, see how far the lake is behind, replay dead letters, send events from a file.

What a person wants to pipe on (`tail`, rejected lines of `send`) goes to stdout as JSON lines, the rest to stderr.
"""

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TextIO

import orjson
import typer
from rich.console import Console
from rich.table import Table

from reco_ray.cli.options import Overrides, configure
from reco_ray.cluster import embedded_store
from reco_ray.config import PipelineConfig
from reco_ray.errors import DataError
from reco_ray.events import bus
from reco_ray.events.bus import Reader
from reco_ray.hashing import digest

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Events on the bus: follow, count, replay dead letters, send.")

_LOOK_S = 0.2


class Topic(StrEnum):
    """What the bus carries."""

    events = bus.EVENTS
    exposures = bus.EXPOSURES
    dead_letters = bus.DEAD_LETTERS


@app.command()
def tail(
    topic: Topic = typer.Option(Topic.events, help="What to follow."),
    from_start: bool = typer.Option(False, help="Begin with the oldest record kept, not with the next one."),
    limit: int = typer.Option(0, min=0, help="End after so many records; 0 means to go on until Ctrl-C."),
    show_ids: bool = typer.Option(False, help="Show ids of users, sessions and orders, free text and raw dead letters."),
    overrides: list[str] | None = Overrides,
) -> None:
    """Print records as they arrive, one JSON object a line; users are named by digests."""
    from reco_ray.events.survey import readable

    left, pause = limit, threading.Event()
    with _readers(configure(overrides), topic) as readers, contextlib.suppress(KeyboardInterrupt):
        after = [-1 if from_start else reader.newest() for reader in readers]
        while True:
            idle = True
            for partition, reader in enumerate(readers):
                for record in reader.read(after[partition], 100, 0.0):
                    idle, after[partition] = False, record.position
                    typer.echo(readable(topic, partition, record, show_ids=show_ids))
                    if (left := left - 1) == 0:
                        return
            if idle:
                pause.wait(_LOOK_S)


@app.command()
def stats(overrides: list[str] | None = Overrides) -> None:
    """Show what each partition holds, how far the lake is behind, and the dead letters by reason."""
    from reco_ray.events.survey import count_reasons, oldest_age_s

    config = configure(overrides)
    table = Table(title="the bus")
    for label in ("topic", "partition", "records", "not in the lake", "oldest"):
        table.add_column(label, justify="left" if label == "topic" else "right", no_wrap=True)
    now = time.time()
    for topic in Topic:
        with _readers(config, topic) as readers:
            lags = asyncio.run(_lags(config, topic, "lake")) if topic is not Topic.dead_letters else {}
            held = asyncio.run(_lags(config, topic, "nobody"))
            for partition, reader in enumerate(readers):
                age = oldest_age_s(reader, now)
                lag = str(lags.get(partition, 0)) if lags else ""
                table.add_row(topic, str(partition), str(held.get(partition, 0)), lag, _age(age))
            reasons = count_reasons(readers) if topic is Topic.dead_letters else Counter[str]()
    Console().print(table)
    letters = Table("reason", "dead letters", title="dead letters")
    for reason, n in sorted(reasons.items()):
        letters.add_row(reason, str(n))
    if reasons:
        Console().print(letters)


@app.command()
def replay(
    reasons: list[str] = typer.Option([], "--reason", help="Only letters of this reason; may be given more than once."),
    since: datetime | None = typer.Option(None, help="Only those received at this time (UTC) or later."),
    until: datetime | None = typer.Option(None, help="Only those received before this time (UTC)."),
    overrides: list[str] | None = Overrides,
) -> None:
    """Admit dead letters again: those that pass now go to the bus with their ids and leave, the others stay."""
    from reco_ray.events.replay import Wanted

    wanted = Wanted(frozenset(reasons), _us(since) if since else 0, _us(until) if until else 2**63)
    report = asyncio.run(_replay(configure(overrides), wanted))
    _say(f"{report.replayed} dead letters replayed as events")
    if report.erased:
        _say(f"{report.erased} of erased users removed, not replayed")
    for reason, n in sorted(report.staying.items()):
        _say(f"{n} stay: {reason}")
    if report.removed < report.replayed + report.erased:
        kept = report.replayed + report.erased - report.removed
        _say(f"{kept} of them stay until their retention ends, as this bus removes no single records; a replay changes nothing")


@app.command()
def send(
    file: typer.FileText = typer.Argument(..., help="JSON lines, one event each; - reads stdin.", show_default=False),
    url: str = typer.Option("", help="Of the gateway; that of the configuration where not given."),
    key: str = typer.Option("", envvar="RECO_KEY", help="API key with the scope events."),
    batch: int = typer.Option(500, min=1, max=1000, help="Events of a request."),
    spool: Path | None = typer.Option(None, help="Where events go that could not be delivered."),
    overrides: list[str] | None = Overrides,
) -> None:
    """Send a file of events; an event without event_id gets one that is the same each time, so that a file may be sent twice.

    Rejected events go to stdout as JSON lines, and the exit code is 1 when there are any.
    """
    from reco_ray.events.client import EventClient, Rejection

    config = configure(overrides)
    rejected: Counter[str] = Counter()

    def tell(rejection: Rejection) -> None:
        rejected[rejection.reason] += 1
        typer.echo(rejection.event.decode())

    where = url or f"http://{config.serve.host}:{config.serve.port}"
    with EventClient(where, key, batch=batch, queue=max(10_000, batch), on_rejected=tell, spool=spool) as client:
        for event in _events_of(file):
            client.send(event)
    found = client.stats
    _say(f"{found.accepted} accepted, {found.duplicates} known already, {found.rejected} rejected, {found.retries} retries")
    for reason, n in sorted(rejected.items()):
        _say(f"{n} rejected: {reason}")
    if rejected:
        raise typer.Exit(1)


def _events_of(lines: TextIO) -> Iterator[dict[str, object]]:
    """Read events, each with an id and a version.

    Raises: DataError: a line is no JSON object; the lines before it have been sent.
    """
    seen: Counter[str] = Counter()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = orjson.loads(line)
        except orjson.JSONDecodeError as exc:
            raise DataError(f"line {number}: found no JSON ({exc}), expected an object; correct it and send the file again") from exc
        if not isinstance(found, dict):
            raise DataError(f"line {number}: found {type(found).__name__}, expected an object; correct it and send the file again")
        same = digest(line.strip(), length=32)
        seen[same] += 1
        yield {"event_id": f"line-{same}-{seen[same]}", **found}


async def _replay(config: PipelineConfig, wanted: "Wanted") -> "ReplayReport":
    raise NotImplementedError


async def _lags(config: PipelineConfig, topic: str, reader: str) -> dict[int, int]:
    raise NotImplementedError


@contextlib.contextmanager
def _readers(config: PipelineConfig, topic: str) -> Iterator[Sequence[Reader]]:
    raise NotImplementedError


def _age(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _us(when: datetime) -> int:
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1e6)


def _say(text: str) -> None:
    typer.echo(text, err=True)
