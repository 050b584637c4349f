"""The join over a lake: each date from its own window, again while that is open, and nothing written that is there already."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from test_attribution import at, decision, event, purchase

from reco_ray.compose import compose_config
from reco_ray.config import DateUnit, PipelineConfig
from reco_ray.errors import DataError
from reco_ray.feedback.attribution import DECISION_COLUMNS, EVENT_COLUMNS, attribute
from reco_ray.feedback.flow import join_feedback
from reco_ray.lake import tables
from reco_ray.lake.dates import date_of, date_span
from reco_ray.schema import EVENTS, EXPOSURES

DECISIONS = [
    decision("r1", 1, ["a", "b"]),
    decision("r2", 23, ["a"], release="B"),
    decision("r3", 26, ["a"]),
    decision("r4", 50, ["c"]),
]
EVENTS_OF_WORLD = [
    event("click", 2, "b"),
    event("click", 25, "a"),
    event("click", 27, "a"),
    purchase(24.5, "a", "o1"),
    purchase(48, "a", "o1", event_id="sent again"),
    event("refund", 30, "a", order_id="o1"),
    event("click", 51, "c", request_id="r4"),
]


@pytest.fixture
def config(tmp_path: Path) -> PipelineConfig:
    return compose_config([f"root={tmp_path}", "lake.date_unit=day", "feedback.delay_hours=24"], "join_feedback")


def store(config: PipelineConfig, decisions: Sequence[dict[str, Any]], events: Sequence[dict[str, Any]]) -> None:
    def made(row: dict[str, Any]) -> dict[str, Any]:
        date = date_of(int(row["ts"].timestamp() * 1e6), config.lake.date_unit)
        return {"received_ts": row["ts"], "schema_version": "1.1", "user_bucket": 1, **row, "date": date}

    blank = {"call": "recommend", "degraded": [], "age_s": 0.0, "timings": []}
    rows = [{**blank, "sources": [[]] * len(d["item_ids"]), "rules": [[]] * len(d["item_ids"]), **made(d)} for d in decisions]
    tables.replace(config.root, "exposures", pa.Table.from_pylist(rows, EXPOSURES))
    tables.replace(config.root, "events", pa.Table.from_pylist([made(e) for e in events], EVENTS))


def stored(config: PipelineConfig) -> pl.DataFrame:
    return tables.read(config.root, "feedback").sort("ts", "request_id", "position")


def test_dates_joined_one_by_one_give_what_one_join_of_all_gives(config: PipelineConfig) -> None:
    store(config, DECISIONS, EVENTS_OF_WORLD)
    report = join_feedback(config, at(60))
    assert report.joined == report.changed == ("2026-05-01", "2026-05-02", "2026-05-03")
    assert report.slots == 5
    decisions = tables.read(config.root, "exposures", DECISION_COLUMNS)
    whole = attribute(decisions, tables.read(config.root, "events", EVENT_COLUMNS), config.feedback)
    assert stored(config).equals(whole)
    assert stored(config).select("request_id", "item_id", "clicks", "purchases", "revenue").rows() == [
        ("r1", "a", 0, 0, 0.0),
        ("r1", "b", 1, 0, 0.0),
        ("r2", "a", 1, 0, 0.0),
        ("r3", "a", 1, 0, 0.0),
        ("r4", "c", 1, 0, 0.0),
    ]
    assert stored(config)["grade"].to_list() == [0.0, 1.0, 3.0, 1.0, 1.0]


def test_a_second_join_changes_nothing(config: PipelineConfig) -> None:
    store(config, DECISIONS, EVENTS_OF_WORLD)
    first = join_feedback(config, at(60))
    version, content = tables.version(config.root, "feedback"), Path(first.report).stat().st_mtime_ns
    again = join_feedback(config, at(60))
    assert (again.joined, again.changed) == (("2026-05-02", "2026-05-03"), ())
    assert tables.version(config.root, "feedback") == version
    assert Path(again.report).stat().st_mtime_ns == content


def test_a_date_is_joined_again_until_its_window_has_closed(config: PipelineConfig) -> None:
    store(config, DECISIONS, EVENTS_OF_WORLD[:2])
    assert join_feedback(config, at(30)).changed == ("2026-05-01", "2026-05-02", "2026-05-03")
    store(config, DECISIONS, EVENTS_OF_WORLD)
    assert join_feedback(config, at(31)).changed == ("2026-05-01", "2026-05-02", "2026-05-03")
    assert join_feedback(config, at(49)).joined == ("2026-05-01", "2026-05-02", "2026-05-03")
    assert join_feedback(config, at(49)).joined == ("2026-05-02", "2026-05-03"), "the first is closed, and was joined since"
    store(config, DECISIONS, [])
    assert join_feedback(config, at(60)).changed == ("2026-05-02", "2026-05-03")
    assert join_feedback(config, at(200)).joined == ("2026-05-02", "2026-05-03")
    assert join_feedback(config, at(200)).joined == ()
    assert stored(config)["clicks"].to_list() == [0, 1, 1, 0, 0]


def test_only_the_window_of_a_date_is_read(config: PipelineConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    long = [decision(f"r{day}", 24 * day + 1, ["a"]) for day in range(20)]
    store(config, long, [event("click", 24 * day + 2, "a") for day in range(20)])
    join_feedback(config, at(24 * 10))
    read = tables.read
    seen: dict[str, list[str]] = {"events": [], "exposures": []}

    def counting(root: str, name: str, columns: Any = None, where: Any = None) -> pl.DataFrame:
        found = read(root, name, columns, where)
        if name in seen:
            seen[name] += found["ts"].dt.strftime("%d").unique().to_list()
        return found

    monkeypatch.setattr(tables, "read", counting)
    assert join_feedback(config, at(24 * 20.5)).joined[0] == "2026-05-09"
    assert min(seen["exposures"]) == "09"
    assert min(seen["events"]) == "08"


def test_ratings_count_where_they_have_a_grade(config: PipelineConfig) -> None:
    store(config, DECISIONS, [event("rating", 2, "b", value=5.0)])
    join_feedback(config, at(30))
    assert stored(config)["grade"].max() == 0.0
    config.feedback.grades["rating"] = 2.0
    join_feedback(config, at(30))
    assert stored(config).filter(pl.col("grade") > 0).select("request_id", "item_id", "grade").rows() == [("r1", "b", 2.0)]


def test_months_work_as_days_do(config: PipelineConfig) -> None:
    config.lake.date_unit = DateUnit.month
    store(config, DECISIONS, EVENTS_OF_WORLD)
    assert join_feedback(config, at(60)).changed == ("2026-05-01",)
    assert stored(config)["clicks"].to_list() == [0, 1, 1, 1, 1]


def test_the_report_and_the_table_s_log_name_no_user(config: PipelineConfig) -> None:
    store(config, [decision("r1", 1, ["a"], user_id="somebody-rare")], [event("click", 2, "a", user_id="somebody-rare")])
    report = join_feedback(config, at(3))
    assert json.loads(Path(report.report).read_text())["total"]["clicks"] == 1
    assert report.text.splitlines()[1].split()[:3] == ["total", "1", "1"]
    log = Path(config.root, "lake", "feedback", "_delta_log")
    assert not [path for path in [Path(report.report), *log.iterdir()] if b"somebody-rare" in path.read_bytes()]
    assert DeltaTable(str(log.parent)).metadata().partition_columns == ["date"]


def test_without_exposures_or_events_the_join_says_what_is_missing(config: PipelineConfig) -> None:
    with pytest.raises(DataError, match=r"table 'exposures' under .*: found nothing, expected decisions"):
        join_feedback(config)
    store(config, DECISIONS, [])
    tables_of_events = Path(config.root, "lake", "events", "_delta_log")
    for path in tables_of_events.iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"table 'events' under .*: found nothing"):
        join_feedback(config)


@pytest.mark.parametrize(
    ("date", "unit", "days"),
    [("2026-05-01", DateUnit.day, 1), ("2026-02-01", DateUnit.month, 28), ("2026-12-01", DateUnit.month, 31)],
)
def test_a_date_spans_its_day_or_its_month(date: str, unit: DateUnit, days: int) -> None:
    start, end = date_span(date, unit)
    assert start == datetime.fromisoformat(date).replace(tzinfo=UTC)
    assert end - start == timedelta(days=days)
    assert date_of(int(start.timestamp() * 1e6), unit) == date_of(int(end.timestamp() * 1e6) - 1, unit) == date
