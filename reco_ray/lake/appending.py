"""Appending exactly once: a table remembers how far each of its writers has come.

A batch is committed with its last position as Delta's application transaction of that writer, in the commit that adds its rows,
and always as the very next version after the one that was looked at: whatever another process commits between, an append, a
compaction, an overwrite, a batch under our own name, makes the commit fail, and everything is looked at anew.
"""

import logging
import random
import time
from dataclasses import dataclass

import pyarrow as pa
from deltalake import CommitProperties, Transaction
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, RemoveAction

from reco_ray.config import DateUnit
from reco_ray.errors import NotReadyError, StaleWriterError
from reco_ray.lake import storage, tables
from reco_ray.lake.files import newest_us, write_files
from reco_ray.lake.ids import Fresh, StoredIds
from reco_ray.lake.opening import SCHEMAS, open_table
from reco_ray.schema import check

__all__ = ["Appended", "TableAppender", "append_events"]

log = logging.getLogger(__name__)

_ATTEMPTS = 100


@dataclass(frozen=True, slots=True)
class Appended:
    """What an append did. ``rows``: those that were new; ``conflicts``: commits of others that came between."""

    version: int
    rows: int
    conflicts: int


class TableAppender:
    """One writer of a table.

    Args:
        app_id: names the writer for ever; two processes under one name are fenced from each other by `append`.
        unit: of the table's dates.

    Attributes:
        schema: of the rows that it takes.

    Raises: DataError: the table has dates of another unit, or columns of another type.
    """

    def __init__(self, root: str, name: str, app_id: str, unit: DateUnit | None = None) -> None:
        self._app_id = app_id
        self._where = f"table {name!r} under {root}, writer {app_id}"
        self._uri = tables.table_uri(root, name)
        self._table = open_table(root, name, unit)
        self.schema = SCHEMAS[name]

    def position(self) -> int:
        """Last position that the table holds of this writer; -1 when there is none."""
        self._table.update_incremental()
        return self._committed()

    def newest_us(self) -> int:
        """Latest event time that any writer has put into the table, microseconds since 1970; 0 where there is none."""
        return newest_us(self._table)

    def append(self, rows: pa.Table, first: int, last: int, fresh: Fresh | None = None, *, empty: bool = True) -> Appended:
        """Append a batch that was read from positions ``first`` to ``last``.

        Args:
            fresh: leaves out what the table holds already; asked again after each conflict.
            empty: whether a batch without news is committed too, for its position.
        Raises:
            StaleWriterError: the table holds ``first`` of this writer already: somebody else writes under its name.
            NotReadyError: others committed between at each attempt; nothing was written.
        """
        rows = check(rows, self.schema, self._where)
        chosen: pa.Table = rows
        actions: list[AddAction | RemoveAction] | None = None
        for attempt in range(_ATTEMPTS):
            self._table.update_incremental()
            if (committed := self._committed()) >= first:
                raise StaleWriterError(
                    f"{self._where}: found position {committed}, expected one before {first}; "
                    "another process writes under this name; go on behind its position"
                )
            try:
                if fresh is not None:
                    kept = fresh(rows, self._table)
                    actions = actions if kept.num_rows == chosen.num_rows else None  # the table can only have got more of them
                    chosen = kept
                if not chosen.num_rows and not empty:
                    return Appended(self._table.version(), 0, attempt)
                if actions is None:
                    actions = [*write_files(self._uri, chosen)]
                self._commit(actions, last)
            except (CommitFailedError, FileNotFoundError) as exc:  # a commit between, or files compacted and vacuumed meanwhile
                log.debug("%s: %s", self._where, exc)
                time.sleep(random.uniform(0, min(0.1, 0.002 * (attempt + 1))))
                continue
            self._table.update_incremental()
            return Appended(self._table.version(), chosen.num_rows, attempt)
        raise NotReadyError(
            f"{self._where}: found other commits between at each of {_ATTEMPTS} attempts, expected a gap; "
            "too many writers: give fewer partitions or a longer events.sink_interval_s"
        )

    def _committed(self) -> int:
        found = self._table.transaction_version(self._app_id)
        return -1 if found is None else int(found)

    def _commit(self, actions: list[AddAction | RemoveAction], last: int) -> None:
        version = self._table.version()
        self._table.create_write_transaction(
            actions,
            "append",
            self._table.schema(),
            ["date"],
            commit_properties=CommitProperties(max_commit_retries=0, app_transactions=[Transaction(self._app_id, last)]),
        )
        storage.make_durable(storage.join(self._uri, "_delta_log", f"{version + 1:020d}.json"))


def append_events(root: str, events: pa.Table, writer: str, batch: int, unit: DateUnit | None = None) -> int:
    """Append the events whose ids their date in the lake does not hold; returns how many were new.

    Args:
        events: schema `schema.EVENTS`; may repeat ids, within itself or of what is stored.
        writer: names the sequence of batches; with ``batch`` it makes the commit happen once.
        batch: number of this batch; one at or below the last committed is left alone.
        unit: of the events' dates.
    """
    check(events, SCHEMAS["events"], f"batch {batch} of {writer}")
    try:
        appender = TableAppender(root, "events", writer, unit)
        return appender.append(events, batch, batch, StoredIds("event_id").fresh, empty=False).rows
    except StaleWriterError:
        return 0
