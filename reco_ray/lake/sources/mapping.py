"""From people's columns to the fields of an event, and to rows of `schema.ITEMS` and `schema.USERS`. Pure."""

from datetime import UTC, datetime

import polars as pl
import pyarrow as pa

from reco_ray.config import ColumnsConfig, SourceConfig
from reco_ray.errors import SchemaError
from reco_ray.hashing import user_bucket
from reco_ray.lake.sources.identity import content_ids, permuted
from reco_ray.schema import EVENTS, ITEMS, USERS, check

__all__ = ["bare_items", "bare_users", "map_events", "map_items", "map_users"]

_UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_FIELDS = frozenset(EVENTS.names) - {"received_ts", "bus_position", "extra", "date", "user_bucket"}
_NUMBERS = {"value": pl.Float64, "quantity": pl.Int64, "price": pl.Float64, "dwell_ms": pl.Int64, "position": pl.Int64}
_TEXTS = ("type", "event_id", "session_id", "order_id", "currency", "request_id")
_MOST_PRICE = 1e12
_YES = ("true", "t", "yes", "y", "1")
_EPOCH = datetime.fromtimestamp(0, UTC)


def map_events(raw: pl.DataFrame, source: SourceConfig, columns: ColumnsConfig, seed: int, where: str) -> pl.DataFrame:
    """Give columns the names and types of an event's fields; other columns stay as they are, for ``extra``.

    A time or number that cannot be read becomes null, and its text is kept beside it as ``<field>_``, as is a column that has
    the name of a field and is not mapped to it. Consent that cannot be read is none. Without ids of their own events get ids
    from their content (`identity`).

    Args:
        raw: rows with the columns that ``columns`` names.
        where: names the data in errors.
    Raises: SchemaError: a mapped column is missing.
    """
    optional = {name: found for name in (*_TEXTS, *_NUMBERS, "consent") if (found := getattr(columns, name))}
    named = {"user_id": columns.user_id, "item_id": columns.item_id, "ts": columns.ts, **optional}
    _require(raw, named, where)
    expressions = {
        "user_id": permuted(pl.col(columns.user_id), "user", source, seed),
        "item_id": permuted(pl.col(columns.item_id), "item", source, seed),
        "ts": _time(raw.schema[columns.ts], columns.ts, source.ts_unit),
        "type": pl.lit(source.event_type),
        **{name: pl.col(found).cast(pl.String) for name, found in optional.items() if name in _TEXTS},
        **{name: _number(raw.schema[found], found, _NUMBERS[name]) for name, found in optional.items() if name in _NUMBERS},
    }
    if columns.order_id:
        expressions["order_id"] = permuted(pl.col(columns.order_id), "order", source, seed)
    if columns.consent:
        text = pl.col(columns.consent).cast(pl.String).str.strip_chars().str.to_lowercase()
        expressions["consent"] = text.is_in(_YES).fill_null(False)
    rest = {name: f"{name}_" if name in _FIELDS else name for name in raw.columns if name not in named.values()}
    frame = raw.select(
        *(expression.alias(name) for name, expression in expressions.items()),
        *(pl.col(old).alias(new) for old, new in rest.items()),
    )
    if not columns.event_id:
        frame = frame.with_columns(content_ids(frame))
    for name in ("ts", *(set(optional) & set(_NUMBERS))):
        unread = frame[name].is_null() & raw[named[name]].is_not_null()
        if unread.any():
            frame = frame.with_columns(pl.when(unread).then(raw[named[name]].cast(pl.String)).alias(f"{name}_"))
    return frame


def map_items(raw: pl.DataFrame, source: SourceConfig, names: ColumnsConfig, seed: int, where: str) -> pa.Table:
    """Map raw rows to `schema.ITEMS`; the last row of an id wins. A column ``available`` of booleans is taken as it is.

    An empty price is unknown.

    Raises: SchemaError: the id column is missing, or another that was named, or a price is none.
    """
    _require(raw, {"item_id": names.item_id, **_named(names)}, f"{where}, the items of these")

    def column(name: str, kind: pl.DataType | type[pl.DataType]) -> pl.Expr:
        return pl.col(name).cast(kind, strict=False) if name and name in raw.columns else pl.lit(None, kind)

    categories = column(names.categories, pl.String).str.split(source.category_separator)
    if names.categories in raw.columns and raw.schema[names.categories] == pl.List(pl.String):
        categories = pl.col(names.categories)
    available = pl.col("available").fill_null(True) if raw.schema.get("available") == pl.Boolean else pl.lit(True)
    raw = raw.unique(names.item_id, keep="last", maintain_order=True)
    frame = raw.select(
        permuted(pl.col(names.item_id), "item", source, seed).alias("item_id"),
        column(names.title, pl.String).alias("title"),
        categories.alias("categories"),
        column(names.year, pl.Int32).alias("year"),
        column(names.text, pl.String).alias("text"),
        available.alias("available"),
        _prices(raw, names, where),
        pl.lit(_EPOCH).cast(pl.Datetime("us", "UTC")).alias("updated_ts"),
    )
    return check(frame.sort("item_id").to_arrow(), ITEMS, where)


def _named(names: ColumnsConfig) -> dict[str, str]:
    """The items' columns that somebody gave a name of their own: these must be there."""
    usual = ColumnsConfig()
    given = {key: getattr(names, key) for key in ("title", "categories", "year", "text", "item_price")}
    return {key: name for key, name in given.items() if name and name != getattr(usual, key)}


def map_users(raw: pl.DataFrame, source: SourceConfig, names: ColumnsConfig, seed: int, where: str) -> pa.Table:
    """Map raw rows to `schema.USERS`: every column but the id is an attribute; the last row of an id wins.

    Raises: SchemaError: the id column is missing.
    """
    _require(raw, {"user_id": names.user_id}, where)
    raw = raw.unique(names.user_id, keep="last", maintain_order=True)
    ids = raw.select(permuted(pl.col(names.user_id), "user", source, seed).alias("user_id"))["user_id"]
    rows = raw.drop(names.user_id).cast(pl.String).iter_rows(named=True)
    attributes = [[(name, value) for name, value in row.items() if value is not None] for row in rows]
    return _users(ids.to_list(), attributes)


def bare_items(item_ids: list[str]) -> pa.Table:
    """Rows of `schema.ITEMS` for ids that were met in events and never described."""
    columns = {"item_id": item_ids, "available": [True] * len(item_ids), "updated_ts": [_EPOCH] * len(item_ids)}
    return check(pa.table(columns), ITEMS, "items")


def bare_users(user_ids: list[str]) -> pa.Table:
    """Rows of `schema.USERS` for ids without attributes."""
    return _users(user_ids, [None] * len(user_ids))


def _users(ids: list[str], attributes: list[list[tuple[str, str]]] | list[None]) -> pa.Table:
    columns = {
        "user_id": pa.array(ids, pa.string()),
        "attributes": pa.array(attributes, USERS.field("attributes").type),
        "user_bucket": pa.array(map(user_bucket, ids), pa.int32()),
        "updated_ts": pa.array([_EPOCH] * len(ids), USERS.field("updated_ts").type),
    }
    return check(pa.table(columns).sort_by("user_id"), USERS, "users")


def _require(raw: pl.DataFrame, wanted: dict[str, str], where: str) -> None:
    missing = {k: v for k, v in wanted.items() if v not in raw.columns}
    if missing:
        key, name = next(iter(missing.items()))
        raise SchemaError(
            f"{where}: found columns {raw.columns}, expected {name!r} for {key}; name yours with source.columns.{key}=COLUMN"
        )


def _prices(raw: pl.DataFrame, names: ColumnsConfig, where: str) -> pl.Series:
    if not names.item_price or names.item_price not in raw.columns:
        return pl.Series("price", [None] * raw.height, pl.Float64)
    said = raw[names.item_price].cast(pl.String).str.strip_chars()
    prices = said.cast(pl.Float64, strict=False)
    unknown = said.is_null() | (said == "") | prices.is_nan().fill_null(False)
    wrong = ~unknown & ~prices.is_between(0, _MOST_PRICE).fill_null(False)
    if n := int(wrong.sum()):
        text, item_id = said.filter(wrong)[0], raw.filter(wrong)[names.item_id][0]
        raise SchemaError(
            f"{where}: the items' column {names.item_price!r}: found {n} values that are no price, first {text!r} "
            f"of item {item_id!r}, expected numbers from 0 to {_MOST_PRICE:g} or nothing; mend them, "
            "or go without: source.columns.item_price="
        )
    return prices.fill_nan(None).alias("price")


def _time(kind: pl.DataType, name: str, unit: str) -> pl.Expr:
    column = pl.col(name)
    if kind.is_numeric():
        return (column.cast(pl.Float64) * _UNITS[unit]).cast(pl.Int64, strict=False).cast(pl.Datetime("us", "UTC"))
    if kind == pl.String:
        return column.str.to_datetime(time_unit="us", time_zone="UTC", strict=False)
    return column.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def _number(kind: pl.DataType, name: str, wanted: type[pl.DataType]) -> pl.Expr:
    if kind.is_integer():
        return pl.col(name).cast(wanted, strict=False)
    number = pl.col(name).cast(pl.Float64, strict=False).fill_nan(None)
    if wanted is pl.Float64:
        return number
    return pl.when(number == number.floor()).then(number).cast(wanted, strict=False)  # 2.0 is a quantity, 2.5 is none
