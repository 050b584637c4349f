"""The lake: what is imported twice is stored once, and every error says what to do."""

import errno
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from reco_ray.config import SourceConfig
from reco_ray.errors import ArtifactError, DataError, NotReadyError, SchemaError
from reco_ray.lake import append_events, storage, tables
from reco_ray.lake.assess import assess
from reco_ray.schema import EVENTS, check

Admit = Callable[..., pa.Table]


def test_a_full_disk_is_told_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(NotReadyError, match=r"a\.parquet: found no room left"):
        storage.write_parquet(str(tmp_path / "a.parquet"), pa.table({"a": [1]}))
    with pytest.raises(NotReadyError, match=r"b\.json: found no room left"):
        storage.write_bytes(str(tmp_path / "b.json"), b"1")


def test_events_are_stored_once_however_often_they_come(
    tmp_path: Path, raw_events: pl.DataFrame, source: SourceConfig, admitted: Admit
) -> None:
    root, table = str(tmp_path), admitted(raw_events, source)
    assert append_events(root, table, "a", 0) == raw_events.height
    assert append_events(root, table, "a", 0) == 0, "the same batch of the same writer"
    version = tables.version(root, "events")
    assert append_events(root, table, "b", 0) == 0, "the same events of another writer"
    assert tables.version(root, "events") == version, "a batch without news commits nothing"
    longer = pl.concat([raw_events, raw_events.head(3).with_columns(item_id=pl.lit("item-new"))])
    assert append_events(root, admitted(longer, source), "c", 0) == 3
    assert tables.read(root, "events")["event_id"].is_unique().all()


def test_no_id_gets_statistics_in_the_delta_log(
    tmp_path: Path, raw_events: pl.DataFrame, source: SourceConfig, admitted: Admit
) -> None:
    append_events(str(tmp_path), admitted(raw_events, source), "a", 0)
    log = "".join(p.read_text() for p in (tmp_path / "lake/events/_delta_log").glob("*.json"))
    assert "user-1" not in log
    assert "item-1" not in log


def test_a_column_that_a_table_has_not_yet_is_null_in_the_rows_that_stay(tmp_path: Path) -> None:
    root = str(tmp_path)
    for part, more in (("old", {}), ("new", {"ts": [1]}), ("new", {"ts": [2]})):
        tables.replace(root, "labels", pa.table({"user_id": ["u"], "part": [part], **more}), f"part = '{part}'")
    assert tables.read(root, "labels").sort("part").select("part", "ts").rows() == [("new", 2), ("old", None)]


def test_a_table_that_is_not_there_names_the_job_before(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run the job before"):
        tables.read(str(tmp_path), "events")


def test_a_null_where_none_may_be_is_refused(raw_events: pl.DataFrame, source: SourceConfig, admitted: Admit) -> None:
    table = pl.DataFrame(admitted(raw_events, source)).with_columns(user_id=pl.lit(None, pl.String))
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


def test_the_assessment_keeps_a_small_catalogue_on_lists(events: pl.DataFrame) -> None:
    small = assess(events)
    assert small.rung == "starter"
    assert "profile=starter" in small.advice
    many = pl.concat(
        [events.with_columns(user_id=pl.col("user_id") + f"/{i}", item_id=pl.col("item_id") + f"/{i % 9}") for i in range(40)]
    )
    assert assess(many).rung == "trained"
