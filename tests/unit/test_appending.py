"""Appending exactly once: conflicts, stale writers, a killed log, other units, and compaction beside it all."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from reco_ray.config import DateUnit
from reco_ray.errors import DataError, StaleWriterError
from reco_ray.hashing import user_bucket
from reco_ray.lake import storage, tables
from reco_ray.lake.appending import TableAppender
from reco_ray.lake.compact import compact
from reco_ray.lake.ids import StoredIds
from reco_ray.schema import EVENTS, EXPOSURES, check

START = datetime(2026, 1, 1, tzinfo=UTC)


def rows(ids: list[str], day: int = 0, user: str = "u") -> pa.Table:
    """Events of one day, each of a user of its own."""
    users = [f"{user}-{event_id}" for event_id in ids]
    ts = [START + timedelta(days=day, seconds=n) for n in range(len(ids))]
    columns = {
        "event_id": ids,
        "schema_version": ["1.1"] * len(ids),
        "received_ts": ts,
        "type": ["view"] * len(ids),
        "user_id": users,
        "item_id": ["i"] * len(ids),
        "ts": ts,
        "consent": [True] * len(ids),
        "date": [f"{each:%Y-%m-%d}" for each in ts],
        "user_bucket": [user_bucket(each) for each in users],
    }
    return check(pa.table(columns), EVENTS, "test") if ids else EVENTS.empty_table()


def stored(root: Path) -> list[str]:
    return sorted(tables.read(str(root), "events", ["event_id"])["event_id"])


def appender(root: Path, app_id: str = "sink:events:0", unit: DateUnit | None = DateUnit.day) -> TableAppender:
    return TableAppender(str(root), "events", app_id, unit)


def test_a_batch_is_committed_once_and_the_table_knows_how_far_its_writer_came(tmp_path: Path) -> None:
    one = appender(tmp_path)
    assert one.position() == -1
    assert one.append(rows(["a", "b"]), 3, 9).rows == 2
    assert one.position() == 9
    with pytest.raises(StaleWriterError, match="found position 9, expected one before 9"):
        one.append(rows(["b"]), 9, 12)
    assert appender(tmp_path).position() == 9
    assert appender(tmp_path, "sink:events:1").position() == -1
    assert stored(tmp_path) == ["a", "b"]


def test_a_stale_second_owner_is_fenced_off_whenever_it_looked(tmp_path: Path) -> None:
    old, new = appender(tmp_path), appender(tmp_path)
    new.append(rows(["a"]), 0, 5)
    with pytest.raises(StaleWriterError):
        old.append(rows(["a"]), 0, 5)

    def interrupted(batch: pa.Table, table: DeltaTable) -> pa.Table:
        if new.position() == 5:  # commits between the old owner's look at the table and its commit
            new.append(rows(["b"]), 6, 8)
        return batch

    with pytest.raises(StaleWriterError, match="found position 8"):
        old.append(rows(["b"]), 6, 8, interrupted)
    assert stored(tmp_path) == ["a", "b"]


def test_a_batch_without_rows_moves_the_position(tmp_path: Path) -> None:
    one = appender(tmp_path)
    one.append(rows([]), 0, 41)
    assert appender(tmp_path).position() == 41


def test_the_position_outlives_checkpoints_and_the_removal_of_the_log(tmp_path: Path) -> None:
    one = appender(tmp_path)
    for n in range(120):
        one.append(rows([str(n)]), n, n)
    table = DeltaTable(tables.table_uri(str(tmp_path), "events"))
    table.create_checkpoint()
    log = tmp_path / "lake/events/_delta_log"
    assert (log / "_last_checkpoint").exists()
    for path in log.glob("*.json"):
        if int(path.stem) <= table.version():
            path.unlink()
    assert appender(tmp_path).position() == 119
    assert len(stored(tmp_path)) == 120


def test_many_writers_an_overwrite_and_a_compaction_at_once_lose_and_repeat_nothing(tmp_path: Path) -> None:
    root, batches, writers = str(tmp_path), 12, 4
    appender(tmp_path).append(rows(["0"]), 0, 0)
    done = threading.Event()

    def write(writer: int) -> int:
        one, conflicts = appender(tmp_path, f"w{writer}"), 0
        for n in range(batches):
            conflicts += one.append(rows([f"{writer}-{n}"], day=n % 3), n, n).conflicts
        return conflicts

    def merge() -> int:
        merged = 0
        while not done.is_set():
            merged += compact(root, "events").files_before
        return merged

    def rewrite() -> int:
        n = 0
        while not done.is_set():
            table = DeltaTable(tables.table_uri(root, "events"))
            kept = pl.scan_delta(table).filter(pl.col("date") == "2026-01-02").collect().to_arrow()
            try:
                write_deltalake(table, kept, mode="overwrite", predicate="date = '2026-01-02'")
                n += 1
            except Exception:
                continue
        return n

    with ThreadPoolExecutor(8) as pool:
        beside = [pool.submit(merge), pool.submit(rewrite)]
        conflicts = sum(pool.map(write, range(writers)))
        done.set()
        assert all(each.result() for each in beside)
    assert conflicts, "nothing was tried"
    assert stored(tmp_path) == sorted(["0", *(f"{w}-{n}" for w in range(writers) for n in range(batches))])


def test_a_writer_with_another_unit_of_dates_is_refused(tmp_path: Path) -> None:
    appender(tmp_path, unit=DateUnit.day).append(rows(["a"]), 0, 0)
    with pytest.raises(DataError, match=r"found dates by day, expected by month; give lake\.date_unit=day"):
        appender(tmp_path, unit=DateUnit.month)


def test_a_table_from_before_units_were_recorded_has_months(tmp_path: Path) -> None:
    old = rows(["a"]).drop_columns(["order_id", "quantity", "price", "currency", "dwell_ms"])
    write_deltalake(tables.table_uri(str(tmp_path), "events"), old, partition_by=["date"])
    with pytest.raises(DataError, match="found dates by month, expected by day"):
        appender(tmp_path, unit=DateUnit.day)
    appender(tmp_path, unit=DateUnit.month).append(rows(["b"]), 0, 0)
    frame = tables.read(str(tmp_path), "events")
    assert set(EVENTS.names) <= set(frame.columns), "it was given the columns that it lacked"
    assert stored(tmp_path) == ["a", "b"]
    assert compact(str(tmp_path), "events").rows == 2
    assert stored(tmp_path) == ["a", "b"]


def test_no_id_gets_statistics_in_the_log_or_in_the_files(tmp_path: Path) -> None:
    appender(tmp_path).append(rows(["secret-1", "secret-2"]), 0, 0)
    compact(str(tmp_path), "events")
    log = "".join(path.read_text() for path in (tmp_path / "lake/events/_delta_log").glob("*.json"))
    assert "secret" not in log
    assert "numRecords" in log
    for path in (tmp_path / "lake/events").rglob("*.parquet"):
        group = pq.ParquetFile(path).metadata.row_group(0)
        columns = [group.column(n) for n in range(group.num_columns)]
        assert {each.path_in_schema for each in columns if each.is_stats_set} == {"ts", "user_bucket"}


def test_compaction_sorts_and_changes_nothing_that_is_read(tmp_path: Path) -> None:
    root, one = str(tmp_path), appender(tmp_path)
    for n in range(8):
        one.append(rows([f"{n}-{m}" for m in range(50)], day=n % 2), n, n)
    before = tables.content_hash(tables.read(root, "events"), ["event_id"])
    report = compact(root, "events", more_than=4)
    assert (report.dates, report.files_before) == (0, 0), "no date has more than four"
    report = compact(root, "events", more_than=3)
    assert (report.dates, report.files_before, report.files_after, report.rows) == (2, 8, 2, 400)
    assert tables.content_hash(tables.read(root, "events"), ["event_id"]) == before
    version = tables.version(root, "events")
    assert compact(root, "events").dates == 0
    assert tables.version(root, "events") == version, "a second compaction commits nothing"
    for uri in DeltaTable(tables.table_uri(root, "events")).file_uris():
        order = pl.DataFrame(storage.read_parquet(uri, ["user_bucket", "user_id", "ts"]))
        assert order.equals(order.sort("user_bucket", "user_id", "ts"))
    log = sorted((tmp_path / "lake/events/_delta_log").glob("*.json"))[-1].read_text()
    assert '"dataChange":true' not in log
    assert one.position() == 7


def test_ids_are_found_however_they_came_into_the_table(tmp_path: Path) -> None:
    ids = StoredIds("event_id")
    one, other = appender(tmp_path), appender(tmp_path, "import")
    assert one.append(rows(["a", "b", "a"]), 0, 1, ids.fresh).rows == 2, "twice in a batch"
    other.append(rows(["c"], user="somebody"), 0, 0)
    assert one.append(rows(["c", "d"]), 2, 3, ids.fresh).rows == 1, "from another writer, since"
    compact(str(tmp_path), "events")
    assert one.append(rows(["a", "d", "e"]), 4, 5, ids.fresh).rows == 1, "after a compaction"
    assert one.append(rows(["e"], day=3), 6, 6, ids.fresh).rows == 0, "with another date, within memory"
    assert appender(tmp_path).append(rows(["e", "f"]), 7, 8, StoredIds("event_id").fresh).rows == 1, "after a restart"
    assert stored(tmp_path) == ["a", "b", "c", "d", "e", "f"]


def test_an_id_committed_between_the_look_and_the_commit_is_found(tmp_path: Path) -> None:
    ids, one, other = StoredIds("event_id"), appender(tmp_path), appender(tmp_path, "import")

    def interrupted(batch: pa.Table, table: DeltaTable) -> pa.Table:
        kept = ids.fresh(batch, table)
        if other.position() == -1:
            other.append(rows(["b"]), 0, 0)
        return kept

    appended = one.append(rows(["a", "b"]), 0, 1, interrupted)
    assert (appended.rows, appended.conflicts) == (1, 1)
    assert stored(tmp_path) == ["a", "b"]


def test_an_id_that_was_erased_is_not_called_a_duplicate(tmp_path: Path) -> None:
    ids, one = StoredIds("event_id"), appender(tmp_path)
    one.append(rows(["a", "b"]), 0, 1, ids.fresh)
    DeltaTable(tables.table_uri(str(tmp_path), "events")).delete("event_id = 'a'")
    assert one.append(rows(["a", "b"]), 2, 3, ids.fresh).rows == 1


def test_memory_is_bounded_and_forgotten_dates_are_read_again(tmp_path: Path) -> None:
    ids, one = StoredIds("event_id", limit=25), appender(tmp_path)
    for day in range(5):
        one.append(rows([f"{day}-{n}" for n in range(10)], day=day), day, day, ids.fresh)
    assert one.append(rows(["9"], day=4), 5, 5, ids.fresh).rows == 1
    assert ids.dates == ["2026-01-03", "2026-01-04", "2026-01-05"][-len(ids.dates) :]
    assert len(ids) <= 25
    again = pa.concat_tables([rows([f"{day}-{n}" for n in range(10)], day=day) for day in range(5)])
    assert one.append(again, 6, 6, ids.fresh).rows == 0


@settings(max_examples=15)
@given(st.lists(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), max_size=20), max_size=6), st.integers(1, 40))
def test_whatever_the_batches_an_id_is_stored_once_in_a_date(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[int, int]]], limit: int
) -> None:
    root = tmp_path_factory.mktemp("lake")
    ids, one = StoredIds("event_id", limit), appender(root)
    for n, batch in enumerate(batches):
        parts = [rows([str(number)], day=day) for number, day in batch] or [rows([])]
        one.append(pa.concat_tables(parts), n, n, ids.fresh)
        if n % 2:
            compact(str(root), "events")
    frame = tables.read(str(root), "events", ["event_id", "date"])
    assert frame.is_unique().all()
    assert set(frame["event_id"]) == {str(number) for batch in batches for number, _ in batch}


def test_hashes_that_meet_are_no_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StoredIds, "_hash", lambda self, ids: np.zeros(len(ids), np.uint64))
    ids, one = StoredIds("event_id"), appender(tmp_path)
    names = [uuid.uuid4().hex for _ in range(4)]
    one.append(rows(names[:2]), 0, 1, ids.fresh)
    assert one.append(rows(names), 2, 3, ids.fresh).rows == 2


def test_exposures_with_their_lists_and_maps_are_appended_once_and_compacted(tmp_path: Path) -> None:
    def decision(number: int) -> dict[str, object]:
        lists = {"degraded": ["late"], "item_ids": ["a", "b"], "scores": [2.0, 1.0], "propensities": [None, 0.5]}
        parts = {
            "sources": [["popular"], []],
            "rules": [[], ["pin"]],
            "timings": [("user", 1.0), ("rank", 2.0)],
            "draw_id": "d",
        }
        head = {"request_id": f"r{number}", "call": "recommend", "user_id": f"u{number % 3}", "release": "r", "variant": "main"}
        times = {"ts": START + timedelta(seconds=number), "received_ts": START, "date": "2026-01-01", "user_bucket": number % 3}
        return {**head, **times, **lists, **parts, "rung": "full", "age_s": 0.5, "consent": True, "user_row": b"\x00"}

    root, ids = str(tmp_path), StoredIds("request_id")
    one = TableAppender(root, "exposures", "sink:exposures:0", DateUnit.day)
    for n, numbers in enumerate((range(10), range(5, 15))):
        table = pa.Table.from_pylist([decision(number) for number in numbers], schema=EXPOSURES)
        assert one.append(table, n, n, ids.fresh).rows == (10, 5)[n]
    before = tables.read(root, "exposures").sort("request_id")
    assert compact(root, "exposures").rows == 15
    assert before.equals(tables.read(root, "exposures").sort("request_id"))
