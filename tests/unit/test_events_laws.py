"""Laws of admission: order and batches change nothing, what is personal goes nowhere, what is unknown is kept."""

import random
from collections import Counter
from typing import Any

import hypothesis.strategies as st
import orjson
import polars as pl
from hypothesis import given

from reco_ray.config import DateUnit
from reco_ray.events.bus import Record
from reco_ray.events.contract import Admitted, Event, Refused, admit
from reco_ray.events.dead_letters import DeadLetter
from reco_ray.events.encoding import decode, rows_to_table
from reco_ray.hashing import user_bucket
from reco_ray.schema import EVENT_TYPES

NOW = 1_772_409_600_000_000  # 2026-03-02
DAY = 86_400_000_000
PLANTED = ["bob@example.com", "müller@example.de", "+49 170 1234567", "(212) 555-0123", "192.168.0.7", "2001:db8::ff00:42:8329"]
BEFORE = st.sampled_from(["", "to ", "a, ", "é (", "x=", "\n", '"', "<b>", "ip: ", "e;"])
AFTER = st.sampled_from(["", " b", ", c", ")", ".", "\n", '"', "</b>", "; d", "?"])

ids = st.text("abc-_é", min_size=1, max_size=5)
unknown_names = ids.map("x{}".format)


def event(**fields: object) -> dict[str, object]:
    return {"type": "view", "user_id": "u", "item_id": "i", "ts": NOW - DAY, **fields}


kinds = st.one_of(
    st.builds(event, user_id=ids, ts=st.integers(NOW - 4000 * DAY, NOW)),  # on time, or late by years
    st.builds(event, ts=st.integers(NOW + 301_000_000, NOW + DAY)),
    st.builds(event, schema_version=st.sampled_from(["1.1", "1.9", "2.0", "11.1", "one"]), colour=ids),
    st.builds(event, type=st.sampled_from(["gaze", "purchase", "refund"]), schema_version=st.just("1.1")),
    st.builds(event, user_id=st.sampled_from(PLANTED)),
    st.builds(event, note=st.sampled_from(PLANTED)),
    st.builds(event, ts=st.sampled_from(["yesterday", "2026-03-01T10:00:00Z", "2026-03-01", True, 1.5, None])),
)
malformed = st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)


def ends_in(batches: list[list[Any]]) -> tuple[list[dict[str, Any]], Counter[bytes]]:
    """What batches leave behind: rows of the lake, the first of each id, by id; and how often each dead letter was written."""
    verdicts = [verdict for batch in batches for verdict in admit(batch, NOW)]
    values = [each.value for each in verdicts if isinstance(each, Admitted)]
    rows = pl.DataFrame(rows_to_table([Record(n, 0, value) for n, value in enumerate(values)], DateUnit.day))
    refused = [each for each in verdicts if isinstance(each, Refused)]
    letters = [DeadLetter.of(each.reason, each.detail, each.raw, each.user_id, NOW).encode() for each in refused]
    return rows.unique("event_id", keep="first").sort("event_id").drop("bus_position").to_dicts(), Counter(letters)


@given(st.lists(kinds, max_size=12), st.lists(malformed, max_size=3), st.randoms(use_true_random=False), st.data())
def test_any_interleaving_in_any_batches_ends_in_the_same_rows_and_dead_letters(
    fields: list[dict[str, object]], junk: list[Any], chance: random.Random, data: st.DataObject
) -> None:
    events = [{"event_id": f"e{n}", **each} for n, each in enumerate(fields)]
    repeats = data.draw(st.lists(st.sampled_from(events), max_size=8)) if events else []
    sent: list[Any] = [*events, *repeats, *junk]
    shuffled = chance.sample(sent, len(sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=5)))
    batches = [shuffled[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    rows, letters = ends_in(batches)
    assert (rows, letters) == ends_in([sent])
    refused = [each for each in admit(sent, NOW) if isinstance(each, Refused)]
    assert letters.total() == len(refused)  # one for each time that it was sent
    stored = {row["event_id"] for row in rows}
    assert stored | {each.event_id for each in refused} - {None} == {each["event_id"] for each in events}
    assert not stored & {each.event_id for each in refused}


texts = st.builds("{}{}{}".format, BEFORE, st.sampled_from(PLANTED), AFTER)
trees = st.recursive(
    texts | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | ids, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(unknown_names | texts, trees, max_size=3), texts)
def test_nothing_admitted_nor_refused_for_it_carries_planted_personal_data(extra: dict[str, Any], device: str) -> None:
    planted = [each.encode() for each in PLANTED]
    (found,) = admit([event(event_id="e", context={"device": device, "ip": "10.0.0.1"}, **extra)], NOW)
    assert isinstance(found, Admitted)
    assert not [each for each in [*planted, b"10.0.0.1"] if each in found.value]
    (found,) = admit([event(event_id="e", session_id="bob@example.com", **extra)], NOW)
    assert isinstance(found, Refused)
    assert found.reason == "personal_data"
    assert not [each for each in planted if each in found.raw or each in found.detail.encode()]


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text('ab \n"é', max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ids, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(unknown_names | st.sampled_from(["extra", "received_us", "date"]), plain, max_size=4))
def test_unknown_fields_survive_as_they_were(unknown: dict[str, Any]) -> None:
    (found,) = admit([event(event_id="e", schema_version="1.8", **unknown)], NOW)
    assert isinstance(found, Admitted)
    row = decode(found.value)
    assert row["received_us"] == NOW
    assert (orjson.loads(str(row["extra"])) if unknown else row["extra"]) == (unknown or None)


known = st.fixed_dictionaries(
    {"event_id": ids, "type": st.sampled_from(EVENT_TYPES), "user_id": ids, "item_id": ids, "ts": st.integers(0, NOW)},
    optional={
        "schema_version": st.just("1.0"),
        "value": st.floats(-(2**20), 2**20, width=32),
        "order_id": ids,
        "quantity": st.integers(1, 1_000_000),
        "price": st.floats(0, 1e12),
        "currency": st.sampled_from(["EUR", "USD"]),
        "dwell_ms": st.integers(0, 86_400_000),
        "session_id": ids,
        "request_id": ids,
        "position": st.integers(1, 100_000),
        "context": st.fixed_dictionaries({}, optional={"device": ids, "locale": ids, "location": st.just("DE-BY")}),
        "consent": st.booleans(),
    },
)
NO_CONTEXT = dict.fromkeys(("device", "locale", "surface", "location"))


def as_stored(sent: dict[str, Any]) -> dict[str, Any]:
    row = dict.fromkeys(Event.model_fields) | {"schema_version": "1.0", "consent": True} | sent
    return row | {"context": NO_CONTEXT | (row["context"] or {})}


@given(st.lists(known, max_size=8))
def test_rows_of_the_lake_are_what_was_sent(events: list[dict[str, Any]]) -> None:
    values = [each.value for each in admit(events, NOW) if isinstance(each, Admitted)]
    table = pl.DataFrame(rows_to_table([Record(7 * n, 0, value) for n, value in enumerate(values)], DateUnit.month))
    rows = table.with_columns(pl.col("ts").dt.epoch("us")).to_dicts()
    found = [{**row, "context": NO_CONTEXT | (row["context"] or {})} for row in rows]
    assert [{name: row[name] for name in Event.model_fields} for row in found] == [as_stored(each) for each in events]
    assert table["bus_position"].to_list() == [str(7 * n) for n in range(len(events))]
    assert table["user_bucket"].to_list() == [user_bucket(each["user_id"]) for each in events]
    assert all(date.endswith("-01") for date in table["date"])
