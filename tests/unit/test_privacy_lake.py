"""Users leave a table while others write to it and compact it; partitions of any name, and logs of any age."""

import json
import threading
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.transaction import AddAction
from privacy_world import GONE, START, USERS, event, traces

from reco_ray.config import DateUnit
from reco_ray.lake import append_events, files, tables
from reco_ray.lake.compact import compact
from reco_ray.privacy import lake
from reco_ray.privacy.needles import Needle
from reco_ray.schema import EVENTS, check


def append(root: Path, number: int, users: list[str]) -> None:
    rows = [event(user, number, START + timedelta(days=number % 3, seconds=number)) for user in users]
    append_events(str(root), check(pa.Table.from_pylist(rows), EVENTS, "world"), "w", number, DateUnit.day)


def test_rows_of_others_are_there_once_whatever_is_written_and_compacted_meanwhile(tmp_path: Path) -> None:
    uri = tables.table_uri(str(tmp_path), "events")
    gone, stay = USERS[:8], USERS[8:]
    for number in range(6):
        append(tmp_path, number, USERS)
    failed: list[BaseException] = []
    done = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        try:
            while not done.is_set():
                append(tmp_path, 6 + written, stay)  # the fence keeps the others out
                written += 1
                if written % 3 == 0:
                    compact(str(tmp_path), "events")
        except BaseException as exc:
            failed.append(exc)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for user in gone:
            assert lake.remove_rows(uri, [user]).users == {user: 6}
            lake.remove_old_files(uri, [user])
    finally:
        done.set()
        writer.join()
    assert not failed, failed
    rows = tables.read(str(tmp_path), "events", ["event_id", "user_id"])
    assert rows["event_id"].is_unique().all(), "a row is there twice"
    assert dict(rows.group_by("user_id").len().iter_rows()) == dict.fromkeys(stay, 6 + written)
    for user in gone:
        assert lake.remove_old_files(uri, [user]).users == {}


def test_a_compaction_that_an_erasure_overtakes_leaves_no_copy_of_the_erased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = tables.table_uri(str(tmp_path), "events")
    for number in (0, 3):  # of one day
        append(tmp_path, number, USERS)
    write_files = files.write_files

    def overtaken(uri: str, rows: pa.Table, *, data_change: bool = True) -> list[AddAction]:
        written = write_files(uri, rows, data_change=data_change)
        lake.remove_rows(uri, USERS[:1])  # the second time there are none
        return written

    monkeypatch.setattr("reco_ray.lake.compact.write_files", overtaken)
    assert compact(str(tmp_path), "events").files_after == 1
    assert lake.remove_old_files(uri, USERS[:1]).users == {USERS[0]: 2}, "the two that the erasure replaced"


def test_two_compactions_at_once_keep_every_row_once(tmp_path: Path) -> None:
    for number in range(30):
        append(tmp_path, number, USERS[:3])
    failed: list[BaseException] = []
    begin = threading.Barrier(4)

    def run() -> None:
        try:
            begin.wait()
            compact(str(tmp_path), "events")
        except BaseException as exc:
            failed.append(exc)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed
    rows = tables.read(str(tmp_path), "events", ["event_id"])
    assert rows.height == rows["event_id"].n_unique() == 90
    assert len(DeltaTable(tables.table_uri(str(tmp_path), "events")).file_uris()) == 3


def test_a_partition_of_any_name_keeps_its_other_rows(tmp_path: Path) -> None:
    uri = str(tmp_path / "lake" / "odd")
    names = ["plain", "a b/c", "ü=%20"]
    frame = pl.DataFrame([{"part": name, "user_id": user, "n": n} for name in names for n, user in enumerate(USERS)])
    write_deltalake(uri, frame.to_arrow(), partition_by=["part"])
    assert lake.remove_rows(uri, [GONE]).users == {GONE: 3}
    left = pl.read_delta(uri).select("part", "user_id", "n").sort("part", "user_id")
    assert left.equals(frame.filter(pl.col("user_id") != GONE).sort("part", "user_id"))
    assert lake.remove_old_files(uri, [GONE]).users == {GONE: 3}
    assert pl.read_delta(uri).height == left.height


def test_a_file_of_one_user_alone_leaves_nothing(tmp_path: Path) -> None:
    append(tmp_path, 0, [GONE])
    append(tmp_path, 1, USERS)
    uri = tables.table_uri(str(tmp_path), "events")
    assert lake.remove_rows(uri, [GONE]).users == {GONE: 2}
    assert lake.count_rows(uri, [GONE]).users == {}
    assert tables.read(str(tmp_path), "events").height == len(USERS) - 1
    assert lake.remove_rows(uri, [GONE]).users == {}
    assert DeltaTable(uri).version() == 3, "where nothing is found nothing is committed"


def test_statistics_of_a_rewritten_file_are_those_of_what_it_holds(tmp_path: Path) -> None:
    append(tmp_path, 0, USERS)
    rows = [event(GONE, 9, START + timedelta(hours=20)), event("user-1", 9, START + timedelta(hours=3))]
    append_events(str(tmp_path), check(pa.Table.from_pylist(rows), EVENTS, "world"), "w", 9, DateUnit.day)
    uri = tables.table_uri(str(tmp_path), "events")
    lake.remove_rows(uri, [GONE])
    (log,) = Path(uri).glob(f"_delta_log/{DeltaTable(uri).version():020d}.json")
    adds = [json.loads(line)["add"] for line in log.read_text().splitlines() if line.startswith('{"add"')]
    assert len(adds) == 2
    for add in adds:
        found, said = pl.read_parquet(str(Path(uri) / add["path"]), hive_partitioning=False), json.loads(add["stats"])
        assert said["numRecords"] == found.height
        assert set(said["minValues"]) == set(said["maxValues"]) == {"ts", "user_bucket"}, "no ids"
        assert datetime.fromisoformat(said["minValues"]["ts"]) == found["ts"].min()
        assert datetime.fromisoformat(said["maxValues"]["ts"]) == found["ts"].max()
        assert said["minValues"]["user_bucket"] == found["user_bucket"].min()
        assert said["maxValues"]["user_bucket"] == found["user_bucket"].max()
        assert said["nullCount"] == {"ts": 0, "user_bucket": 0}
    late = pl.scan_delta(uri).filter(pl.col("ts") > START + timedelta(hours=2)).collect()
    assert late["user_id"].to_list() == ["user-1"], "files are skipped by these statistics"


def test_a_log_that_names_a_user_is_made_anew_and_the_table_stays_what_it_was(tmp_path: Path) -> None:
    uri = str(tmp_path / "lake" / "labels")
    frame = pl.DataFrame({"user_id": USERS, "n": list(range(len(USERS)))})
    write_deltalake(uri, frame.to_arrow())
    DeltaTable(uri).delete(f"user_id = '{USERS[3]}'")
    DeltaTable(uri).create_checkpoint()
    write_deltalake(uri, frame.head(1).to_arrow(), mode="append")
    lake.remove_rows(uri, [GONE])
    lake.remove_old_files(uri, [GONE])
    assert traces(tmp_path), "statistics name the user"
    found = lake.clean_log(uri, {GONE: Needle(GONE), USERS[3]: Needle(USERS[3])})
    assert found.users[GONE] >= 2
    assert found.users[USERS[3]] >= 1, "the predicate of a DELETE"
    assert traces(tmp_path) == []
    assert traces(tmp_path / "lake" / "labels" / "_delta_log", USERS[3]) == []
    left = pl.read_delta(uri).sort("n")
    assert left.equals(frame.filter(~pl.col("user_id").is_in([GONE, USERS[3]])).sort("n"))
    write_deltalake(uri, frame.tail(1).to_arrow(), mode="append")
    assert pl.read_delta(uri).height == left.height + 1
    assert lake.clean_log(uri, {GONE: Needle(GONE)}).users == {}
    assert traces(tmp_path / "lake" / "labels" / "_delta_log", USERS[-1]) == [], "new files get no statistics of ids"
