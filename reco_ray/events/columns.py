"""The contract over columns: what `contract.admit` does to events one at a time, for a hundred thousand at once.

Rows that are plainly in order are found with expressions over whole columns; all others, whatever may be the matter with them,
go through `contract.admit`. So there is one contract, and the columns only know which events it need not look at.
"""

from datetime import UTC, datetime
from functools import reduce
from operator import and_

import numpy as np
import orjson
import polars as pl
import pyarrow as pa

from reco_ray.config import DateUnit
from reco_ray.events.bus import Record
from reco_ray.events.contract import Admitted, Limits, Refused, admit
from reco_ray.events.encoding import rows_to_table
from reco_ray.events.personal import MAYBE_PERSONAL, NEVER_PERSONAL_ID, maybe_personal
from reco_ray.events.versions import CURRENT, OLDEST, requires
from reco_ray.hashing import user_bucket
from reco_ray.lake.dates import date_column
from reco_ray.schema import EVENT_TYPES, EVENTS

__all__ = ["admit_table"]

_NOT_SENT = ("received_ts", "bus_position", "extra", "date", "user_bucket")
_FIELDS = tuple(name for name in EVENTS.names if name not in _NOT_SENT)
_LENGTHS = {"event_id": 128, "user_id": 256, "item_id": 256, "session_id": 256, "order_id": 256, "request_id": 128}
_RANGES = {
    "value": (-1e30, 1e30),
    "quantity": (1, 1_000_000),
    "price": (0, 1e12),
    "dwell_ms": (0, 86_400_000),
    "position": (1, 100_000),
}
_EARLIEST_US = -62_135_596_800_000_000  # the year 1
_LIMITS = Limits()
_EXTRA = 2_000  # characters; below the contract's limit however they are escaped


def admit_table(rows: pl.DataFrame, now_us: int, unit: DateUnit, limits: Limits = _LIMITS) -> tuple[pa.Table, list[Refused]]:
    """Decide on each row; returns the admitted ones in order, and those that are not.

    Args:
        rows: columns with the names of an event's fields are these fields, ``ts`` a time, ids texts; others are fields that the
            contract does not know. A null is a field that was not sent.
        now_us: our clock, microseconds since 1970.
    """
    plain = rows.with_columns(_plain(rows.schema, now_us, limits).fill_null(False).alias(""))[""].to_numpy()
    columns = _columns(rows.filter(plain), now_us, unit)
    doubtful = np.flatnonzero(~plain)
    if not doubtful.size:
        return columns, []
    decided = admit([_event(row) for row in rows[doubtful].iter_rows(named=True)], now_us, limits)
    admitted = np.fromiter((isinstance(each, Admitted) for each in decided), np.bool_, len(decided))
    looked_at = rows_to_table([Record(0, 0, each.value) for each in decided if isinstance(each, Admitted)], unit)
    at = EVENTS.get_field_index("bus_position")
    looked_at = looked_at.set_column(at, EVENTS.field(at), pa.nulls(looked_at.num_rows, pa.string()))
    order = np.argsort(np.concatenate([np.flatnonzero(plain), doubtful[admitted]]), kind="stable")
    return pa.concat_tables([columns, looked_at]).take(pa.array(order)), [e for e in decided if isinstance(e, Refused)]


def _plain(schema: pl.Schema, now_us: int, limits: Limits) -> pl.Expr:
    """Whether a row is admitted as it is, without a doubt."""
    unknown = [name for name in schema if name not in _FIELDS]
    if {"event_id", "user_id", "item_id", "type", "ts"} - set(schema) or maybe_personal("\n".join(unknown)):
        return pl.lit(False)
    known = {name: pl.col(name) for name in schema if name in _FIELDS}
    us = known["ts"].dt.epoch("us")
    tests = [known[name].is_not_null() for name in ("event_id", "user_id", "item_id")]
    tests += [known["type"].is_in(EVENT_TYPES), us.is_between(_EARLIEST_US, now_us + int(limits.max_future_s * 1e6))]
    tests += [_absent(known[name]) | _is_id(known[name], most) for name, most in _LENGTHS.items() if name in known]
    tests += [_absent(known[name]) | known[name].is_between(*ends) for name, ends in _RANGES.items() if name in known]
    tests += [_absent(known[name]) | known[name].str.contains("^[A-Z]{3}$") for name in ("currency",) if name in known]
    tests += [_absent(known[name]) for name in ("context",) if name in known]
    tests += [_version(schema).is_in([OLDEST, CURRENT]), *_has_what_it_needs(schema)]
    texts = [pl.col(name) for name in unknown if schema[name] == pl.String]
    tests += [_absent(text) | ~text.str.contains(MAYBE_PERSONAL) for text in texts]
    if texts:
        tests.append(pl.sum_horizontal(text.str.len_chars().fill_null(0) for text in texts) <= _EXTRA)
    floats = [pl.col(name) for name in unknown if schema[name].is_float()]
    tests += [_absent(number) | number.is_finite() for number in floats]
    tests += [_absent(pl.col(name)) for name in unknown if not _is_simple(schema[name])]
    return reduce(and_, tests)


def _absent(column: pl.Expr) -> pl.Expr:
    return column.is_null()


def _is_id(column: pl.Expr, most: int) -> pl.Expr:
    return column.str.len_chars().is_between(1, most) & column.str.contains(NEVER_PERSONAL_ID)


def _is_simple(dtype: pl.DataType) -> bool:
    return dtype == pl.String or dtype == pl.Boolean or dtype.is_integer() or dtype.is_float()


def _version(schema: pl.Schema) -> pl.Expr:
    return pl.col("schema_version").fill_null(OLDEST) if "schema_version" in schema else pl.lit(OLDEST)


def _has_what_it_needs(schema: pl.Schema) -> list[pl.Expr]:
    tests = []
    for event_type in EVENT_TYPES:
        for version in (OLDEST, CURRENT):
            there = [pl.col(name).is_not_null() if name in schema else pl.lit(False) for name in requires(event_type, version)]
            if there:
                tests.append((pl.col("type") != event_type) | (_version(schema) != version) | reduce(and_, there))
    return tests


def _columns(rows: pl.DataFrame, now_us: int, unit: DateUnit) -> pa.Table:
    """Turn plain rows into rows of `schema.EVENTS`."""
    if rows.is_empty():
        return EVENTS.empty_table()
    users = rows["user_id"].unique()
    buckets = pl.Series([user_bucket(user) for user in users], dtype=pl.Int32)
    consent = pl.col("consent").fill_null(True) if "consent" in rows.columns else pl.lit(True)
    made = rows.select(
        *(name for name in rows.columns if name in _FIELDS and name not in ("schema_version", "consent", "context", "ts")),
        _version(rows.schema).alias("schema_version"),
        consent.alias("consent"),
        pl.col("ts").cast(pl.Datetime("us", "UTC")),
        pl.lit(now_us).cast(pl.Datetime("us")).dt.replace_time_zone("UTC").alias("received_ts"),
        pl.Series("extra", _extra(rows), pl.String),
        pl.col("user_id").replace_strict(users, buckets, return_dtype=pl.Int32).alias("user_bucket"),
    ).with_columns(date_column(pl.col("ts"), unit).alias("date"))
    found = made.to_arrow()
    columns = [
        found.column(field.name).cast(field.type) if field.name in found.column_names else pa.nulls(len(found), field.type)
        for field in EVENTS
    ]
    return pa.table(columns, schema=EVENTS)


def _extra(rows: pl.DataFrame) -> list[str | None]:
    unknown = [name for name in rows.columns if name not in _FIELDS]
    if not unknown:
        return [None] * rows.height
    return [_json(row) for row in rows.select(unknown).iter_rows(named=True)]


def _json(row: dict[str, object]) -> str | None:
    there = {name: value for name, value in row.items() if value is not None}
    return orjson.dumps(there, option=orjson.OPT_SORT_KEYS).decode() if there else None


def _event(row: dict[str, object]) -> dict[str, object]:
    """A row as an application would send it."""
    event = {name: value for name, value in row.items() if value is not None}
    if isinstance(ts := event.get("ts"), datetime):
        since = ts.astimezone(UTC) - datetime.fromtimestamp(0, UTC)
        event["ts"] = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    return event
