"""The contract of an event: every version's examples, and what is refused and why.

The rows that the examples become are stored beside them; after a change that is meant to change them, write them anew with
``PYTHONPATH=. python tests/unit/test_events_contract.py`` and read the difference.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest

from reco_ray.config import DateUnit
from reco_ray.errors import DataError
from reco_ray.events.bus import Record
from reco_ray.events.contract import Admitted, Limits, Refused, admit, batch_schema, event_schema
from reco_ray.events.encoding import decode, encode, rows_to_table
from reco_ray.schema import EVENTS

EXAMPLES = Path(__file__).parents[1] / "golden" / "events"
READ = ("v1.0.jsonl", "v1.1.jsonl", "v1.7.jsonl")
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


def rows_of(name: str) -> list[dict[str, Any]]:
    """What the examples of a file become in the lake; times as text."""
    found = admit(examples(name), NOW)
    assert [each for each in found if isinstance(each, Refused)] == []
    values = [each.value for each in found if isinstance(each, Admitted)]
    table = rows_to_table([Record(n, 0, value) for n, value in enumerate(values)], DateUnit.day)
    assert table.schema == EVENTS
    return [{**row, "ts": row["ts"].isoformat(), "received_ts": row["received_ts"].isoformat()} for row in table.to_pylist()]


@pytest.mark.parametrize("name", READ)
def test_every_stored_example_of_a_version_that_is_read_becomes_the_stored_row(name: str) -> None:
    assert rows_of(name) == examples(f"rows-{name}")


@pytest.mark.parametrize("name", READ)
def test_every_stored_example_that_is_read_fits_the_published_schema(name: str) -> None:
    for each in examples(name):
        jsonschema.validate(each, event_schema())
    jsonschema.validate({"events": examples(name)}, batch_schema())


@pytest.mark.parametrize("line", [3, 9, 10, 11, 12])
def test_what_is_refused_for_its_form_does_not_fit_the_published_schema(line: int) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(examples("refused.jsonl")[line], event_schema())


def test_every_stored_file_is_read_by_a_test() -> None:
    assert {path.name for path in EXAMPLES.iterdir()} == {*READ, *(f"rows-{name}" for name in READ), "refused.jsonl"}


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


def test_an_id_that_is_personal_data_is_the_reason_whatever_else_is_wrong() -> None:
    mail = {"user_id": "bob@example.com"}
    for raw in (event(**mail, type="gaze"), event(**mail, schema_version="2.0"), event(**mail, ts=NOW * 2), {**mail, "x": 1}):
        found = refusal(raw)
        assert (found.reason, found.user_id) == ("personal_data", None)
        assert b"bob@" not in found.raw


@pytest.mark.parametrize(
    "identifier", ["4711", "0012345678", "4006381333931", "0815-471100", "a1b2-0123-4567-8901", "48.1", "ü"]
)
def test_numbers_and_codes_are_ids(identifier: str) -> None:
    found = row(event(user_id=identifier, order_id=identifier))
    assert (found["user_id"], found["order_id"]) == (identifier, identifier)


def test_a_detail_holds_no_value_of_the_event() -> None:
    for name in ("schema_version", "type", "ts", "currency", "value", "consent", "context"):
        assert "bob" not in refusal(event(**{name: "bob@mail.de"})).detail


def test_two_keys_that_are_personal_data_keep_both_their_values() -> None:
    assert orjson.loads(row(event(of={"a@b.de": 1, "c@d.de": 2}))["extra"]) == {"of": {"[email]": 1, "[email] 1": 2}}


def test_locations_are_coarse_and_context_is_an_allow_list() -> None:
    contexts = [row(each)["context"] for each in examples("v1.1.jsonl")[2:]]
    assert [each["location"] for each in contexts] == ["48.1,11.6", "-33.9,151.2", "DE-BY"]
    assert set(contexts[1]) == {"device", "locale", "surface", "location"}


def test_what_context_drops_is_counted() -> None:
    context = {"device": "tv", "locale": None, "ip": "10.0.0.1", "agent": "x", "location": "Main Street 5"}
    found = admit([event(context=context), event(context={"location": "DE"}), event()], NOW)
    assert [each.dropped for each in found if isinstance(each, Admitted)] == [3, 0, 0]


@pytest.mark.parametrize(
    ("ts", "expected"),
    [
        ("2026-03-01T10:00:00Z", TS),
        ("2026-03-01t10:00:00z", TS),
        ("2026-03-01T12:00:00.000001+02:00", TS + 1),
        ("1969-12-31T23:59:59.999999Z", -1),
        (-62_135_596_800_000_000, -62_135_596_800_000_000),
    ],
)
def test_times_are_read_to_the_microsecond(ts: object, expected: int) -> None:
    assert row(event(ts=ts))["ts"] == expected


@pytest.mark.parametrize(
    "ts",
    ["2026-03-01T10:00:00", "2026-03-01", "soon", "", "0001-01-01T00:00:00+14:00", -(2**62), 2**62, 2**70, 1.5, True, None],
)
def test_what_is_no_time_is_refused(ts: object) -> None:
    assert refusal(event(ts=ts)).reason == "invalid"


def nested(levels: int) -> object:
    value: object = "a@b.de"
    for _ in range(levels):
        value = [value]
    return value


def test_fields_nested_deeper_than_can_be_written_are_refused_and_cut_off() -> None:
    assert row(event(tree=nested(150)))["extra"] == orjson.dumps({"tree": nested(150)}).decode().replace("a@b.de", "[email]")
    for raw in (event(tree=nested(900)), event(tree=nested(900), type="gaze"), event(tree=nested(900), user_id="a@b.de")):
        found = refusal(raw)
        assert b"cut off" in found.raw
        assert b"a@b.de" not in found.raw


def test_unknown_fields_are_bounded_in_bytes() -> None:
    assert refusal(event(note="x" * 16_384)).reason == "invalid"
    assert refusal(event(note="é" * 8_192)).reason == "invalid"
    assert orjson.loads(row(event(note="é" * 8_000))["extra"]) == {"note": "é" * 8_000}


def test_what_json_does_not_hold_stops_no_batch() -> None:
    assert refusal(event(user_id="\ud800")).user_id is None
    assert orjson.loads(row(event(big=2**70, low=float("nan")))["extra"]) == {"big": 2.0**70, "low": None}


def test_the_clock_may_be_ahead_by_the_limit_and_no_further() -> None:
    at, over = NOW + 300_000_000, NOW + 300_000_001
    assert [type(each) for each in admit([event(ts=at), event(ts=over)], NOW, Limits(300))] == [Admitted, Refused]


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


if __name__ == "__main__":
    for name in READ:
        lines = [orjson.dumps(row).decode() + "\n" for row in rows_of(name)]
        (EXAMPLES / f"rows-{name}").write_text("".join(lines))
