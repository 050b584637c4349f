"""Every column name and table schema, spelled once.

Times are UTC microseconds. Ids are strings. A table is checked with `check` where it enters or leaves a room.
"""

import pyarrow as pa

from reco_ray.errors import SchemaError

__all__ = [
    "DEAD_LETTERS",
    "EVENTS",
    "EVENT_TYPES",
    "EXPOSURES",
    "FEEDBACK",
    "ITEMS",
    "LABELS",
    "SLATES",
    "TS",
    "USERS",
    "check",
]

TS = pa.timestamp("us", tz="UTC")

EVENT_TYPES = ("impression", "click", "view", "add_to_cart", "purchase", "refund", "rating", "like", "dismiss")

_CONTEXT = pa.struct([("device", pa.string()), ("locale", pa.string()), ("surface", pa.string()), ("location", pa.string())])

EVENTS = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("schema_version", pa.string(), nullable=False),
        pa.field("received_ts", TS, nullable=False),
        pa.field("bus_position", pa.string()),
        pa.field("type", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("ts", TS, nullable=False),
        pa.field("value", pa.float32()),
        pa.field("order_id", pa.string()),
        pa.field("quantity", pa.int32()),
        pa.field("price", pa.float64()),  # of one unit
        pa.field("currency", pa.string()),  # ISO 4217
        pa.field("dwell_ms", pa.int64()),
        pa.field("session_id", pa.string()),
        pa.field("request_id", pa.string()),
        pa.field("position", pa.int32()),
        pa.field("context", _CONTEXT),
        pa.field("consent", pa.bool_(), nullable=False),
        pa.field("extra", pa.string()),
        pa.field("date", pa.string(), nullable=False),
        pa.field("user_bucket", pa.int32(), nullable=False),
    ]
)

# An event that an import refused. What the gateway refuses stays on the bus (`events.dead_letters`).
DEAD_LETTERS = pa.schema(
    [
        pa.field("letter_id", pa.string(), nullable=False),  # the same event refused twice is one letter
        pa.field("ts", TS, nullable=False),  # when it was refused
        pa.field("source", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("raw", pa.string(), nullable=False),  # JSON, without personal data where that was the reason
        pa.field("user_id", pa.string(), nullable=False),  # empty where none could be read
        pa.field("date", pa.string(), nullable=False),
        pa.field("user_bucket", pa.int32(), nullable=False),
    ]
)

# One decision of the gateway; slots are parallel lists, the first place first. Immutable: outcomes are FEEDBACK.
EXPOSURES = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("received_ts", TS, nullable=False),
        pa.field("bus_position", pa.string()),
        pa.field("call", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),  # empty for anonymous requests and without consent
        pa.field("ts", TS, nullable=False),
        pa.field("surface", pa.string()),
        pa.field("context", _CONTEXT),
        pa.field("consent", pa.bool_(), nullable=False),
        pa.field("release", pa.string(), nullable=False),
        pa.field("variant", pa.string(), nullable=False),
        pa.field("experiment", pa.string()),
        pa.field("rung", pa.string(), nullable=False),
        pa.field("degraded", pa.list_(pa.string()), nullable=False),
        pa.field("draw_id", pa.string(), nullable=False),  # the request that the slate was made for; a cached slate keeps it
        pa.field("age_s", pa.float32(), nullable=False),
        pa.field("item_ids", pa.list_(pa.string()), nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
        pa.field("propensities", pa.list_(pa.float32()), nullable=False),  # null where the rung was deterministic
        pa.field("sources", pa.list_(pa.list_(pa.string())), nullable=False),
        pa.field("rules", pa.list_(pa.list_(pa.string())), nullable=False),
        pa.field("rules_version", pa.int32()),  # of the rules in force; null where there were none
        pa.field("first_position", pa.int32()),  # of the first item; null means 1, more is a later page
        pa.field("ranker", pa.string()),  # whose scores they are; null where recall's order stood
        pa.field("circumstances", pa.list_(pa.float32())),  # of `rerank.bandit`, where a place was drawn from a source
        pa.field("user_view", pa.string()),
        pa.field("user_row", pa.binary()),  # packed as in the online store, for a share of the decisions
        pa.field("timings", pa.map_(pa.string(), pa.float32()), nullable=False),  # ms per stage
        pa.field("date", pa.string(), nullable=False),
        pa.field("user_bucket", pa.int32(), nullable=False),
    ]
)

# One slot of a decision with what followed it.
FEEDBACK = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("ts", TS, nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),  # 1 is the first place
        pa.field("score", pa.float32()),
        pa.field("propensity", pa.float32()),
        pa.field("surface", pa.string()),
        pa.field("release", pa.string(), nullable=False),
        pa.field("variant", pa.string(), nullable=False),
        pa.field("experiment", pa.string()),
        pa.field("rung", pa.string(), nullable=False),
        pa.field("draw_id", pa.string(), nullable=False),
        pa.field("impressions", pa.int32(), nullable=False),
        pa.field("clicks", pa.int32(), nullable=False),
        pa.field("purchases", pa.int32(), nullable=False),  # orders that hold the item, refunds taken off
        pa.field("order_ids", pa.list_(pa.string()), nullable=False),  # of these purchases
        pa.field("revenue", pa.float64(), nullable=False),
        pa.field("currency", pa.string()),
        pa.field("dwell_ms", pa.int64()),
        pa.field("delay_s", pa.float32()),  # until the strongest event; null where none followed
        pa.field("grade", pa.float32(), nullable=False),
        pa.field("consent", pa.bool_(), nullable=False),
        pa.field("date", pa.string(), nullable=False),
        pa.field("user_bucket", pa.int32(), nullable=False),
    ]
)

ITEMS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("categories", pa.list_(pa.string())),
        pa.field("year", pa.int32()),
        pa.field("text", pa.string()),
        pa.field("available", pa.bool_(), nullable=False),
        pa.field("price", pa.float64()),  # of one unit, all in one currency
        pa.field("updated_ts", TS, nullable=False),
    ]
)

USERS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("attributes", pa.map_(pa.string(), pa.string())),
        pa.field("user_bucket", pa.int32(), nullable=False),
        pa.field("updated_ts", TS, nullable=False),
    ]
)

LABELS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_ids", pa.list_(pa.string()), nullable=False),
        pa.field("grades", pa.list_(pa.float32()), nullable=False),
        pa.field("ts", TS, nullable=False),  # of the first event among them
        pa.field("context", _CONTEXT),  # of that event
    ]
)

SLATES = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_ids", pa.list_(pa.string()), nullable=False),
        pa.field("titles", pa.list_(pa.string()), nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
        pa.field("reasons", pa.list_(pa.list_(pa.string())), nullable=False),
        pa.field("degraded", pa.list_(pa.string()), nullable=False),
        pa.field("release", pa.string(), nullable=False),
        pa.field("made_ts", TS, nullable=False),
    ]
)


def check(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """Return ``table`` with the columns of ``schema`` in order, cast where that loses nothing.

    Args:
        where: names the table in the error, e.g. ``"events at /data/x.csv"``.
    Raises: SchemaError: a column is missing, has another type, or holds nulls where none may be.
    """
    missing = [name for name in schema.names if name not in table.column_names and not schema.field(name).nullable]
    if missing:
        raise SchemaError(f"{where}: found columns {table.column_names}, expected also {missing}; add or map them")
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table.column(field.name)
        try:
            column = column.cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
            raise SchemaError(f"{where}: column {field.name!r} is {column.type}, expected {field.type}: {exc}") from exc
        if not field.nullable and column.null_count:
            raise SchemaError(
                f"{where}: column {field.name!r} holds {column.null_count} nulls, expected none; fill or drop these rows"
            )
        columns.append(column)
    return pa.table(columns, schema=schema)
