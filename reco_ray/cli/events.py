"""`reco events`: follow the bus, see how far the lake is behind, replay dead letters, send events from a file.

What a person wants to pipe on goes to stdout as JSON lines: records that `tail` sees, events that `send` saw rejected.
"""

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
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
from reco_ray.events import Producer, Reader, bus
from reco_ray.events.client import EventClient, Rejection
from reco_ray.events.contract import Limits, admit
from reco_ray.events.open import open_producer, open_reader
from reco_ray.events.replay import ReplayReport, Wanted
from reco_ray.events.replay import replay as replay_letters
from reco_ray.events.survey import count_reasons, oldest_age_s, readable
from reco_ray.hashing import digest
from reco_ray.store import FenceStore, OnlineStore

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Events on the bus: follow, count, replay dead letters, send.")

_LOOK_S = 0.2
_NOBODY = "nobody"  # a reader that has read nothing: to it all records are ahead


class Topic(StrEnum):
    """What the bus carries."""

    events = bus.EVENTS
    exposures = bus.EXPOSURES
    dead_letters = bus.DEAD_LETTERS


_Topic = typer.Option(Topic.events, help="What to follow.")


class Reason(StrEnum):
    """Why an event was refused."""

    malformed = "malformed"
    invalid = "invalid"
    unsupported_version = "unsupported_version"
    future = "future"
    undecodable = "undecodable"


_Reasons = typer.Option([], "--reason", help="Only letters of this reason; may be given more than once.")
_Since = typer.Option(None, help="Only those received at this time (UTC) or later.")
_Until = typer.Option(None, help="Only those received before this time (UTC).")
_File = typer.Argument(..., help="JSON lines, one event each; - reads stdin.", show_default=False)
_Spool = typer.Option(None, help="File that events which could not be delivered are appended to.")


@app.command()
def tail(
    topic: Topic = _Topic,
    from_start: bool = typer.Option(False, help="Begin with the oldest record kept, not with the next one."),
    limit: int = typer.Option(0, min=0, help="End after so many records; 0 means to go on until Ctrl-C."),
    show_ids: bool = typer.Option(False, help="Show ids of users, sessions and orders, free text and raw dead letters."),
    overrides: list[str] | None = Overrides,
) -> None:
    """Print records as they arrive, one JSON object a line; users are named by digests."""
    left, pause = limit, threading.Event()
    config = configure(overrides)
    with embedded_store(config) as url, _readers(config, url, topic) as readers, contextlib.suppress(KeyboardInterrupt):
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
    table = Table(title="the bus")
    for label in ("topic", "partition", "records", "not in the lake", "oldest"):
        table.add_column(label, justify="left" if label == "topic" else "right", no_wrap=True)
    reasons: Counter[str] = Counter()
    config = configure(overrides)
    with embedded_store(config) as url:
        for topic in Topic:
            held, lags = asyncio.run(_counts(config, url, topic))
            with _readers(config, url, topic) as readers:
                for partition, reader in enumerate(readers):
                    lag = "" if topic is Topic.dead_letters else str(lags[partition])
                    age = _age(oldest_age_s(reader, time.time()))
                    table.add_row(topic, str(partition), str(held[partition]), lag, age)
                if topic is Topic.dead_letters:
                    reasons = count_reasons(readers)
    Console().print(table)
    if reasons:
        letters = Table("reason", "letters", title="dead letters")
        for reason, n in sorted(reasons.items()):
            letters.add_row(reason, str(n))
        Console().print(letters)


@app.command()
def replay(
    reasons: list[Reason] = _Reasons,
    since: datetime | None = _Since,
    until: datetime | None = _Until,
    overrides: list[str] | None = Overrides,
) -> None:
    """Admit dead letters again: those that pass now go to the bus with their ids and leave, the others stay."""
    wanted = Wanted(frozenset(reasons), _us(since) if since else 0, _us(until) if until else 2**63)
    config = configure(overrides)
    with embedded_store(config) as url, _readers(config, url, Topic.dead_letters) as readers:
        report = asyncio.run(_replay(config, url, readers, wanted))
    _say(f"{report.replayed} dead letters are events now")
    if report.erased:
        _say(f"{report.erased} were of erased users and are gone")
    for reason, n in sorted(report.staying.items()):
        _say(f"{n} stay: {reason}")
    if kept := report.replayed + report.erased - report.removed:
        _say(
            f"{kept} of those remain until their days end: this bus removes no single records; to replay them again is harmless"
        )


@app.command()
def send(
    file: typer.FileText = _File,
    url: str = typer.Option("", help="Of the gateway; that of the configuration where it is not given."),
    key: str = typer.Option("", envvar="RECO_KEY", help="API key with the scope events.", show_default=False),
    batch: int = typer.Option(500, min=1, max=1000, help="Events of a request."),
    spool: Path | None = _Spool,
    overrides: list[str] | None = Overrides,
) -> None:
    """Send a file of events. One without event_id gets an id that is the same each time, so that a file may be sent again.

    Rejected events go to stdout as JSON lines, and the exit code is 1 when there are any.
    """
    config = configure(overrides)
    rejected: Counter[str] = Counter()

    def tell(rejection: Rejection) -> None:
        rejected[f"{rejection.reason}: {rejection.detail}"] += 1
        typer.echo(rejection.event.decode())

    where = url or f"http://{config.serve.host}:{config.serve.port}"
    with EventClient(where, key, batch=batch, on_rejected=tell, spool=spool) as client:
        for event in _events_of(file):
            client.send(event)
    found = client.stats
    _say(f"{found.accepted} accepted, {found.duplicates} known already, {found.rejected} rejected; {found.retries} retries")
    for why, n in sorted(rejected.items()):
        _say(f"{n} rejected, {why}")
    if rejected:
        raise typer.Exit(1)


def _events_of(lines: TextIO) -> Iterator[dict[str, object]]:
    """Read events, each with an id that depends on its line and on how often that stood there before.

    Raises: DataError: a line is no JSON object; those before it are sent.
    """
    seen: Counter[str] = Counter()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = orjson.loads(line)
        except orjson.JSONDecodeError as exc:
            raise DataError(
                f"line {number}: found no JSON ({exc}), expected an object; correct it, send the file again"
            ) from exc
        if not isinstance(found, dict):
            raise DataError(f"line {number}: found no object, expected an event; correct it, send the file again")
        same = digest(line.strip(), length=32)
        seen[same] += 1
        yield {"event_id": f"line-{same}-{seen[same]}", **found}


async def _replay(config: PipelineConfig, url: str, readers: Sequence[Reader], wanted: Wanted) -> ReplayReport:
    limits = Limits(config.events.max_future_s)
    with OnlineStore(url, config.store.namespace) as store:
        fence = FenceStore(store).read()
    async with _producer(config, url) as producer:
        return await replay_letters(
            readers,
            lambda records: producer.append(bus.EVENTS, records),
            lambda raw: admit(raw, time.time_ns() // 1000, limits),
            wanted,
            fence.drops,
            config.events.bus.partitions,
        )


async def _counts(config: PipelineConfig, url: str, topic: str) -> tuple[dict[int, int], dict[int, int]]:
    """Count the records of each partition, and those that are not in the lake."""
    async with _producer(config, url) as producer:
        return dict(await producer.lags(topic, _NOBODY)), dict(await producer.lags(topic, bus.LAKE))


@contextlib.asynccontextmanager
async def _producer(config: PipelineConfig, url: str) -> AsyncIterator[Producer]:
    producer = open_producer(config.events, config.store.namespace, url)
    try:
        yield producer
    finally:
        await producer.aclose()


@contextlib.contextmanager
def _readers(config: PipelineConfig, url: str, topic: str) -> Iterator[list[Reader]]:
    """Open a topic's partitions."""
    with contextlib.ExitStack() as stack:
        readers = []
        for partition in range(config.events.bus.partitions):
            reader = open_reader(config.events, config.store.namespace, url, topic, partition)
            readers.append(stack.enter_context(contextlib.closing(reader)))
        yield readers


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
