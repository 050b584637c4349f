"""The contract over columns: it decides on each row as `admit` does on the event that the row would be."""

from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis.strategies as st
import polars as pl
import pytest
from hypothesis import given, settings

from reco_ray.config import DateUnit
from reco_ray.events.bus import Record
from reco_ray.events.columns import admit_table
from reco_ray.events.contract import Admitted, Limits, Refused, admit
from reco_ray.events.encoding import rows_to_table
from reco_ray.schema import EVENTS

EPOCH = datetime.fromtimestamp(0, UTC)
NOW = int(datetime(2026, 3, 2, tzinfo=UTC).timestamp() * 1e6)
LATEST = NOW + 300_000_000

odd_ids = ["", "a" * 129, "a" * 257, "a@b.de", "x%40y.de", "10.0.0.1", " 10.0.0.1 ", "ip:2001:db8::1", "ü", "_", "12\n"]
numbers = [
    "0012345678",
    "00491701234567",
    "0049 170 1234567",
    "0170-1234567",
    "0170 1234567",
    "+4917012345678",
    "(212) 555-0123",
]
ids = st.sampled_from(["u1", *odd_ids, *numbers]) | st.text("0123456789 +-./()", max_size=18) | st.text(max_size=4)
texts = st.sampled_from(["mail a@b.de", "call 0170 1234567", "y" * 17_000, "z" * 1_990, "\x01" * 2_500]) | st.text(max_size=5)
contexts = st.fixed_dictionaries(
    {
        "device": st.sampled_from([None, "tv", "a@b.de", "x" * 65]),
        "location": st.sampled_from([None, "48.137,11.5", "DE-BY", "home"]),
        "ip": st.sampled_from([None, "10.0.0.1"]),
    }
)
needed: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "event_id": (pl.String, ids),
    "type": (pl.String, st.sampled_from(["view", "purchase", "refund", "gaze", "rating"])),
    "user_id": (pl.String, ids),
    "item_id": (pl.String, ids),
    "ts": (pl.Int64, st.integers(NOW - 10**13, NOW) | st.integers(LATEST - 2, LATEST + 2)),
}
optional: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "schema_version": (pl.String, st.sampled_from(["1.0", "1.1", "1.2", "2.0", "x", ""])),
    "value": (pl.Float64, st.floats() | st.floats(-5, 5)),
    "order_id": (pl.String, ids),
    "quantity": (pl.Int64, st.integers(-1, 3) | st.integers(999_999, 1_000_001)),
    "price": (pl.Float64, st.floats() | st.floats(-1, 10)),
    "currency": (pl.String, st.sampled_from(["EUR", "eur", "EURO", "USD\n", ""])),
    "dwell_ms": (pl.Int64, st.sampled_from([-1, 0, 86_400_000, 86_400_001])),
    "session_id": (pl.String, ids),
    "request_id": (pl.String, ids),
    "position": (pl.Int64, st.sampled_from([0, 1, 100_000, 100_001])),
    "consent": (pl.Boolean, st.booleans()),
    "context": (pl.Struct({"device": pl.String, "location": pl.String, "ip": pl.String}), contexts),
    "note": (pl.String, texts),
    "score": (pl.Float64, st.floats()),
    "count": (pl.Int64, st.integers(-(2**63), 2**63 - 1)),
    "of a@b.de": (pl.String, texts),
    "received_us": (pl.Int64, st.integers(0, 5)),
    "extra": (pl.String, texts),
    "tags": (pl.List(pl.String), st.lists(texts, max_size=2)),
}


@st.composite
def frames(draw: st.DrawFn) -> pl.DataFrame:
    """Rows of some of the columns; one frame in twenty lacks a needed one."""
    height = draw(st.integers(0, 6))
    some = draw(st.lists(st.sampled_from(sorted(optional)), unique=True, max_size=6))
    chosen = needed | {name: optional[name] for name in some}
    if draw(st.integers(0, 19)) == 0:
        del chosen[draw(st.sampled_from(sorted(needed)))]
    columns = {
        name: pl.Series(draw(st.lists(st.none() | values, min_size=height, max_size=height)), dtype=dtype)
        for name, (dtype, values) in chosen.items()
    }
    frame = pl.DataFrame(columns)
    if "ts" in chosen:
        frame = frame.with_columns(pl.col("ts").cast(pl.Datetime("us")).dt.replace_time_zone("UTC"))
    return frame


def sent(row: dict[str, Any]) -> dict[str, Any]:
    event = {name: value for name, value in row.items() if value is not None}
    return event | {"ts": (event["ts"] - EPOCH) // timedelta(microseconds=1)} if "ts" in event else event


def row(**fields: object) -> dict[str, object]:
    return {"event_id": "e", "type": "view", "user_id": "u", "item_id": "i", "ts": EPOCH, **fields}


@settings(max_examples=300)
@given(frames())
def test_each_row_is_decided_on_as_the_event_that_it_would_be(frame: pl.DataFrame) -> None:
    table, refused = admit_table(frame, NOW, DateUnit.day)
    verdicts = admit([sent(row) for row in frame.iter_rows(named=True)], NOW, Limits())
    expected = rows_to_table([Record(0, 0, each.value) for each in verdicts if isinstance(each, Admitted)], DateUnit.day)
    assert table.schema == EVENTS
    assert table.drop_columns("bus_position").to_pylist() == expected.drop_columns("bus_position").to_pylist()
    assert refused == [each for each in verdicts if isinstance(each, Refused)]


@pytest.mark.parametrize("fields", [{"of a@b.de": "x"}, {"tags": ["t"]}])
def test_columns_that_need_a_closer_look_lose_no_rows(fields: dict[str, object]) -> None:
    table, refused = admit_table(pl.DataFrame([row(event_id=f"e{n}", **fields) for n in range(5)]), NOW, DateUnit.day)
    assert table.column("event_id").to_pylist() == [f"e{n}" for n in range(5)]
    assert refused == []


def test_rows_without_a_needed_column_are_all_refused() -> None:
    table, refused = admit_table(pl.DataFrame([row() for _ in range(5)]).drop("item_id"), NOW, DateUnit.day)
    assert table.num_rows == 0
    assert [each.reason for each in refused] == ["invalid"] * 5


def test_no_rows_are_no_events() -> None:
    for frame in (pl.DataFrame([row()]), pl.DataFrame([row(**{"of a@b.de": "x"})])):
        table, refused = admit_table(frame.clear(), NOW, DateUnit.day)
        assert (table.num_rows, refused) == (0, [])
