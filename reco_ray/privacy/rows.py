"""Rows of users in Parquet files: counted, and left out of a new file."""

from collections import Counter
from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reco_ray.lake import storage

__all__ = ["USER_COLUMN", "count_users", "without_users"]

USER_COLUMN = "user_id"


def count_users(uri: str, user_ids: Collection[str]) -> Counter[str]:
    """Count the rows of each of the users in a file; none when it has no column of users.

    Raises: pa.ArrowInvalid: the file is no Parquet file, or an unfinished one. FileNotFoundError: it is gone.
    """
    if USER_COLUMN not in storage.parquet_columns(uri):
        return Counter()
    column = _users(storage.read_parquet(uri, [USER_COLUMN]))
    return Counter(map(str, column.filter(_among(column, user_ids)).to_pylist()))


def without_users(uri: str, user_ids: Collection[str]) -> pa.Table:
    """Read a file without the users' rows; the others are as they were, in their order."""
    table = storage.read_parquet(uri)
    theirs = np.flatnonzero(_among(_users(table), user_ids).to_numpy())
    starts, ends = [0, *(theirs + 1)], [*theirs, table.num_rows]
    # slices, as Arrow cannot filter every type that a file may have: strings as delta-rs rewrites them, for one
    runs = [table.slice(start, end - start) for start, end in zip(starts, ends, strict=True) if end > start]
    return pa.concat_tables(runs or [table.slice(0, 0)])


def _users(table: pa.Table) -> pa.ChunkedArray:
    return table.column(USER_COLUMN).cast(pa.string())


def _among(column: pa.ChunkedArray, user_ids: Collection[str]) -> pa.ChunkedArray:
    return pc.is_in(column, value_set=pa.array(list(user_ids), pa.string()))
