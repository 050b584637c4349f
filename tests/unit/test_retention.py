"""Retention: what is past its days goes, by whole dates, and nothing else does."""

import asyncio
import json
import os
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import orjson
import pyarrow as pa
import pytest
from ports import free_port
from privacy_world import OTHERS, config_of, event

from reco_ray.cluster import embedded_store
from reco_ray.config import DateUnit, PipelineConfig
from reco_ray.errors import ConfigError
from reco_ray.events.bus import DEAD_LETTERS, Outgoing
from reco_ray.events.open import open_producer
from reco_ray.lake import append_events, tables
from reco_ray.privacy.retention import apply_retention, expired
from reco_ray.privacy.run import bus_of
from reco_ray.schema import EVENTS, check
from reco_ray.store import OnlineStore

NOW = datetime(2026, 6, 15, 9, tzinfo=UTC)


def days_ago(*ages: int) -> list[datetime]:
    return [NOW - timedelta(days=age) for age in ages]


@pytest.fixture
def config(tmp_path: Path) -> PipelineConfig:
    config = config_of(tmp_path, "", free_port(), "privacy.events_days=30", "privacy.vacuum_hours=1")
    rows = [event(user, n, ts) for n, ts in enumerate(days_ago(0, 29, 30, 31, 32, 90)) for user in OTHERS]
    append_events(str(tmp_path), check(pa.Table.from_pylist(rows), EVENTS, "world"), "w", 0, DateUnit.day)
    return config


def test_dates_go_when_all_of_their_rows_are_past_their_days(config: PipelineConfig) -> None:
    (found,) = expired(config, NOW.date())
    assert found.table == "events"
    assert found.dates == ("2026-03-17", "2026-05-14", "2026-05-15")
    assert found.rows == 3 * len(OTHERS)
    config.privacy.events_days = 0
    assert expired(config, NOW.date()) == [], "0 keeps them"


def test_months_go_when_their_last_day_is_past_its_days(tmp_path: Path) -> None:
    config = config_of(tmp_path, "", free_port(), "privacy.events_days=30", "lake.date_unit=month")
    rows = [{**event("u", n, ts), "date": f"{ts:%Y-%m-01}"} for n, ts in enumerate(days_ago(0, 30, 60))]
    append_events(str(tmp_path), check(pa.Table.from_pylist(rows), EVENTS, "world"), "w", 0, DateUnit.month)
    assert [each.dates for each in expired(config, NOW.date())] == [("2026-04-01",)]
    assert expired(config, date(2026, 6, 30))[0].dates == ("2026-04-01",), "30 days before is the last of May"
    assert expired(config, date(2026, 7, 1))[0].dates == ("2026-04-01", "2026-05-01")


def test_retention_removes_rows_files_and_dead_letters_once(config: PipelineConfig, tmp_path: Path) -> None:
    folder = tmp_path / "lake" / "events" / "date=2026-06-15"
    for name, age_s in (("killed.parquet", 7200), ("at-work.parquet", 60)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age_s,) * 2)
    with embedded_store(config) as url, OnlineStore(url, config.store.namespace) as store:

        async def refuse() -> None:
            producer = open_producer(config.events, config.store.namespace, url)
            await producer.append(DEAD_LETTERS, [Outgoing(n % 2, orjson.dumps({"n": n})) for n in range(10)])
            await producer.aclose()

        asyncio.run(refuse())
        first = apply_retention(config, store, bus_of(config, url), NOW)
        assert first.dead_letters == 0, "they are younger than 14 days"
        assert first.vacuumed == {"events": 1}, "what a killed writer left, not what one writes now"
        assert first.expired[0].rows == 3 * len(OTHERS)
        names = {path.name for path in folder.iterdir()}
        assert "at-work.parquet" in names
        assert "killed.parquet" not in names
        left = tables.read(config.root, "events")
        assert left.height == 3 * len(OTHERS)
        assert left["ts"].min() == NOW - timedelta(days=30)
        later = datetime.now(UTC) + timedelta(days=15)
        config.privacy.events_days = 0
        second = apply_retention(config, store, bus_of(config, url), later)
        assert second.dead_letters == 10
        assert second.expired == ()
        assert apply_retention(config, store, bus_of(config, url), later).dead_letters == 0
    reports = sorted((tmp_path / "reports" / "apply_retention").glob("*.json"))
    assert json.loads(reports[0].read_text())["expired"][0]["dates"] == ["2026-03-17", "2026-05-14", "2026-05-15"]


def test_files_of_the_last_minutes_cannot_be_vacuumed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"privacy.vacuum_hours: found 0"):
        config_of(tmp_path, "redis://x", 0, "privacy.vacuum_hours=0")
