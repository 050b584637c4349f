"""Delta tables under ``root/lake``: replace, read; `appending` adds to them.

Deletion vectors and column mapping stay off, and ids get no statistics (design, section 4). A writer's memory is Delta's own
application transaction: a batch that was committed is not committed again.
"""

import hashlib
from collections.abc import Sequence

import polars as pl
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake

from reco_ray.errors import DataError
from reco_ray.lake import storage

__all__ = [
    "content_hash",
    "exists",
    "has_partition",
    "partitions",
    "read",
    "remembered",
    "replace",
    "require",
    "rows",
    "statistics_property",
    "table_uri",
    "version",
]

_PARTITIONS = {
    "events": ["date"],
    "exposures": ["date"],
    "dead_letters": ["date"],
    "feedback": ["date"],
    "features_users": ["snapshot"],
    "features_items": ["snapshot"],
    "features_pairs": ["snapshot"],
    "labels": ["part"],
    "training_rank": ["snapshot"],
}
_ROW_GROUPS = {"training_rank": 50_000}
"""Rows that are read as one, where a reader wants few of many wide rows; Parquet's million otherwise."""
_STATISTICS = {
    "events": "ts,user_bucket",
    "exposures": "ts,user_bucket",
    "dead_letters": "ts,user_bucket",
    "feedback": "ts,user_bucket",
    "features_users": "as_of",
    "training_rank": "user_bucket",
    "users": "user_bucket",
    "items": "updated_ts",
}


def table_uri(root: str, name: str) -> str:
    """Where a table lies."""
    return storage.join(root, "lake", name)


def require(root: str) -> None:
    """Pass where a root has a lake.

    Raises: DataError: it has none, so that it is another root than was meant.
    """
    if not storage.exists(storage.join(root, "lake")):
        raise DataError(f"root={root}: found no lake, expected the root of a system that is in use; check the path")


def exists(root: str, name: str) -> bool:
    """Whether the table was ever written."""
    return bool(DeltaTable.is_deltatable(table_uri(root, name)))


def version(root: str, name: str) -> int:
    """Version of the table's last commit; -1 when there is no table."""
    return DeltaTable(table_uri(root, name)).version() if exists(root, name) else -1


def rows(root: str, name: str) -> tuple[int, int]:
    """Rows of a table by the word of its log, and the version that this is of.

    Raises: DataError: there is no table.
    """
    if not exists(root, name):
        raise _absent(root, name)
    table = DeltaTable(table_uri(root, name))
    counts = pa.table(table.get_add_actions(flatten=True)).column("num_records")
    return sum(n or 0 for n in counts.to_pylist()), table.version()


def has_partition(root: str, name: str, prefix: str) -> bool:
    """Whether a table holds a partition whose value starts with ``prefix``, and its files are there."""
    if not exists(root, name):
        return False
    (column,) = _PARTITIONS[name]
    uris = [uri for uri in DeltaTable(table_uri(root, name)).file_uris() if f"{column}={prefix}" in uri]
    return bool(uris) and all(storage.exists(uri) for uri in uris)


def read(
    root: str, name: str, columns: Sequence[str] | None = None, where: pl.Expr | None = None, at: int | None = None
) -> pl.DataFrame:
    """Read a table, or the columns and rows asked for.

    Args:
        at: version of the table; the newest by default.

    Raises: DataError: there is no table.
    """
    if not exists(root, name):
        raise _absent(root, name)
    frame = pl.scan_delta(table_uri(root, name), version=at)
    if where is not None:
        frame = frame.filter(where)
    return frame.select(columns or pl.all()).collect()


def replace(
    root: str,
    name: str,
    data: pa.Table | pa.RecordBatchReader,
    predicate: str | None = None,
    transaction: Transaction | None = None,
) -> int:
    """Write a table anew, or the rows that match ``predicate``, in one commit; returns the version.

    Columns that a table has not yet are added to it, and are null in the rows that stay.

    Args:
        transaction: what the table remembers of the writer, see `remembered`.
    """
    there = exists(root, name)
    write_deltalake(
        table_uri(root, name),
        data,
        mode="overwrite",
        predicate=predicate if there else None,
        schema_mode="merge" if there and predicate else "overwrite",
        partition_by=None if there else _PARTITIONS.get(name),
        configuration=statistics_property(name),
        writer_properties=WriterProperties(max_row_group_size=_ROW_GROUPS.get(name)),
        commit_properties=CommitProperties(app_transactions=[transaction]) if transaction else None,
    )
    return version(root, name)


def partitions(root: str, name: str) -> list[str]:
    """Values of a table's one partition column, sorted; none when there is no table."""
    (column,) = _PARTITIONS[name]
    return sorted({each[column] for each in DeltaTable(table_uri(root, name)).partitions()}) if exists(root, name) else []


def remembered(root: str, name: str, writer: str) -> int:
    """Number that a table remembers of a writer; -1 when there is none."""
    found = DeltaTable(table_uri(root, name)).transaction_version(writer) if exists(root, name) else None
    return -1 if found is None else int(found)


def content_hash(frame: pl.DataFrame, by: Sequence[str]) -> str:
    """Hash a table's content, whatever files it lies in and in whichever order: 16 hexadecimal characters.

    Args:
        by: columns that make a row unique; rows are sorted by them first. Empty where their order is fixed already.
    """
    table = (frame.sort(by) if by else frame).to_arrow().combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return hashlib.blake2b(sink.getvalue(), digest_size=8).hexdigest()


def statistics_property(name: str) -> dict[str, str | None]:
    """The table property that keeps the least and the greatest ids out of the log: erasure could not remove them from there."""
    return {"delta.dataSkippingStatsColumns": _STATISTICS.get(name, "")}


def _absent(root: str, name: str) -> DataError:
    return DataError(f"table {name!r} under {root}: found nothing, expected a Delta table; run the job before")
