"""Decisions as records: what is written for the bus is what the lake holds, and what is no record is refused."""

from datetime import UTC, datetime

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reco_ray.config import DateUnit
from reco_ray.events.bus import Record
from reco_ray.feedback.exposures import Decision, encode, encode_slots, rows_to_table
from reco_ray.hashing import user_bucket
from reco_ray.schema import EXPOSURES, check

TS = 1_767_225_599_999_999  # the last microsecond of 2025
REASONS = (("two_tower", "covisit", "boost"), ("popular",), ("unknown_item",), ())


def slots(n: int = 2, propensities: bool = False) -> bytes:
    ids = [f"i{i}" for i in range(n)]
    scores = np.linspace(0.1, 1, n, dtype=np.float32)
    return encode_slots(ids, scores, [REASONS[i % 4] for i in range(n)], scores / 2 if propensities else None)


def decision(**more: object) -> Decision:
    fields: dict[str, object] = {
        "request_id": "r",
        "call": "recommend",
        "user_id": "u",
        "ts_us": TS,
        "surface": "home",
        "context": {"device": "tv"},
        "consent": True,
        "release": "rel",
        "variant": "main",
        "rung": "full",
        "degraded": (),
        "draw_id": "d",
        "age_s": 1.23456,
        "slots": slots(),
    }
    return Decision(**{**fields, **more})  # type: ignore[arg-type]


def rows(*decisions: Decision, unit: DateUnit = DateUnit.day) -> list[dict[str, object]]:
    records = [Record(7 + i, 1_800_000_000_123, encode(each)) for i, each in enumerate(decisions)]
    table = check(rows_to_table(records, unit), EXPOSURES, "exposures")
    assert table.schema == EXPOSURES
    found: list[dict[str, object]] = table.to_pylist()
    return found


def test_a_decision_becomes_one_row() -> None:
    timings = {"user": 1.23456, "total": 9.0}
    (row,) = rows(
        decision(
            degraded=("a", "b"), timings=timings, user_view="v1", user_row=b"\x00\xff", experiment="e", circumstances=(1, 0.5)
        )
    )
    assert row.pop("scores") == pytest.approx([0.1, 1.0])
    assert row.pop("age_s") == pytest.approx(1.235)
    assert [name for name, _ in row["timings"]] == ["user", "total"]  # type: ignore[attr-defined]
    assert dict(row.pop("timings")) == pytest.approx({"user": 1.23, "total": 9.0})  # type: ignore[call-overload]
    assert row == {
        "request_id": "r",
        "received_ts": datetime.fromtimestamp(1_800_000_000.123, UTC),
        "bus_position": "7",
        "call": "recommend",
        "user_id": "u",
        "ts": datetime(2025, 12, 31, 23, 59, 59, 999_999, UTC),
        "surface": "home",
        "context": {"device": "tv", "locale": None, "surface": None, "location": None},
        "consent": True,
        "release": "rel",
        "variant": "main",
        "experiment": "e",
        "circumstances": [1.0, 0.5],
        "rung": "full",
        "degraded": ["a", "b"],
        "draw_id": "d",
        "item_ids": ["i0", "i1"],
        "propensities": [None, None],
        "sources": [["two_tower", "covisit"], ["popular"]],
        "rules": [["boost"], []],
        "rules_version": None,
        "first_position": 1,
        "ranker": None,
        "user_view": "v1",
        "user_row": b"\x00\xff",
        "date": "2025-12-31",
        "user_bucket": user_bucket("u"),
    }


def test_what_is_not_known_of_a_decision_is_null_and_lists_may_be_empty() -> None:
    (row,) = rows(decision(user_id="", consent=False, surface="", context={}, slots=slots(0)), unit=DateUnit.month)
    assert [row[name] for name in ("surface", "context", "experiment", "user_view", "user_row")] == [None] * 5
    assert [row[name] for name in ("item_ids", "scores", "propensities", "sources", "rules", "degraded", "timings")] == [[]] * 7
    assert (row["user_id"], row["consent"], row["date"]) == ("", False, "2025-12-01")


def test_a_reason_that_is_neither_source_nor_rule_is_in_neither_list() -> None:
    (row,) = rows(decision(slots=slots(4)))
    assert row["sources"] == [["two_tower", "covisit"], ["popular"], [], []]
    assert row["rules"] == [["boost"], [], [], []]


def test_propensities_are_those_of_the_draw_and_scores_that_are_not_finite_are_null() -> None:
    nan = np.array([np.nan, np.inf, 0.1], np.float32)
    drawn = encode_slots(["a", "b", "c"], nan, [()] * 3, np.array([0.25, 0.5, 1], np.float32), ranker="neural")
    (row,) = rows(decision(slots=drawn))
    assert row["ranker"] == "neural"
    assert row["propensities"] == [0.25, 0.5, 1.0]
    assert row["scores"] == [None, None, pytest.approx(0.1)]


def test_floats_take_no_more_digits_than_they_have() -> None:
    assert orjson.loads(slots(3))["scores"] == [0.1, 0.55, 1.0]
    assert b'"age_s":1.235' in encode(decision())


@given(
    st.lists(
        st.tuples(
            st.text(max_size=8), st.integers(0, 4 * 10**15), st.integers(0, 5), st.booleans(), st.none() | st.binary(max_size=9)
        ),
        max_size=8,
    )
)
def test_any_decisions_come_back_in_order(given_: list[tuple[str, int, int, bool, bytes | None]]) -> None:
    sent = [
        decision(request_id=str(i), user_id=user, ts_us=ts, slots=slots(n, drawn), user_row=row, degraded=(user,) * n)
        for i, (user, ts, n, drawn, row) in enumerate(given_)
    ]
    found = rows(*sent)
    assert [row["request_id"] for row in found] == [str(i) for i in range(len(sent))]
    for row, (user, ts, n, drawn, packed) in zip(found, given_, strict=True):
        assert (row["user_id"], row["user_row"], row["degraded"]) == (user, packed, [user] * n)
        assert int(row["ts"].timestamp() * 1e6 + 0.5) == ts  # type: ignore[attr-defined]
        assert row["item_ids"] == [f"i{i}" for i in range(n)]
        assert [each is None for each in row["propensities"]] == [not drawn] * n  # type: ignore[attr-defined]


def test_more_records_than_are_read_at_a_time_stay_in_order() -> None:
    found = rows(*(decision(request_id=str(i)) for i in range(1203)))
    assert [row["request_id"] for row in found] == [str(i) for i in range(1203)]
    assert [row["bus_position"] for row in found] == [str(7 + i) for i in range(1203)]


@pytest.mark.parametrize(
    "value",
    [b"", b"{", b"[]", b"{}", b"1", encode(decision())[:-9], encode(decision(slots=b'{"item_ids":["a"],"scores":[]}'))],
)
def test_what_is_no_record_is_refused(value: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        rows_to_table([Record(1, 1, encode(decision())), Record(2, 2, value)], DateUnit.day)


def test_places_that_do_not_agree_are_refused() -> None:
    uneven = orjson.dumps({**orjson.loads(slots(2)), "scores": [1.0]})
    with pytest.raises(ValueError, match="not as many as its items"):
        rows_to_table([Record(1, 1, encode(decision(slots=uneven)))], DateUnit.day)


def test_the_log_shows_no_user_of_a_decision() -> None:
    shown = repr(decision(user_id="somebody", user_row=b"row", context={"device": "secret"}))
    assert not [word for word in ("somebody", "row'", "secret") if word in shown]
