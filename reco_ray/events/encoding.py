"""Events as the bus carries them, and as rows of the lake.

On the bus an event is JSON with the columns of `schema.EVENTS`, less those that follow from where it is read, and
``received_us``.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import orjson
import polars as pl
import pyarrow as pa

from reco_ray.config import DateUnit
from reco_ray.errors import DataError
from reco_ray.events.bus import Record
from reco_ray.hashing import user_bucket
from reco_ray.lake.dates import date_column
from reco_ray.schema import EVENTS

__all__ = ["decode", "encode", "rows_to_table"]

_DERIVED = ("received_ts", "bus_position", "date", "user_bucket")
_COLUMNS = tuple(name for name in EVENTS.names if name not in _DERIVED)
_REQUIRED = ("received_us", *(name for name in _COLUMNS if not EVENTS.field(name).nullable))
_FRAME = pl.Schema(
    {name: dtype for name, dtype in pl.DataFrame(EVENTS.empty_table()).schema.items() if name in _COLUMNS}
    | {"ts": pl.Int64(), "received_us": pl.Int64()}
)


def encode(row: Mapping[str, object]) -> bytes:
    """Encode the fields of one event; ``ts`` and ``received_us`` are microseconds since 1970."""
    return orjson.dumps(row)


def decode(value: bytes) -> dict[str, object]:
    """Read what `encode` wrote.

    Raises: DataError: it is something else.
    """
    try:
        found = orjson.loads(value)
    except orjson.JSONDecodeError as exc:
        raise DataError(f"a record of the bus: found {len(value)} bytes that are no JSON, expected an event") from exc
    if not isinstance(found, dict) or "event_id" not in found:
        raise DataError("a record of the bus: found JSON without an event_id, expected an event")
    return found


def rows_to_table(records: Sequence[Record], unit: DateUnit) -> pa.Table:
    """Turn records into rows of `schema.EVENTS`, in order; 5 us a record.

    Raises: DataError: a record is no event; `decode` says which.
    """
    rows = b"\n".join(record.value for record in records)
    try:
        frame = pl.read_ndjson(rows, schema=_FRAME) if records else pl.DataFrame(schema=_FRAME)
    except pl.exceptions.PolarsError as exc:
        raise DataError(f"records of the bus: found one that is no event: {exc}") from exc
    if frame.height != len(records):
        raise DataError(f"records of the bus: found {frame.height} rows in {len(records)} records, expected one in each")
    if lacking := [name for name in _REQUIRED if frame[name].null_count()]:
        raise DataError(f"records of the bus: found one without {', '.join(lacking)}, expected an event")
    users = frame["user_id"].unique()
    buckets = np.fromiter((user_bucket(user) for user in users), np.int32, len(users))
    positions = np.fromiter((record.position for record in records), np.int64, len(records))
    made = frame.with_columns(
        pl.col("ts").cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
        pl.col("received_us").cast(pl.Datetime("us")).dt.replace_time_zone("UTC").alias("received_ts"),
        pl.Series("bus_position", positions).cast(pl.String),
        pl.col("user_id").replace_strict(users, pl.Series(buckets), return_dtype=pl.Int32).alias("user_bucket"),
    ).with_columns(date_column(pl.col("ts"), unit).alias("date"))
    return made.select(EVENTS.names).to_arrow().cast(EVENTS)
