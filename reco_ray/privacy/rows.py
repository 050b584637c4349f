"""Rows of users in Parquet files: counted, and left out of a new file."""

from collections import Counter
from collections.abc import Collection

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
    column = storage.read_parquet(uri, [USER_COLUMN]).column(USER_COLUMN)
    found = column.filter(pc.is_in(column.cast(pa.string()), value_set=pa.array(list(user_ids), pa.string())))
    return Counter(str(user_id) for user_id in found.to_pylist())


def without_users(uri: str, user_ids: Collection[str]) -> pa.Table:
    """Read a file without the users' rows; the others are as they were, in their order."""
    table = storage.read_parquet(uri)
    theirs = pc.is_in(table.column(USER_COLUMN).cast(pa.string()), value_set=pa.array(list(user_ids), pa.string()))
    return table.filter(pc.invert(theirs))
