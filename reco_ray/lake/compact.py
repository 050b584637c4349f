"""Compaction: small files of a date become few large ones, sorted so that one user's rows lie together.

Rows neither come nor go, and what reads the table sees no change. Appends go on meanwhile: the commit replaces the files that
were read and no others. Old files stay until a vacuum.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, RemoveAction

from reco_ray.lake import storage, tables
from reco_ray.lake.files import files_of, read_columns, write_files
from reco_ray.lake.opening import open_table

__all__ = ["CompactReport", "compact"]

log = logging.getLogger(__name__)

_ROWS = 1_000_000  # some 60 MB of events
_SMALL = _ROWS // 2
_ATTEMPTS, _COMMITS = 5, 100


@dataclass(frozen=True, slots=True)
class CompactReport:
    """What a compaction did. ``left``: dates where others replaced the same files at each attempt."""

    dates: int
    files_before: int
    files_after: int
    rows: int
    left: tuple[str, ...]


def compact(root: str, name: str, more_than: int = 1) -> CompactReport:
    """Compact each date that has more small files than so many; one of half a million rows is not small.

    A second call changes nothing. Holds a million and a half rows in memory at most.
    """
    done: list[tuple[str, int, int]] = []
    left: list[str] = []
    if tables.exists(root, name):
        table = open_table(root, name)
        for date, files in sorted(files_of(table).items()):
            if len(_small(files)) > more_than:
                merged = list(_merge_date(table, date))
                done += [each for each in merged if each is not None]
                left += [date] if None in merged else []
    report = CompactReport(
        dates=len({date for date, _, _ in done}),
        files_before=sum(files for _, files, _ in done),
        files_after=len(done),
        rows=sum(rows for _, _, rows in done),
        left=tuple(left),
    )
    if done or left:
        log.info("%s: %s", name, report)
    return report


def _small(files: Mapping[str, int]) -> dict[str, int]:
    """Rows per small file, the smallest first; so many that they make one file."""
    small = sorted((item for item in files.items() if item[1] < _SMALL), key=lambda item: (item[1], item[0]))
    sums = accumulate((rows for _, rows in small), initial=0)
    return {path: rows for (path, rows), before in zip(small, sums, strict=False) if before < _ROWS}


def _merge_date(table: DeltaTable, date: str) -> Iterator[tuple[str, int, int] | None]:
    """Merge until one small file at most is left; yields date, files and rows of each merge, or None where it gave up."""
    failed = 0
    while failed < _ATTEMPTS:
        table.update_incremental()
        small = _small(files_of(table, [date]).get(date, {}))
        if len(small) < 2:
            return
        try:
            rows = _merge(table, date, list(small))
        except (CommitFailedError, FileNotFoundError) as exc:  # an erasure, or another compaction, took the same files
            failed += 1
            log.info("%s: %s; %d of %d attempts", table.table_uri, exc, failed, _ATTEMPTS)
        else:
            yield date, len(small), rows
    yield None


def _merge(table: DeltaTable, date: str, paths: Sequence[str]) -> int:
    """Replace files by one, in one commit that says that no data changed."""
    schema = pa.schema(table.schema().to_arrow())
    rows = pa.concat_tables([_shaped(read_columns(table.table_uri, path), schema, date) for path in paths])
    now = int(time.time() * 1000)
    removed = [RemoveAction(path, False, now, partition_values={"date": date}) for path in paths]
    added = write_files(table.table_uri, rows, data_change=False)
    try:
        _replace(table, date, paths, removed, added)
    except (CommitFailedError, FileNotFoundError):
        for action in added:  # it may hold rows of someone who was erased meanwhile
            storage.remove(storage.join(table.table_uri, action.path))
        raise
    return int(rows.num_rows)


def _replace(
    table: DeltaTable, date: str, paths: Sequence[str], removed: Sequence[RemoveAction], added: Sequence[AddAction]
) -> None:
    """Commit it as the very next version, or look again: delta-rs commits beside a compaction that replaced the same files."""
    for _ in range(_COMMITS):
        table.update_incremental()
        if not set(paths) <= set(files_of(table, [date]).get(date, {})):
            raise FileNotFoundError(f"files of {date} were replaced meanwhile")
        try:
            table.create_write_transaction(
                [*removed, *added], "append", table.schema(), ["date"], commit_properties=CommitProperties(max_commit_retries=0)
            )
        except CommitFailedError:
            continue
        return
    raise CommitFailedError(f"other commits between at each of {_COMMITS} attempts")


def _shaped(part: pa.Table, schema: pa.Schema, date: str) -> pa.Table:
    """Give a file the columns and types of the table: older ones have fewer, other writers have other kinds of text."""
    part = part.append_column("date", pa.array([date] * part.num_rows, pa.string()))
    columns = [part.column(f.name).cast(f.type) if f.name in part.column_names else pa.nulls(len(part), f.type) for f in schema]
    return pa.table(columns, schema=schema)
