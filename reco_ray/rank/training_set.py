"""The table ``training_rank``: groups of one build, written in order of user bucket and read bucket by bucket.

A group is of one user, and so in one bucket: neither workers nor batches cut it.
"""

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import polars as pl
import pyarrow as pa

from reco_ray.errors import DataError
from reco_ray.features import Vocabulary
from reco_ray.hashing import USER_BUCKETS
from reco_ray.lake import tables

__all__ = ["TABLE", "Tally", "TrainingSet", "write_training_set"]

TABLE = "training_rank"
_ROWS = 500_000  # a batch of floats in a worker: 100 MB at 50 columns


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Where a training set lies, and how large it is.

    Attributes:
        snapshot: partition of the table. columns: names of the features, in order.
        vocabulary: of the context view, that the rows were made with.
        rows: all of them. groups, held_out_groups: with a positive, to learn from and held out.
    """

    root: str
    snapshot: str
    columns: tuple[str, ...]
    vocabulary: Vocabulary
    rows: int
    groups: int
    held_out_groups: int

    def read(self, held_out: bool | None, rank: int = 0, world: int = 1, useful: bool = True) -> Iterator[pl.DataFrame]:
        """Yield one worker's groups, whole and in order, in batches of half a million rows or one bucket.

        Args:
            held_out: which groups; all for None.
            useful: only groups with a positive; the others teach an order nothing.
        """
        mine = list(range(rank, USER_BUCKETS, world))
        step = max(1, USER_BUCKETS * _ROWS // max(self.rows, 1))
        for at in range(0, len(mine), step):
            of_bucket = pl.col("user_bucket").is_between(mine[at], mine[min(at + step, len(mine)) - 1])
            where = (pl.col("snapshot") == self.snapshot) & of_bucket
            if held_out is not None:
                where &= pl.col("held_out") == held_out
            if world > 1:
                where &= pl.col("user_bucket") % world == rank
            frame = _in_order(tables.read(self.root, TABLE, where=where))
            if useful:
                frame = frame.filter((pl.col("label") > 0).any().over("group_id"))
            if frame.height:
                yield frame


def _in_order(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows as they were written; they mostly stand so, and to move wide rows takes longer than to read them."""
    order = frame.select(pl.arg_sort_by("user_bucket", "user_id", "group_id", "place")).to_series()
    return frame if order.is_sorted() else frame[order]


@dataclass(slots=True)
class Tally:
    """Counts and hashes rows as they pass, in whichever batches they come."""

    rows: int = 0
    useful: dict[bool, set[str]] = field(default_factory=lambda: {False: set(), True: set()})
    _hashes: Mapping[str, "hashlib.blake2b"] = field(
        default_factory=lambda: {name: hashlib.blake2b(digest_size=8) for name in ("group_id", "item_id", "label", "features")}
    )

    def add(self, batch: pa.Table) -> None:
        """Take the next rows; ``useful`` are ids of groups with a positive, by whether they are held out."""
        frame = pl.DataFrame(batch)
        for held_out, found in self.useful.items():
            found.update(frame.filter(pl.col("label") > 0, held_out=held_out)["group_id"].unique())
        self.rows += frame.height
        for name in ("group_id", "item_id"):
            self._hashes[name].update("".join(f"{text}\n" for text in frame[name]).encode())
        self._hashes["label"].update(frame["label"].to_numpy().astype("<i4").tobytes())
        self._hashes["features"].update(frame["features"].explode().to_numpy().astype("<f4").tobytes())

    def content(self) -> str:
        """Hash of all rows in their order: 64 hexadecimal characters."""
        return "".join(each.hexdigest() for each in self._hashes.values())


def write_training_set(root: str, snapshot: str, batches: Iterator[pa.Table]) -> Tally:
    """Write the partition of a training set anew as its rows are made, in one commit.

    Args:
        batches: in order of user bucket, so that a reader of one bucket reads little else.
    Raises: DataError: there are no rows.
    """
    first = next(batches, None)
    if first is None:
        raise DataError("ranker: found no user with a history and later events, expected some; import more events")
    tally = Tally()
    column = pa.field("snapshot", pa.string())

    def passing() -> Iterator[pa.RecordBatch]:
        for batch in itertools.chain([first], batches):
            tally.add(batch)
            yield from batch.append_column(column, pa.repeat(snapshot, batch.num_rows)).to_batches()

    reader = pa.RecordBatchReader.from_batches(first.schema.append(column), passing())
    tables.replace(root, TABLE, reader, f"snapshot = '{snapshot}'")
    return tally
