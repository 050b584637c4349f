"""Served rows against the lake: the same numbers, or the columns that differ, by name."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from deltalake import write_deltalake
from features_process import FACTS

from reco_ray.config import FeaturesConfig
from reco_ray.events.bus import partition_of
from reco_ray.features import transform, user_row
from reco_ray.features.skew import Served, compare, streamed, user_columns
from reco_ray.hashing import user_bucket
from reco_ray.lake import tables

CONFIG = FeaturesConfig(half_life_days=2)
CATEGORIES = ["x", "y"]
STANDS = [10**6, 10**6]
START = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def events() -> pl.DataFrame:
    """Ten users with ten events each; a third of them came by an import, and has no position."""
    rng = np.random.default_rng(1)
    rows = [
        {
            "user_id": f"u{at % 10}",
            "item_id": "abcd"[rng.integers(4)],
            "ts": START + timedelta(minutes=int(rng.integers(10_000))),
            "type": "view",
            "value": None,
            "event_id": f"e{at}",
            "consent": True,
            "bus_position": None if at % 3 == 0 else str(at),
            "user_bucket": user_bucket(f"u{at % 10}"),
            "date": "2026-05",
        }
        for at in range(100)
    ]
    return pl.DataFrame(rows, schema_overrides={"value": pl.Float32, "ts": pl.Datetime("us", "UTC"), "user_bucket": pl.Int32})


@pytest.fixture(scope="module")
def root(events: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> str:
    root = str(tmp_path_factory.mktemp("root"))
    write_deltalake(tables.table_uri(root, "events"), events.to_arrow())
    return root


def served(events: pl.DataFrame, upto: int, config: FeaturesConfig = CONFIG) -> list[Served]:
    """What a stream would have stored when it had applied all records up to a position."""
    known = events.filter(pl.col("bus_position").cast(pl.Int64).fill_null(-1) <= upto)
    rows = transform.user_rows(transform.prepare(known, config), FACTS, config)
    return [(row["user_id"], replace(user_row(row), position=upto)) for row in rows.iter_rows(named=True)]


@pytest.mark.parametrize("upto", [-1, 40, 99])
def test_rows_are_what_the_lake_gives_for_the_same_records(root: str, events: pl.DataFrame, upto: int) -> None:
    report = compare(root, served(events, upto), STANDS, FACTS, CATEGORIES, CONFIG)
    assert (report.rows, report.skewed, report.ahead) == (10, 0, 0)
    assert report.rate == 0


def test_a_transform_that_was_changed_on_one_side_is_caught_by_name(root: str, events: pl.DataFrame) -> None:
    other = served(events, 99, replace(CONFIG, half_life_days=30))
    report = compare(root, other, STANDS, FACTS, CATEGORIES, CONFIG)
    assert report.skewed == 10
    assert set(report.columns) <= {"user_decayed", "user_views", *(name for name in user_columns(CATEGORIES) if ":" in name)}
    assert report.columns["user_decayed"] == 10
    assert report.largest["user_decayed"] > 0.1


def test_a_row_that_lost_an_event_is_caught(root: str, events: pl.DataFrame) -> None:
    last = events.filter(user_id="u3").sort("ts")["event_id"][-1]
    rows = served(events.filter(pl.col("event_id") != last), 99)
    report = compare(root, rows, STANDS, FACTS, CATEGORIES, CONFIG)
    assert report.skewed == 1
    assert {"history", "user_events"} <= set(report.columns)


def test_rows_that_hold_more_than_the_lake_yet_are_left_out(root: str, events: pl.DataFrame) -> None:
    late = partition_of("u1", 2)
    stands = [10**6, 10**6]
    stands[late] = 10
    report = compare(root, served(events, 99), stands, FACTS, CATEGORIES, CONFIG)
    assert report.ahead == sum(partition_of(f"u{at}", 2) == late for at in range(10))
    assert report.rows == 10 - report.ahead
    assert report.skewed == 0


def test_what_the_streams_code_makes_of_the_lakes_events_is_what_the_batch_makes(root: str) -> None:
    users = [f"u{at}" for at in range(10)]
    made = streamed(root, users, FACTS, CONFIG)
    assert sorted(user for user, _ in made) == users
    report = compare(root, made, [2**63 - 1], FACTS, CATEGORIES, CONFIG)
    assert (report.rows, report.skewed, report.ahead) == (10, 0, 0)
    other = streamed(root, users[:4], FACTS, replace(CONFIG, half_life_days=30))
    assert compare(root, other, [2**63 - 1], FACTS, CATEGORIES, CONFIG).skewed == 4
