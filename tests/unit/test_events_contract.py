"""The contract of an event: every version's examples, who is refused and why, and that order and batches do not matter."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import orjson
import polars as pl
import pytest
from hypothesis import given

from reco_ray.config import DateUnit
from reco_ray.errors import DataError
from reco_ray.events.bus import Record
from reco_ray.events.contract import Admitted, Limits, Refused, admit, batch_schema, event_schema
from reco_ray.events.encoding import decode, encode, rows_to_table
from reco_ray.events.personal import coarse_location, is_personal, redact
from reco_ray.hashing import user_bucket
from reco_ray.schema import EVENTS

EXAMPLES = Path(__file__).parents[1] / "golden" / "events"
NOW = int(datetime(2026, 3, 2, tzinfo=UTC).timestamp() * 1e6)
TS = int(datetime(2026, 3, 1, 10, tzinfo=UTC).timestamp() * 1e6)


def examples(name: str) -> list[Any]:
    return [orjson.loads(line) for line in (EXAMPLES / name).read_text().splitlines()]


def event(**fields: object) -> dict[str, object]:
    return {"event_id": "e", "type": "view", "user_id": "u1", "item_id": "i1", "ts": TS, **fields}


def row(raw: object) -> dict[str, Any]:
    (found,) = admit([raw], NOW)
    assert isinstance(found, Admitted), found
    return decode(found.value)


def refusal(raw: object) -> Refused:
    (found,) = admit([raw], NOW)
    assert isinstance(found, Refused), found
    return found


@pytest.mark.parametrize("name", ["v1.0.jsonl", "v1.1.jsonl", "v1.7.jsonl"])
def test_every_stored_example_of_a_version_that_is_read_is_admitted_and_becomes_a_row(name: str) -> None:
    raw = examples(name)
    found = admit(raw, NOW)
    assert [type(each) for each in found] == [Admitted] * len(raw)
    table = rows_to_table(
        [Record(n, 0, each.value) for n, each in enumerate(found) if isinstance(each, Admitted)], DateUnit.day
    )
    assert table.schema == EVENTS
    assert table.column("event_id").to_pylist() == [each["event_id"] for each in raw]
    assert set(table.column("date").to_pylist()) == {"2026-03-01"}


def test_every_stored_example_that_is_refused_has_its_reason() -> None:
    reasons = [each.reason for each in admit(examples("refused.jsonl"), NOW) if isinstance(each, Refused)]
    invalid, version = "invalid", "unsupported_version"
    assert reasons == [
        *(version, version, version),
        *(invalid, invalid, invalid, invalid),
        *("future", "personal_data", invalid, invalid, "malformed", "malformed"),
    ]


def test_a_newer_minor_version_keeps_what_is_not_known_yet() -> None:
    assert orjson.loads(row(examples("v1.7.jsonl")[0])["extra"]) == {"mood": "happy", "nested": {"a": [1, 2, {"b": "x"}]}}


def test_a_newer_major_version_is_refused_with_the_range_that_is_read() -> None:
    found = refusal(event(schema_version="2.0"))
    assert (found.reason, found.event_id, found.user_id) == ("unsupported_version", "e", "u1")
    assert "'2.0', expected 1.0 to 1.x" in found.detail


def test_personal_data_in_unknown_fields_is_redacted() -> None:
    text = row(examples("v1.7.jsonl")[1])["extra"]
    assert orjson.loads(text) == {"note": "write to [email] or [phone] from [ip]"}


@pytest.mark.parametrize("name", ["event_id", "user_id", "item_id", "session_id", "order_id", "request_id"])
def test_an_id_that_is_personal_data_is_refused_and_not_kept(name: str) -> None:
    found = refusal(event(**{name: "bob@example.com"}))
    assert found.reason == "personal_data"
    assert name in found.detail
    assert b"bob@" not in found.raw
    assert "bob@" not in repr(found)


def test_locations_are_coarse_and_context_is_an_allow_list() -> None:
    contexts = [row(each)["context"] for each in examples("v1.1.jsonl")[2:]]
    assert [each["location"] for each in contexts] == ["48.1,11.6", "-33.9,151.2", "DE-BY"]
    assert set(contexts[1]) == {"device", "locale", "surface", "location"}


def test_the_clock_may_be_ahead_by_the_limit_and_no_further() -> None:
    at, over = NOW + 300_000_000, NOW + 300_000_001
    assert [type(each) for each in admit([event(ts=at), event(ts=over)], NOW, Limits(300))] == [Admitted, Refused]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to bob.b+x@mail.example.com.", "write to [email]."),
        ("bob%40example.com", "[email]"),
        ("call +49 170 1234567 now", "call [phone] now"),
        ("00491701234567", "[phone]"),
        ("(212) 555-0123", "[phone]"),
        ("0170/1234567", "[phone]"),
        ("from 192.168.0.7:8080", "from [ip]:8080"),
        ("host 2001:db8::ff00:42:8329", "host [ip]"),
    ],
)
def test_personal_data_is_found(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("4006381333931", "order 12345-6789", "2026-01-31", "12:30:45", "2026-01-31T12:30:45Z", "v1.2.3", "1.2.3.4.5"),
        *("1234.56", "sku 815-4711", "std::vector", "@home", "9780306406157", "48.1,11.6"),
        "550e8400-e29b-41d4-a716-446655440000",
    ],
)
def test_numbers_codes_and_times_are_no_personal_data(text: str) -> None:
    assert redact(text) == text
    assert not is_personal(text)


def test_what_is_no_location_is_dropped() -> None:
    for value in ("Main Street 5", "95.0,11.0", {"lat": "48", "lon": 11}, {"lat": True, "lon": 1}, 7, None):
        assert coarse_location(value) is None


def test_records_that_are_no_events_are_told_apart() -> None:
    for value in (b"", b"no json", b"[1]", b"{}", b'{"event_id":1}\n{"event_id":2}'):
        with pytest.raises(DataError):
            rows_to_table([Record(1, 0, encode({"event_id": "x"})), Record(2, 0, value)], DateUnit.day)


def test_the_published_schema_names_every_field_and_the_limits() -> None:
    properties = event_schema()["properties"]
    assert set(properties) == {
        n for n in EVENTS.names if n not in ("received_ts", "bus_position", "extra", "date", "user_bucket")
    }
    assert batch_schema()["properties"]["events"]["maxItems"] == 1_000


ids = st.text("abc", min_size=1, max_size=3)
sent = st.one_of(
    st.builds(event, event_id=ids, user_id=ids, ts=st.integers(NOW - 10**13, NOW)),  # some of them late by months
    st.builds(event, event_id=ids, ts=st.integers(NOW + 10**9, NOW + 10**12)),
    st.builds(event, event_id=ids, schema_version=st.sampled_from(["1.1", "1.9", "2.0", "3.1"]), colour=st.just("red")),
    st.builds(event, event_id=ids, type=st.sampled_from(["gaze", "purchase", "rating"]), value=st.none() | st.floats()),
    st.builds(event, event_id=ids, note=st.sampled_from(["a@b.de", "+49 170 1234567", "fine"])),
    st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
)


@given(st.lists(sent, max_size=20), st.randoms(), st.integers(1, 5))
def test_the_order_of_events_and_their_batches_change_no_verdict(events: list[Any], chance: Any, size: int) -> None:
    shuffled = chance.sample(events, len(events))
    one_by_one = [verdict for each in events for verdict in admit([each], NOW)]
    batches = [shuffled[at : at + size] for at in range(0, len(shuffled), size)]
    in_batches = [verdict for batch in batches for verdict in admit(batch, NOW)]
    assert sorted(map(repr, in_batches)) == sorted(map(repr, one_by_one))
    assert len(in_batches) == len(events)


@given(st.lists(st.dictionaries(st.text(max_size=5), st.sampled_from(["x a@b.de", "+49 170 1234567", "10.0.0.1"])), max_size=3))
def test_no_admitted_event_carries_planted_personal_data(extras: list[dict[str, str]]) -> None:
    known = set(EVENTS.names)
    for extra in extras:
        raw = event(**{name: value for name, value in extra.items() if name not in known})
        value = admit([raw], NOW)[0]
        assert isinstance(value, Admitted)
        assert not any(planted in value.value for planted in (b"a@b.de", b"1234567", b"10.0.0.1"))


@given(st.lists(st.tuples(ids, st.integers(0, NOW), st.none() | st.integers(0, 1000)), max_size=20))
def test_rows_of_the_lake_are_what_was_sent(sent: list[tuple[str, int, int | None]]) -> None:
    found = admit([event(user_id=user, ts=ts, dwell_ms=dwell) for user, ts, dwell in sent], NOW)
    records = [Record(7 * n, 0, each.value) for n, each in enumerate(found) if isinstance(each, Admitted)]
    table = pl.DataFrame(rows_to_table(records, DateUnit.month))
    assert table["user_id"].to_list() == [user for user, _, _ in sent]
    assert table["ts"].dt.epoch("us").to_list() == [ts for _, ts, _ in sent]
    assert table["dwell_ms"].to_list() == [dwell for _, _, dwell in sent]
    assert table["user_bucket"].to_list() == [user_bucket(user) for user, _, _ in sent]
    assert table["bus_position"].to_list() == [str(7 * n) for n in range(len(sent))]
    assert all(date.endswith("-01") for date in table["date"])
