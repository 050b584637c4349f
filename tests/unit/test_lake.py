"""The lake: what is imported twice is stored once, and every error says what to do."""

from pathlib import Path

import polars as pl
import pytest

from reco_ray.config import SourceConfig, SourceKind
from reco_ray.errors import ArtifactError, DataError, SchemaError
from reco_ray.lake import append_events, sources, storage, tables
from reco_ray.lake.assess import assess
from reco_ray.schema import EVENTS, check


def test_events_are_stored_once_however_often_they_come(tmp_path: Path, raw_events: pl.DataFrame, source: SourceConfig) -> None:
    root, table = str(tmp_path), sources.events_table(raw_events, source, 7, "world")
    assert append_events(root, table, "a", 0) == raw_events.height
    assert append_events(root, table, "a", 0) == 0, "the same batch of the same writer"
    assert append_events(root, table, "b", 0) == 0, "the same events of another writer"
    longer = pl.concat([raw_events, raw_events.head(3).with_columns(item_id=pl.lit("item-new"))])
    assert append_events(root, sources.events_table(longer, source, 7, "world"), "c", 0) == 3
    assert tables.read(root, "events")["event_id"].is_unique().all()
    assert tables.version(root, "events") == 2, "a batch without news commits nothing"


def test_a_repeated_row_is_kept_and_a_repeated_import_is_not(source: SourceConfig, raw_events: pl.DataFrame) -> None:
    twice = pl.concat([raw_events.head(1), raw_events.head(1)])
    ids = sources.events_table(twice, source, 7, "x").column("event_id").to_pylist()
    assert len(set(ids)) == 2
    assert ids == sources.events_table(twice, source, 7, "x").column("event_id").to_pylist()


def test_no_id_gets_statistics_in_the_delta_log(tmp_path: Path, raw_events: pl.DataFrame, source: SourceConfig) -> None:
    append_events(str(tmp_path), sources.events_table(raw_events, source, 7, "world"), "a", 0)
    log = "".join(p.read_text() for p in (tmp_path / "lake/events/_delta_log").glob("*.json"))
    assert "user-1" not in log
    assert "item-1" not in log


def test_permuted_ids_keep_who_is_who_and_hide_the_number() -> None:
    source = SourceConfig(kind=SourceKind.files, events="x.csv", permute_ids=True)
    raw = pl.DataFrame({"user_id": [1, 1, 2], "item_id": [10, 11, 10], "ts": [1, 2, 3]})
    one, other = (pl.DataFrame(sources.events_table(raw, source, seed, "x")) for seed in (1, 2))
    assert one["user_id"][0] == one["user_id"][1] != one["user_id"][2]
    assert one["item_id"][0] == one["item_id"][2] != one["item_id"][1]
    assert not set(one["user_id"]) & set(other["user_id"]), "another seed, other ids"


def test_a_missing_column_is_named_with_its_remedy(source: SourceConfig) -> None:
    with pytest.raises(SchemaError, match=r"found columns \['who'\].*expected 'user_id'.*source.columns.user_id=COLUMN"):
        sources.events_table(pl.DataFrame({"who": ["a"]}), source, 7, "events at x.csv")


def test_unreadable_times_and_types_are_refused(source: SourceConfig, raw_events: pl.DataFrame) -> None:
    with pytest.raises(DataError, match="column 'ts' holds 1 unreadable"):
        sources.events_table(pl.DataFrame([{"user_id": "u", "item_id": "i", "ts": "soon", "type": "like"}]), source, 7, "x")
    with pytest.raises(DataError, match=r"found event types \['adored'\]"):
        sources.events_table(raw_events.with_columns(type=pl.lit("adored")), source, 7, "x")


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_numeric_times_are_read_in_their_unit(unit: str) -> None:
    factor = {"s": 1, "ms": 1_000, "us": 1_000_000}[unit]
    source = SourceConfig(kind=SourceKind.files, events="x.csv", ts_unit=unit, permute_ids=False)
    raw = pl.DataFrame({"user_id": ["u"], "item_id": ["i"], "ts": [1_700_000_000 * factor]})
    table = sources.events_table(raw, source, 7, "x")
    assert str(table.column("ts")[0]) == "2023-11-14 22:13:20+00:00"


@pytest.mark.parametrize(("path", "message"), [("nowhere.csv", "found no file"), (__file__, "found ending '.py'")])
def test_a_file_that_cannot_be_read_is_named(path: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        sources.read_file(path)


def test_a_table_that_is_not_there_names_the_job_before(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run the job before"):
        tables.read(str(tmp_path), "events")


def test_a_null_where_none_may_be_is_refused(raw_events: pl.DataFrame, source: SourceConfig) -> None:
    table = pl.DataFrame(sources.events_table(raw_events, source, 7, "x")).with_columns(user_id=pl.lit(None, pl.String))
    with pytest.raises(SchemaError, match=r"'user_id' holds \d+ nulls, expected none"):
        check(table.to_arrow(), EVENTS, "x")


def test_a_published_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    made, target = tmp_path / "made", tmp_path / "a" / "b"
    made.mkdir()
    (made / "data").write_text("1")
    (made / "last").write_text("2")
    target.mkdir(parents=True)
    (target / "rest-of-a-killed-run").write_text("")
    storage.publish(made, str(target), "last")
    assert storage.listing(str(target)) == ["data", "last"]
    with pytest.raises(ArtifactError, match="found nothing"):
        storage.fetch(str(tmp_path / "none"))


def test_items_that_nobody_described_are_items_too() -> None:
    (row,) = sources.bare_items(["a"]).to_pylist()
    assert row["item_id"] == "a"
    assert row["available"]
    assert row["title"] is None


def test_the_assessment_keeps_a_small_catalogue_on_lists(events: pl.DataFrame) -> None:
    small = assess(events)
    assert small.rung == "starter"
    assert "profile=starter" in small.advice
    many = pl.concat(
        [events.with_columns(user_id=pl.col("user_id") + f"/{i}", item_id=pl.col("item_id") + f"/{i % 9}") for i in range(40)]
    )
    assert assess(many).rung == "trained"
