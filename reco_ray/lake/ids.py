"""Which ids a table of the lake holds: an answer in memory, with the lake's word before anything is called a duplicate.

A hash of each id is kept for the dates that were touched last, read from the files of a date when it is first touched and from
files that came since, whoever wrote them. Where a hash is met again, the ids themselves are read: nothing is left out because
hashes are equal, nor because an id was there that an erasure has taken out.
"""

import secrets
from collections.abc import Callable

import numpy as np
import polars as pl
import pyarrow as pa
from deltalake import DeltaTable
from numpy.typing import NDArray

from reco_ray.lake.files import files_of, read_columns

__all__ = ["Fresh", "StoredIds"]

Fresh = Callable[[pa.Table, DeltaTable], pa.Table]
"""Leaves out of a batch what the table, as it stands in the handle, holds already."""


class StoredIds:
    """The ids of one table.

    An id is unique within its date for as long as the lake keeps it; and across dates within those in memory, so that an event
    sent again with another time is found where its first time is recent.

    Args:
        column: of the ids.
        limit: ids in memory at 8 to 16 bytes each; above, the dates touched longest ago are forgotten, and read again when they
            are touched again. The dates of one batch are in memory together, however many.
    """

    def __init__(self, column: str, limit: int = 20_000_000) -> None:
        self._column, self._limit = column, limit
        self._seed = secrets.randbits(63)  # nobody can prepare ids whose hashes meet
        self._dates: dict[str, _Date] = {}  # touched last comes last

    def __len__(self) -> int:
        return sum(len(date) for date in self._dates.values())

    @property
    def dates(self) -> list[str]:
        """Those in memory; touched last comes last."""
        return list(self._dates)

    def fresh(self, rows: pa.Table, table: DeltaTable) -> pa.Table:
        """Return the rows whose ids are new, in order; of rows with one id the first.

        Args:
            rows: with ``date`` and the id column.
            table: handle whose files count as stored.
        Raises: FileNotFoundError: a file of the handle is gone; reload the handle.
        """
        frame = pl.DataFrame({"id": pl.Series(rows.column(self._column)), "date": pl.Series(rows.column("date"))})
        new = frame["id"].is_first_distinct().to_numpy()
        touched = frame["date"].unique().to_list()
        self._read(table, touched)
        hashes = self._hash(frame["id"])
        order = np.argsort(hashes)
        doubted, where = np.zeros(len(new), dtype=bool), []
        for date, known in self._dates.items():
            if (met := known.meets(hashes[order])).any():
                doubted[order] |= met
                where.append(date)
        if where:
            stored = self._stored(table, where, frame["id"].filter(pl.Series(doubted)))
            new &= ~frame["id"].is_in(stored.implode()).to_numpy()
        self._forget(len(touched))
        return rows if new.all() else rows.filter(pa.array(new))

    def _read(self, table: DeltaTable, dates: list[str]) -> None:
        """Bring these dates and those in memory up to the handle, and these to the end of the order."""
        for date, files in files_of(table, [*dates, *self._dates]).items():
            known = self._dates.get(date) or _Date()
            for path in files.keys() - known.files:
                known.add(self._hash(pl.Series(read_columns(table.table_uri, path, [self._column]).column(0))))
            known.files = set(files)
            self._dates[date] = known
        for date in sorted(dates):
            if date in self._dates:
                self._dates[date] = self._dates.pop(date)

    def _stored(self, table: DeltaTable, dates: list[str], asked: pl.Series) -> pl.Series:
        """Which of the ids the files of these dates hold."""
        found = [pl.Series([], dtype=pl.String)]
        for files in files_of(table, dates).values():
            for path in files:
                ids = pl.Series(read_columns(table.table_uri, path, [self._column]).column(0))
                found.append(ids.filter(ids.is_in(asked.implode())))
        return pl.concat(found)

    def _forget(self, touched: int) -> None:
        held = len(self)
        for date in list(self._dates)[: max(0, len(self._dates) - touched)]:
            if held <= self._limit:
                return
            held -= len(self._dates.pop(date))

    def _hash(self, ids: pl.Series) -> NDArray[np.uint64]:
        return ids.hash(self._seed).to_numpy()


class _Date:
    """Hashes of a date's ids, in sorted runs of falling length: an id is merged some ten times in its life."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self._runs: list[NDArray[np.uint64]] = []

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def add(self, hashes: NDArray[np.uint64]) -> None:
        merged = [hashes]
        while self._runs and len(self._runs[-1]) <= 2 * sum(map(len, merged)):
            merged.append(self._runs.pop())
        run = np.sort(np.concatenate(merged))  # numpy's unique takes ten times as long
        self._runs.append(run[np.concatenate(([True], run[1:] != run[:-1]))[: len(run)]])

    def meets(self, ordered: NDArray[np.uint64]) -> NDArray[np.bool_]:
        met = np.zeros(len(ordered), dtype=bool)
        for run in self._runs:
            if len(run):
                met |= run[np.minimum(np.searchsorted(run, ordered), len(run) - 1)] == ordered
        return met
