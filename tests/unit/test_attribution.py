"""Which event counts for which slot: a small world with a known answer, and laws that hold for any events."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reco_ray.config import FeedbackConfig
from reco_ray.feedback.attribution import DECISION_COLUMNS, EVENT_COLUMNS, attribute
from reco_ray.feedback.report import DIMENSIONS, summarise
from reco_ray.schema import EVENTS, EXPOSURES, FEEDBACK, check

CONFIG = FeedbackConfig(delay_hours=24)
START = datetime(2026, 5, 1, tzinfo=UTC)
_DECISIONS = pa.schema([EXPOSURES.field(name) for name in DECISION_COLUMNS])
_EVENTS = pa.schema([EVENTS.field(name) for name in EVENT_COLUMNS])


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def decision(request_id: str, hours: float, items: list[str], **more: Any) -> dict[str, Any]:
    fields = {
        "request_id": request_id,
        "ts": at(hours),
        "user_id": "u",
        "surface": "home",
        "consent": True,
        "release": "A",
        "variant": "main",
        "rung": "full",
        "draw_id": request_id,
        "item_ids": items,
        "scores": [1.0] * len(items),
        "propensities": [None] * len(items),
        "date": at(hours).strftime("%Y-%m-%d"),
        "user_bucket": 1,
    }
    return {**fields, **more}


def event(kind: str, hours: float, item: str, **more: Any) -> dict[str, Any]:
    fields = {"event_id": f"{kind}-{hours}-{item}", "type": kind, "user_id": "u", "item_id": item, "ts": at(hours)}
    return {**fields, "consent": True, **more}


def purchase(hours: float, item: str, order: str | None, quantity: int | None = 1, price: float = 10.0, **more: Any) -> Any:
    return event("purchase", hours, item, order_id=order, quantity=quantity, price=price, currency="EUR", **more)


def frame(rows: list[dict[str, Any]], schema: pa.Schema) -> pl.DataFrame:
    return pl.DataFrame(pa.Table.from_pylist(rows, schema=schema))


def join(decisions: list[dict[str, Any]], events: list[dict[str, Any]], config: FeedbackConfig = CONFIG) -> pl.DataFrame:
    found = attribute(frame(decisions, _DECISIONS), frame(events, _EVENTS), config)
    check(found.to_arrow(), FEEDBACK, "feedback")
    return found


def one(decisions: list[dict[str, Any]], events: list[dict[str, Any]]) -> dict[str, Any]:
    """The only slot that anything came of."""
    (row,) = join(decisions, events).filter((pl.col("impressions") > 0) | pl.col("delay_s").is_not_null()).to_dicts()
    return row


def test_a_small_world_has_the_known_answer() -> None:
    decisions = [
        decision("r1", 0, ["a", "b"]),
        decision("r2", 2, ["a", "c"], release="B", variant="canary"),
        decision("r3", 3, ["c"], user_id="v", rung="popular", surface="email"),
    ]
    events = [
        event("impression", 0.1, "a", request_id="r1"),
        event("impression", 0.2, "a", request_id="r1"),
        event("click", 0.5, "b", request_id="r1", user_id="somebody-else"),
        event("view", 0.6, "b", dwell_ms=2000),
        event("click", 2.5, "a"),
        event("impression", 2.6, "a", request_id="r2"),
        purchase(3.0, "a", "o1", 2, 10.0),
        purchase(3.5, "c", "o1", 1, 5.0),
        event("refund", 4.0, "a", order_id="o1", quantity=1),
        event("impression", 3.1, "c", user_id="v"),
        event("click", 30.0, "c", user_id="v"),
    ]
    columns = ("request_id", "item_id", "position", "impressions", "clicks", "purchases", "revenue", "currency", "dwell_ms")
    assert join(decisions, events).select(*columns, "grade", "delay_s").rows() == [
        ("r1", "a", 1, 1, 0, 0, 0.0, None, None, 0.0, 360.0),
        ("r1", "b", 2, 0, 1, 0, 0.0, None, 2000, 1.0, 1800.0),
        ("r2", "a", 1, 1, 1, 1, 10.0, "EUR", None, 3.0, 3600.0),
        ("r2", "c", 2, 0, 0, 1, 5.0, "EUR", None, 3.0, 5400.0),
        ("r3", "c", 1, 1, 0, 0, 0.0, None, None, 0.0, 360.0),
    ]
    report = summarise(join(decisions, events).lazy(), CONFIG)
    total = {name: report.total[name] for name in ("decisions", "slots", "seen", "clicked", "bought", "orders", "ctr", "cvr")}
    assert total == {"decisions": 3, "slots": 5, "seen": 4, "clicked": 2, "bought": 2, "orders": 1, "ctr": 0.5, "cvr": 0.5}
    assert (report.total["revenue"], report.total["order_value"]) == ({"EUR": 15.0}, {"EUR": 15.0})
    a, b = report.by["release"]
    assert [(row["release"], row["slots"], row["ctr"], row["revenue"]) for row in (a, b)] == [
        ("A", 3, 0.333333, {}),
        ("B", 2, 1.0, {"EUR": 15.0}),
    ]
    assert [row["surface"] for row in report.by["surface"]] == ["home", "email"]
    assert "release B" in report.text()
    assert "15.00 EUR" in report.text()


@pytest.mark.parametrize(("hours", "counts"), [(1.0, False), (1.001, True), (25.0, True), (25.001, False), (0.5, False)])
@pytest.mark.parametrize("named", [None, "r"])
def test_only_what_follows_within_the_delay_counts(hours: float, counts: bool, named: str | None) -> None:
    found = join([decision("r", 1, ["a"])], [event("click", hours, "a", request_id=named)])
    assert found["clicks"].to_list() == [int(counts)]


def test_a_named_request_that_did_not_show_the_item_gets_nothing_and_neither_does_the_last_touch() -> None:
    found = join([decision("r1", 0, ["a"]), decision("r2", 0, ["b"])], [event("click", 1, "a", request_id="r2")])
    assert found["clicks"].sum() == 0


def test_decisions_of_one_instant_are_told_apart_by_their_request_id() -> None:
    assert one([decision("r2", 0, ["a"]), decision("r1", 0, ["a"])], [event("click", 1, "a")])["request_id"] == "r2"


def test_without_consent_of_event_or_decision_nothing_counts() -> None:
    silent = [decision("r1", 0, ["a"], consent=False, user_id=""), decision("r2", 0, ["a"])]
    events = [
        event("click", 1, "a", request_id="r1"),
        event("click", 1, "a", consent=False),
        purchase(2, "a", "o", consent=False),
    ]
    found = join(silent, events)
    assert found.select("clicks", "purchases", "grade").sum().row(0) == (0, 0, 0.0)
    report = summarise(found.lazy(), CONFIG)
    assert (report.total["decisions"], report.total["without_consent"], report.total["slots"]) == (1, 1, 1)


def test_nobody_s_decisions_get_only_what_names_them() -> None:
    decisions = [decision("r", 0, ["a"], user_id="")]
    assert join(decisions, [event("click", 1, "a", user_id="")])["clicks"].to_list() == [0]
    assert join(decisions, [event("click", 1, "a", request_id="r")])["clicks"].to_list() == [1]


def test_an_order_line_sent_twice_counts_once_and_for_its_first_event() -> None:
    decisions = [decision("r1", 0, ["a"]), decision("r2", 2, ["a"])]
    row = one(decisions, [purchase(3, "a", "o", event_id="again"), purchase(1, "a", "o", event_id="first")])
    assert (row["request_id"], row["purchases"], row["revenue"], row["order_ids"]) == ("r1", 1, 10.0, ["o"])


def test_purchases_without_an_order_are_orders_of_their_own() -> None:
    row = one([decision("r", 0, ["a"])], [purchase(1, "a", None, None), purchase(2, "a", None, None)])
    assert (row["purchases"], row["revenue"]) == (2, 20.0)
    assert len(row["order_ids"]) == 2


@pytest.mark.parametrize(
    ("quantities", "purchases", "revenue"), [([1], 1, 20.0), ([1, 1], 1, 10.0), ([3], 0, 0.0), ([None], 0, 0.0), ([9], 0, 0.0)]
)
def test_refunds_take_quantity_and_revenue_off(quantities: list[int | None], purchases: int, revenue: float) -> None:
    back = [event("refund", 2 + i, "a", order_id="o", quantity=q, request_id="other") for i, q in enumerate(quantities)]
    row = one([decision("r", 0, ["a"])], [purchase(1, "a", "o", 3), *back])
    assert (row["purchases"], row["revenue"], row["grade"]) == (purchases, revenue, 3.0)


def test_a_refund_past_the_delay_or_of_another_item_takes_nothing_off() -> None:
    back = [
        event("refund", 25, "a", order_id="o"),
        event("refund", 2, "b", order_id="o"),
        event("refund", 2, "a", order_id="p"),
    ]
    assert one([decision("r", 0, ["a"])], [purchase(1, "a", "o"), *back])["revenue"] == 10.0


def test_revenue_is_never_a_sum_of_two_currencies() -> None:
    second = {**purchase(2, "a", "p", 1, 7.0), "currency": "USD"}
    row = one([decision("r", 0, ["a"])], [purchase(1, "a", "o"), second])
    assert (row["purchases"], row["revenue"], row["currency"]) == (2, 10.0, "EUR")


def test_where_no_impressions_are_sent_there_is_no_click_rate() -> None:
    found = join([decision("r", 0, ["a", "b"])], [event("click", 1, "a"), purchase(2, "a", "o")])
    total = summarise(found.lazy(), CONFIG).total
    assert (total["seen"], total["clicked"], total["ctr"], total["cvr"]) == (1, 1, None, 1.0)


def test_the_grade_is_that_of_the_strongest_event_and_types_without_a_grade_have_none() -> None:
    events = [event("like", 2, "a"), event("click", 1, "a"), event("dismiss", 3, "a"), event("like", 4, "a")]
    row = one([decision("r", 0, ["a"])], events)
    assert (row["grade"], row["delay_s"]) == (2.0, 7200.0)
    assert join([decision("r", 0, ["a"])], [event("dismiss", 3, "a")])["grade"].to_list() == [0.0]


def test_an_exposure_that_is_stored_twice_counts_once() -> None:
    assert join([decision("r", 0, ["a"])] * 2, [event("click", 1, "a")])["clicks"].to_list() == [1]


def test_there_may_be_no_events_and_no_decisions() -> None:
    assert join([], [event("click", 1, "a")]).height == 0
    assert join([decision("r", 0, ["a", "b"]), decision("s", 0, [])], [])["grade"].to_list() == [0.0, 0.0]


ITEMS = st.sampled_from("abc")
HOURS = st.integers(0, 60)
worlds = st.tuples(
    st.lists(
        st.builds(
            lambda n, hours, items, user, consent, release: decision(
                f"r{n}", hours, sorted(items), user_id=user, consent=consent, release=release
            ),
            st.integers(0, 5),
            HOURS,
            st.sets(ITEMS, max_size=3),
            st.sampled_from(["u", "v", ""]),
            st.sampled_from([True, True, True, False]),
            st.sampled_from("AB"),
        ),
        max_size=8,
    ),
    st.lists(
        st.builds(
            lambda n, kind, hours, item, user, request, order, quantity, consent: event(
                kind,
                hours,
                item,
                event_id=f"e{n}",
                user_id=user,
                request_id=request,
                order_id=order if kind in ("purchase", "refund") else None,
                quantity=quantity,
                price=2.0 if kind == "purchase" else None,
                currency="EUR" if kind == "purchase" else None,
                consent=consent,
            ),
            st.integers(0, 10**6),
            st.sampled_from(["impression", "click", "view", "purchase", "purchase", "refund", "rating"]),
            HOURS,
            ITEMS,
            st.sampled_from(["u", "v"]),
            st.sampled_from([None, None, "r0", "r1", "r2", "nowhere"]),
            st.sampled_from(["o1", "o2", "o3"]),
            st.sampled_from([None, 1, 2]),
            st.sampled_from([True, True, True, False]),
        ),
        max_size=14,
        unique_by=lambda e: e["event_id"],
    ),
)


def plainly(decisions: list[dict[str, Any]], events: list[dict[str, Any]]) -> Counter[tuple[str, datetime, str, str]]:
    """The rule once more, event by event: how often each slot gets each type; purchases by order line."""
    shown = {(d["request_id"], d["ts"]): d for d in reversed(decisions)}.values()
    counts: Counter[tuple[str, datetime, str, str]] = Counter()
    lines: set[tuple[str, str]] = set()
    for e in sorted(events, key=lambda e: (e["ts"], e["event_id"])):
        if not e["consent"]:
            continue
        if e["type"] == "purchase":
            if (line := (e["order_id"], e["item_id"])) in lines:
                continue
            lines.add(line)
        may = [
            d
            for d in shown
            if d["consent"]
            and e["item_id"] in d["item_ids"]
            and d["ts"] < e["ts"] <= d["ts"] + timedelta(hours=24)
            and (d["request_id"] == e["request_id"] if e["request_id"] else d["user_id"] == e["user_id"] != "")
        ]
        if may:
            last = max(may, key=lambda d: (d["ts"], d["request_id"]))
            counts[last["request_id"], last["ts"], e["item_id"], e["type"]] += 1
    return counts


@settings(max_examples=150, deadline=None)
@given(worlds, st.randoms(use_true_random=False))
def test_laws_of_attribution(world: tuple[list[dict[str, Any]], list[dict[str, Any]]], random: Any) -> None:
    decisions, events = world
    found = join(decisions, events)
    shuffled = [*decisions], [*events]
    for rows in shuffled:
        random.shuffle(rows)
    same_time = len({(d["request_id"], d["ts"]) for d in decisions}) < len(decisions)
    assert same_time or join(*shuffled).equals(found), "the order of rows does not matter"
    assert join(decisions, [*events, *events]).equals(found), "an event delivered twice counts once"
    expected = plainly(decisions, events)
    for row in found.iter_rows(named=True):
        slot = row["request_id"], row["ts"], row["item_id"]
        assert row["clicks"] == expected[*slot, "click"]
        assert row["impressions"] == min(1, expected[*slot, "impression"])
        assert row["purchases"] <= expected[*slot, "purchase"]
    lines = {(e["order_id"], e["item_id"]) for e in events if e["type"] == "purchase" and e["consent"]}
    assert found["purchases"].sum() <= len(lines), "each order line counts at most once"
    assert found["purchases"].sum() == found["order_ids"].list.len().sum()
    assert found.filter(pl.col("revenue") < 0).is_empty()
    no_refunds = join(decisions, [e for e in events if e["type"] != "refund"])
    assert no_refunds["purchases"].sum() == sum(n for (*_, kind), n in expected.items() if kind == "purchase")
    assert found["revenue"].sum() <= no_refunds["revenue"].sum()


@settings(max_examples=60, deadline=None)
@given(worlds)
def test_groups_of_the_report_add_up(world: tuple[list[dict[str, Any]], list[dict[str, Any]]]) -> None:
    report = summarise(join(*world).lazy(), CONFIG)
    for dimension in DIMENSIONS:
        for name in (
            "decisions",
            "without_consent",
            "slots",
            "seen",
            "impressions",
            "clicks",
            "clicked",
            "bought",
            "purchases",
        ):
            assert sum(row[name] for row in report.by[dimension]) == report.total[name]
        revenue = sum(row["revenue"].get("EUR", 0) for row in report.by[dimension])
        assert revenue == pytest.approx(report.total["revenue"].get("EUR", 0))
        assert all(0 <= row[name] <= 1 for row in report.by[dimension] for name in ("ctr", "cvr") if row[name] is not None)


def test_the_places_of_a_later_page_count_on() -> None:
    page = decision("r2", 1, ["c", "d"], first_position=11)
    found = join([decision("r1", 0, ["a", "b"]), page], [event("click", 1.1, "d", request_id="r2")])
    assert dict(zip(found["item_id"], found["position"], strict=True)) == {"a": 1, "b": 2, "c": 11, "d": 12}
    assert found.filter(pl.col("clicks") > 0)["position"].to_list() == [12]
