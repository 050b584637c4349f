"""Retention: raw rows and dead letters that are past their days, files that no table needs, and fences that have served."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
from deltalake import DeltaTable

from reco_ray.config import BusKind, DateUnit, PipelineConfig
from reco_ray.events.bus import DEAD_LETTERS, Reader
from reco_ray.lake import storage, tables
from reco_ray.lake.opening import unit_of
from reco_ray.privacy.steps import OpenReader
from reco_ray.store import ErasureStore, OnlineStore

__all__ = ["Expired", "RetentionReport", "apply_retention", "expired"]

log = logging.getLogger(__name__)

_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Expired:
    """Dates of a table whose rows are all past their days, and how many rows those are."""

    table: str
    days: int
    dates: tuple[str, ...]
    rows: int


@dataclass(frozen=True, slots=True)
class RetentionReport:
    """What was removed.

    Attributes:
        expired: by table.
        vacuumed: files by table.
        dead_letters: records; None where Kafka removes them by itself.
        erasures: ended ones whose fence and receipt left the store; the record under ``root`` stays.
    """

    made_ts: str
    expired: tuple[Expired, ...]
    vacuumed: dict[str, int]
    dead_letters: int | None
    erasures: int


def expired(config: PipelineConfig, today: date) -> list[Expired]:
    """Find the dates that are past their days; nothing is changed."""
    privacy = config.privacy
    days_of = {"events": privacy.events_days, "exposures": privacy.exposures_days, "feedback": privacy.exposures_days}
    days_of["dead_letters"] = config.events.dead_letters_days  # those of imports; the bus has the others
    found = []
    for name, days in days_of.items():
        if days and tables.exists(config.root, name):
            last = today - timedelta(days=days)
            table = DeltaTable(tables.table_uri(config.root, name))
            unit = unit_of(table) or config.lake.date_unit
            rows = {at: n for at, n in _rows_by_date(table).items() if _end(at, unit) <= last}
            if rows:
                found.append(Expired(name, days, tuple(sorted(rows)), sum(rows.values())))
    return found


def apply_retention(
    config: PipelineConfig, store: OnlineStore, open_partition: OpenReader, now: datetime | None = None
) -> RetentionReport:
    """Remove what is past its days, and say so in a report under ``root/reports/apply_retention``; a second run finds nothing.

    Raises: NotReadyError: the store or bus is away. DataError: the root has no lake.
    """
    tables.require(config.root)
    now = now or datetime.now(UTC)
    plan = expired(config, now.date())
    for each in plan:
        log.info(
            "%s: %d rows of %d dates from %s to %s are older than %d days and go",
            each.table, each.rows, len(each.dates), each.dates[0], each.dates[-1], each.days,
        )  # fmt: skip
    for each in plan:
        dates = ", ".join(f"'{at}'" for at in each.dates)  # whole partitions: the log names no ids
        DeltaTable(tables.table_uri(config.root, each.table)).delete(f"date IN ({dates})")
    report = RetentionReport(
        made_ts=now.isoformat(timespec="seconds"),
        expired=tuple(plan),
        vacuumed=dict(_vacuum(config.root, config.privacy.vacuum_hours)),
        dead_letters=_trim_dead_letters(config, open_partition, now),
        erasures=ErasureStore(store).prune(int((now - timedelta(days=config.privacy.fence_days)).timestamp() * 1e6)),
    )
    uri = storage.join(config.root, "reports", "apply_retention", f"{report.made_ts}.json")
    storage.write_bytes(uri, json.dumps(asdict(report), indent=1).encode())
    log.info("retention: %s", report)
    return report


def _rows_by_date(table: DeltaTable) -> dict[str, int]:
    rows: dict[str, int] = {}
    for action in pa.table(table.get_add_actions()).to_pylist():
        at = action["partition"]["date"]
        rows[at] = rows.get(at, 0) + (action["num_records"] or 0)
    return rows


def _end(at: str, unit: DateUnit) -> date:
    """The first day after a partition."""
    first = date.fromisoformat(at)
    return first + timedelta(days=1) if unit is DateUnit.day else (first.replace(day=1) + timedelta(days=32)).replace(day=1)


def _vacuum(root: str, hours: int) -> Iterator[tuple[str, int]]:
    """Remove files that no version since so many hours needs, also those of writers that were killed."""
    for name in storage.listing(storage.join(root, "lake")):
        if tables.exists(root, name):
            table = DeltaTable(tables.table_uri(root, name))
            gone = table.vacuum(hours, dry_run=False, enforce_retention_duration=False, full=True)
            yield name, len(gone)


def _trim_dead_letters(config: PipelineConfig, open_partition: OpenReader, now: datetime) -> int | None:
    if config.events.bus.kind is BusKind.kafka:
        return None
    before_ms = int((now - timedelta(days=config.events.dead_letters_days)).timestamp() * 1000)
    removed = 0
    for partition in range(config.events.bus.partitions):
        reader = open_partition(DEAD_LETTERS, partition)
        try:
            removed += sum(reader.remove(positions) for positions in _older(reader, before_ms))
        finally:
            reader.close()
    return removed


def _older(reader: Reader, before_ms: int) -> Iterator[Sequence[int]]:
    newest, at = reader.newest(), -1
    while at < newest and (records := reader.read(at, _AT_ONCE, 0)):
        old = [record.position for record in records if record.ts_ms < before_ms]
        if old:
            yield old
        if len(old) < len(records):
            return
        at = records[-1].position
