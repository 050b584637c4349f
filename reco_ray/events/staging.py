"""The middle of an import: what was admitted lies in files that no table names, until every row has been decided on.

Blocks of the source are admitted by many tasks, in any order. Then the rows are read back date by date, so that the lake gets
few large sorted files, an import that is refused has written nothing to it, and memory holds one batch however long the source.
"""

import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import orjson
import polars as pl
import pyarrow as pa

from reco_ray.config import ColumnsConfig, DateUnit, SourceConfig
from reco_ray.errors import DataError
from reco_ray.events.columns import admit_table
from reco_ray.events.contract import Limits
from reco_ray.events.letters import letters_table
from reco_ray.events.versions import CURRENT, OLDEST
from reco_ray.hashing import USER_BUCKETS
from reco_ray.lake import sources, storage
from reco_ray.schema import DEAD_LETTERS, EVENTS

__all__ = ["Admission", "Staged", "batches", "letters"]

_DETAILS = ("order_id", "quantity", "price", "currency")
_LAST = USER_BUCKETS - 1


@dataclass(frozen=True, slots=True)
class Admission:
    """How rows of a source are decided on.

    Attributes:
        columns: names in its rows. folder: where the files go. now_us: when the import began, microseconds since 1970.
    """

    where: str
    source: SourceConfig
    columns: ColumnsConfig
    seed: int
    unit: DateUnit
    limits: Limits
    now_us: int
    folder: str

    def decide(self, raw: pl.DataFrame) -> pa.Table:
        """Admit rows and stage them; returns one row that says what became of them, as `Staged` reads it."""
        rows = sources.map_events(raw, self.source, self.columns, self.seed, self.where)
        version = CURRENT if all(getattr(self.columns, name) for name in _DETAILS) else OLDEST
        admitted, refused = admit_table(rows.with_columns(schema_version=pl.lit(version)), self.now_us, self.unit, self.limits)
        refused_rows = letters_table(refused, self.where, self.now_us)
        found = {
            "rows": admitted.num_rows,
            "files": [self._write("events", admitted)] if admitted.num_rows else [],
            "letters": [self._write("letters", refused_rows)] if refused else [],
            "refusals": Counter(f"{each.reason}: {each.detail}" for each in refused).most_common(20),
            "refused": len(refused),
        }
        return pa.table({"found": [orjson.dumps(found)]})

    def _write(self, kind: str, rows: pa.Table) -> str:
        path = storage.join(self.folder, f"{kind}-{uuid.uuid4().hex}.parquet")
        storage.write_parquet(path, rows, compression="zstd")
        return path


@dataclass(frozen=True, slots=True)
class Staged:
    """What was staged. ``why``: the most frequent reasons of refusals, with their numbers."""

    rows: int
    refused: int
    files: tuple[str, ...]
    letters: tuple[str, ...]
    why: tuple[tuple[str, int], ...]

    @classmethod
    def collect(cls, blocks: Sequence[pa.Table]) -> "Staged":
        """Add up what tasks have returned."""
        found = [orjson.loads(row) for block in blocks for row in block.column("found").to_pylist()]
        why: Counter[str] = Counter()
        for each in found:
            why.update(dict(each["refusals"]))
        return cls(
            rows=sum(each["rows"] for each in found),
            refused=sum(each["refused"] for each in found),
            files=tuple(path for each in found for path in each["files"]),
            letters=tuple(path for each in found for path in each["letters"]),
            why=tuple(why.most_common(3)),
        )

    def check(self, where: str, share: float) -> None:
        """Stop an import of nothing, or one of which too much was refused.

        Raises: DataError
        """
        read = self.rows + self.refused
        if not read:
            raise DataError(f"{where}: found no rows, expected events; check the file")
        if self.refused > share * read:
            reasons = "; ".join(f"{why} ({n:,} times)" for why, n in self.why)
            raise DataError(
                f"{where}: found {self.refused:,} of {read:,} rows that are no events, expected at most {share:.1%} "
                f"(source.refused_share); nothing was written. {reasons}. Fix or drop these rows, or map other columns"
            )


def batches(staged: Staged, most: int, own_ids: bool) -> Iterator[pa.Table]:
    """Read staged rows back, `schema.EVENTS`, about ``most`` at a time: whole dates, or parts of the users of a long one.

    Args:
        own_ids: whether ids come from the source; else equal rows are numbered, all of which are in one batch.
    """
    if not staged.files:
        return
    rows = pl.scan_parquet(list(staged.files))
    cells = rows.group_by("date", "user_bucket").len().collect().sort("date", "user_bucket")
    for dates, low, high in _cuts(cells, most):
        part = rows.filter(pl.col("date").is_in(dates) & pl.col("user_bucket").is_between(low, high)).collect()
        yield (part if own_ids else sources.number_repeats(part)).to_arrow().cast(EVENTS)


def letters(staged: Staged) -> pa.Table:
    """Read the dead letters back."""
    return pa.concat_tables([DEAD_LETTERS.empty_table(), *(storage.read_parquet(path) for path in staged.letters)])


def _cuts(cells: pl.DataFrame, most: int) -> Iterator[tuple[list[str], int, int]]:
    """Dates, first and last bucket of each batch.

    Args:
        cells: columns date, user_bucket, len, sorted.
    """
    dates: list[str] = []
    held = 0
    for date, group in groupby(cells.iter_rows(), key=lambda cell: cell[0]):
        buckets = [(bucket, n) for _, bucket, n in group]
        rows = sum(n for _, n in buckets)
        if dates and held + rows > most:
            yield dates, 0, _LAST
            dates, held = [], 0
        if rows <= most:
            dates, held = [*dates, date], held + rows
            continue
        low, part = buckets[0][0], 0
        for bucket, n in buckets:
            if part and part + n > most:
                yield [date], low, bucket - 1
                low, part = bucket, 0
            part += n
        yield [date], low, _LAST
    if dates:
        yield dates, 0, _LAST
