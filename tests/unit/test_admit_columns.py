"""The contract over columns decides what the contract decides one event at a time, whatever comes."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reco_ray.config import DateUnit
from reco_ray.events import columns
from reco_ray.events.bus import Record
from reco_ray.events.columns import admit_table
from reco_ray.events.contract import Admitted, Refused, admit
from reco_ray.events.encoding import rows_to_table
from reco_ray.events.personal import MAYBE_PERSONAL, NEVER_PERSONAL_ID, is_personal, redact
from reco_ray.schema import EVENT_TYPES, EVENTS

NOW = datetime(2026, 3, 1, tzinfo=UTC)
NOW_US = int(NOW.timestamp()) * 1_000_000

PERSONAL = ["ann@example.org", "+49 170 1234567", "10.0.0.1", "::1:2", "0049 89 123456", "ann%40example.org"]
IDS = st.one_of(
    st.sampled_from(["u1", "31198570044", "7", "007", "x" * 129, "x" * 257, "", "a:b", "1.2", "[ip]", "é", *PERSONAL]),
    st.text("ab01:@.+ -%_", max_size=12),
)
NUMBERS = st.one_of(st.integers(-2, 2_000_000), st.sampled_from([10**6, 10**12, 86_400_001]))
FLOATS = st.one_of(st.floats(allow_nan=True), st.sampled_from([0.0, -0.0, 1e30, 1.1e30, 4.5]))
TEXTS = st.one_of(st.sampled_from(["", "red", "call +49 170 1234567", "1.5 kg", "x" * 2_100, *PERSONAL]), st.text(max_size=8))
TIMES = st.one_of(
    st.sampled_from([NOW, NOW + timedelta(seconds=300), NOW + timedelta(seconds=301), datetime(1, 1, 1, tzinfo=UTC)]),
    st.datetimes(datetime(1960, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),
)


def optional(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), values)


KINDS: dict[str, tuple[st.SearchStrategy[Any], pl.DataType | type[pl.DataType]]] = {
    "event_id": (optional(IDS), pl.String),
    "schema_version": (optional(st.sampled_from(["1.0", "1.1", "1.7", "2.0", "1.01", "one"])), pl.String),
    "type": (optional(st.sampled_from([*EVENT_TYPES, "adored"])), pl.String),
    "user_id": (optional(IDS), pl.String),
    "item_id": (optional(IDS), pl.String),
    "ts": (optional(TIMES), pl.Datetime("us", "UTC")),
    "value": (optional(FLOATS), pl.Float64),
    "order_id": (optional(IDS), pl.String),
    "quantity": (optional(NUMBERS), pl.Int64),
    "price": (optional(FLOATS), pl.Float64),
    "currency": (optional(st.sampled_from(["EUR", "eur", "EURO", "", "ABC\n"])), pl.String),
    "dwell_ms": (optional(NUMBERS), pl.Int64),
    "session_id": (optional(IDS), pl.String),
    "request_id": (optional(IDS), pl.String),
    "position": (optional(NUMBERS), pl.Int64),
    "consent": (optional(st.booleans()), pl.Boolean),
    "colour": (optional(TEXTS), pl.String),
    "weight_kg": (optional(FLOATS), pl.Float64),
    "shelf": (optional(NUMBERS), pl.Int64),
    "tags": (optional(st.lists(TEXTS, max_size=2)), pl.List(pl.String)),
    "ann@example.org": (optional(TEXTS), pl.String),
}
NEEDED = {"event_id", "user_id", "item_id", "type", "ts"}


@st.composite
def frames(draw: st.DrawFn) -> pl.DataFrame:
    names = [name for name in KINDS if name in NEEDED or draw(st.booleans())]
    rows = draw(st.lists(st.fixed_dictionaries({name: KINDS[name][0] for name in names}), min_size=1, max_size=6))
    good = {"event_id": "e1", "user_id": "u1", "item_id": "i1", "type": "view", "ts": NOW}
    rows = [row | (good if draw(st.booleans()) else {}) for row in rows]  # or nothing would be admitted
    return pl.DataFrame(rows, schema={name: KINDS[name][1] for name in names})


def one_by_one(frame: pl.DataFrame) -> list[Admitted | Refused]:
    events = []
    for row in frame.iter_rows(named=True):
        event = {name: value for name, value in row.items() if value is not None}
        if "ts" in event:
            event["ts"] = (event["ts"] - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        events.append(event)
    return admit(events, NOW_US)


@given(frames())
def test_columns_decide_as_the_contract_does(frame: pl.DataFrame) -> None:
    decided = one_by_one(frame)
    table, refused = admit_table(frame, NOW_US, DateUnit.day)
    records = [Record(0, 0, each.value) for each in decided if isinstance(each, Admitted)]
    expected = rows_to_table(records, DateUnit.day).drop_columns(["bus_position"])
    assert table.schema == EVENTS
    assert table.column("bus_position").null_count == table.num_rows
    assert table.drop_columns(["bus_position"]).to_pylist() == expected.to_pylist()
    assert refused == [each for each in decided if isinstance(each, Refused)]


@given(st.one_of(IDS, st.text()))
def test_an_id_that_columns_take_for_harmless_is_not_personal(text: str) -> None:
    if re.search(NEVER_PERSONAL_ID, text):
        assert not is_personal(text)
    assert pl.Series([text]).str.contains(NEVER_PERSONAL_ID).to_list() == [bool(re.search(NEVER_PERSONAL_ID, text))]


@given(TEXTS)
def test_a_text_without_the_sign_of_something_personal_holds_nothing_to_redact(text: str) -> None:
    if not pl.Series([text]).str.contains(MAYBE_PERSONAL)[0]:
        assert redact(text) == text


def test_plain_rows_do_not_go_through_the_contract_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = []
    monkeypatch.setattr(columns, "admit", lambda raw, *rest: looked_at.extend(raw) or admit(raw, *rest))
    good = {"event_id": "3a777effb9355e3ae8f94dad", "user_id": "u1", "item_id": "12", "type": "purchase", "ts": NOW}
    good |= {
        "schema_version": "1.1",
        "order_id": "o1",
        "quantity": 2,
        "price": 0.5,
        "currency": "EUR",
        "store": 330,
        "note": "x",
    }
    frame = pl.DataFrame([good] * 50 + [good | {"note": "ann@example.org"}, good | {"quantity": 0}])
    table, refused = admit_table(frame, NOW_US, DateUnit.month)
    assert [event["note"] for event in looked_at] == ["ann@example.org", "x"]
    assert (table.num_rows, len(refused)) == (51, 1)
    assert orjson.loads(table.column("extra")[50].as_py()) == {"note": "[email]", "store": 330}
    assert table.column("date")[0].as_py() == "2026-03-01"
