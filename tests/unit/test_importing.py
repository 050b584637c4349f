"""Imports: admitted first, then appended in few batches, beside others and past the fence; what is refused is kept."""

import socket
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pytest

from reco_ray.cluster import embedded_store
from reco_ray.config import DateUnit, PipelineConfig, SourceConfig, SourceKind, StoreConfig
from reco_ray.errors import DataError, NotReadyError
from reco_ray.events.contract import Limits
from reco_ray.events.importing import append_batches, append_letters, merge_items, merge_users
from reco_ray.events.staging import Admission, Staged, batches, letters
from reco_ray.hashing import user_digest
from reco_ray.lake import sources, tables
from reco_ray.lake.appending import TableAppender
from reco_ray.lake.ids import StoredIds
from reco_ray.privacy.requests import request_erasure
from reco_ray.store import ErasureStore, Fence, FenceEntry, OnlineStore
from reco_ray.workflow.erased import erased_users

START = datetime(2026, 1, 1, tzinfo=UTC)
NOW_US = 1_780_000_000_000_000
NO_FENCE = Fence()


def rows(days: int = 10, users: int = 20, first: int = 0) -> pl.DataFrame:
    """One view a day of every user."""
    return pl.DataFrame(
        [
            {"user_id": f"user-{user}", "item_id": f"item-{user % 7}", "ts": START + timedelta(days=day, minutes=user)}
            for day in range(first, first + days)
            for user in range(users)
        ]
    )


def stage(tmp_path: Path, *blocks: pl.DataFrame, **settings: Any) -> Staged:
    source = SourceConfig(kind=SourceKind.files, events="x.csv", permute_ids=False, **settings)
    folder = str(tmp_path / "tmp")
    admission = Admission("events at x.csv", source, source.columns, 7, DateUnit.day, Limits(), NOW_US, folder)
    return Staged.collect([admission.decide(block) for block in blocks])


def append(tmp_path: Path, staged: Staged, fence: Fence = NO_FENCE, most: int = 60) -> Any:
    return append_batches(str(tmp_path), batches(staged, most, False), "import:x", DateUnit.day, lambda: fence)


def test_rows_come_back_whole_dates_together_in_batches_of_bounded_size(tmp_path: Path) -> None:
    raw = rows().sample(fraction=1.0, shuffle=True, seed=1)  # the source is in no order, and its blocks are not either
    parts = [pl.DataFrame(part) for part in batches(stage(tmp_path, *raw.iter_slices(33)), 60, False)]
    assert sum(part.height for part in parts) == raw.height
    assert max(part.height for part in parts) <= 60
    dates = [set(part["date"]) for part in parts]
    assert len(dates) == 4, "three dates of twenty rows each fit into a batch"
    assert sum(map(len, dates)) == 10, "no date is in two batches"
    assert pl.concat(parts)["event_id"].is_unique().all()


def test_a_date_that_is_too_long_for_a_batch_is_divided_by_users(tmp_path: Path) -> None:
    raw = pl.concat([rows(days=1, users=50)] * 2)
    parts = [pl.DataFrame(part) for part in batches(stage(tmp_path, raw), 30, False)]
    assert len(parts) > 2
    assert sum(part.height for part in parts) == 100
    users = [set(part["user_id"]) for part in parts]
    assert len(set.union(*users)) == sum(map(len, users)), "all rows of a user and date are in one batch"
    assert pl.concat(parts)["event_id"].is_unique().all()


def test_equal_rows_of_different_blocks_are_all_kept(tmp_path: Path) -> None:
    staged = stage(tmp_path, rows(days=1), rows(days=1), rows(days=1))
    assert append(tmp_path, staged).new == 60
    assert append(tmp_path, staged).new == 0
    assert append(tmp_path, stage(tmp_path, rows(days=1))).new == 0, "a file with one of them has nothing new"


def test_files_that_overlap_share_their_events(tmp_path: Path) -> None:
    assert append(tmp_path, stage(tmp_path, rows(days=6))).new == 120
    version = tables.version(str(tmp_path), "events")
    assert append(tmp_path, stage(tmp_path, rows(days=6))).new == 0
    assert tables.version(str(tmp_path), "events") == version, "importing the same file twice changes nothing"
    assert append(tmp_path, stage(tmp_path, rows(days=6, first=4))).new == 80
    assert tables.read(str(tmp_path), "events")["date"].n_unique() == 10


def test_an_import_beside_writers_that_commit_all_the_time_loses_nothing_of_either(tmp_path: Path) -> None:
    root, staged = str(tmp_path), stage(tmp_path, rows(days=30))
    live = pl.DataFrame(next(batches(stage(tmp_path, rows(days=1)), 100, False)))
    began, stop, written, failures = threading.Event(), threading.Event(), [], []

    def sink() -> None:
        appender, fresh = TableAppender(root, "events", "sink:events:0", DateUnit.day), StoredIds("event_id").fresh
        try:
            while not stop.is_set():
                n = len(written)
                batch = live.with_columns(event_id=pl.format("live-{}-{}", pl.lit(n), pl.int_range(pl.len()))).to_arrow()
                written.append(appender.append(batch.cast(appender.schema), n, n, fresh).rows)
                began.set()
        except Exception as exc:
            failures.append(exc)
            began.set()

    thread = threading.Thread(target=sink)
    thread.start()
    began.wait(30)
    before = len(written)
    done = append(tmp_path, staged)
    during = len(written) - before
    stop.set()
    thread.join()
    assert not failures
    assert during > 0, "the live path went on"
    stored = tables.read(root, "events", ["event_id"])["event_id"]
    assert stored.is_unique().all()
    assert stored.str.starts_with("live-").sum() == sum(written)
    assert len(stored) - sum(written) == done.new == 600


def test_two_imports_of_the_same_source_at_once_store_it_once(tmp_path: Path) -> None:
    staged = stage(tmp_path, rows(days=30))
    start, new = threading.Barrier(2), []

    def run() -> None:
        start.wait()
        new.append(append(tmp_path, staged).new)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(new) == 600
    assert tables.read(str(tmp_path), "events")["event_id"].is_unique().sum() == 600


def fence(user_id: str, erased: datetime, done: bool = True) -> Fence:
    entry = FenceEntry("receipt", int(erased.timestamp() * 1e6), done)
    return Fence(1, {user_digest(user_id): entry})


def test_who_was_erased_does_not_come_back_by_an_import(tmp_path: Path) -> None:
    staged = stage(tmp_path, rows())
    done = append(tmp_path, staged, fence("user-3", START + timedelta(days=4, hours=12)))
    assert (done.new, done.fenced) == (195, 5)
    kept = tables.read(str(tmp_path), "events").filter(user_id="user-3")
    assert kept["ts"].min() > START + timedelta(days=5), "what came after the erasure is theirs to give"
    assert append(tmp_path, staged, fence("user-4", START, done=False)).users.isdisjoint({"user-4"})


def test_a_fence_that_appears_during_an_import_holds_from_the_next_batch_on(tmp_path: Path) -> None:
    fences = iter([Fence(), *[fence("user-3", START, done=False)] * 10])
    staged = stage(tmp_path, rows())
    done = append_batches(str(tmp_path), batches(staged, 60, False), "import:x", DateUnit.day, lambda: next(fences))
    assert done.fenced == 7


def test_an_import_of_which_too_much_is_refused_fails_before_anything_is_written(tmp_path: Path) -> None:
    bad = rows(days=1).with_columns(ts=pl.lit(None, pl.Datetime("us", "UTC")))
    staged = stage(tmp_path, rows(), bad)
    with pytest.raises(
        DataError, match=r"found 20 of 220 rows that are no events, expected at most 1.0%.*invalid: ts: .*20 times"
    ):
        staged.check("x.csv", 0.01)
    staged.check("x.csv", 0.1)
    with pytest.raises(DataError, match="found no rows"):
        stage(tmp_path, rows(days=1).clear()).check("x.csv", 0.01)
    assert not tables.exists(str(tmp_path), "events")


@pytest.fixture
def refused(tmp_path: Path) -> Staged:
    raw = pl.DataFrame(
        {
            "user_id": ["user-1", "ann@example.org", None, "user-2"],
            "item_id": ["i"] * 4,
            "ts": ["soon", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"],
            "note": ["mine", "write to ann@example.org", "x", "fine"],
        }
    )
    return stage(tmp_path, raw)


def test_what_is_refused_is_kept_with_its_reason_once(tmp_path: Path, refused: Staged) -> None:
    root = str(tmp_path)
    assert append_letters(root, letters(refused), "import:x", Fence) == 3
    assert append_letters(root, letters(refused), "import:x", Fence) == 0
    later = letters(refused).set_column(7, pa.field("date", pa.string(), nullable=False), [["2030-01-01"] * 3])
    assert append_letters(root, later, "import:y", Fence) == 0, "on another day either"
    stored = {
        letter["reason"]: letter for letter in tables.read(root, "dead_letters").filter(pl.col("user_id") == "").to_dicts()
    }
    assert "ann" not in stored["personal_data"]["raw"]
    assert orjson.loads(stored["personal_data"]["raw"])["user_id"] == "[email]"
    (unread,) = tables.read(root, "dead_letters").filter(user_id="user-1").to_dicts()
    assert (unread["reason"], unread["source"]) == ("invalid", "events at x.csv")
    assert orjson.loads(unread["raw"])["ts_"] == "soon", "the raw row is there to be mended"


def test_letters_of_users_in_the_fence_stay_out(tmp_path: Path, refused: Staged) -> None:
    assert append_letters(str(tmp_path), letters(refused), "import:x", lambda: fence("user-1", START)) == 2


def test_described_users_and_items_go_over_bare_ones_and_stay(tmp_path: Path) -> None:
    root, source = str(tmp_path), SourceConfig(kind=SourceKind.files, events="x", permute_ids=False)
    columns = replace(source.columns)
    people = sources.map_users(pl.DataFrame({"user_id": ["a", "erased"], "age": ["65+", "40"]}), source, columns, 7, "x")
    things = sources.map_items(
        pl.DataFrame({"item_id": ["i"], "title": ["One"], "available": [False]}), source, columns, 7, "x"
    )
    assert (merge_users(root, people, {"a", "b"}), merge_items(root, things, {"j"})) == (2, 2)
    versions = [tables.version(root, name) for name in ("users", "items")]
    assert (merge_users(root, None, {"a"}), merge_items(root, None, {"i"})) == (2, 2)
    assert [tables.version(root, name) for name in ("users", "items")] == versions, "no news, no commit"
    assert merge_users(root, None, {"c"}) == 3
    users = tables.read(root, "users").to_dicts()
    assert [user["user_id"] for user in users] == ["a", "b", "c"], "who was not met is not there"
    assert users[0]["attributes"] == {"age": "65+"}
    assert tables.read(root, "items").select("item_id", "title", "available").rows() == [("i", "One", False), ("j", None, True)]


def test_a_table_from_before_prices_stays_as_it_is_until_there_is_news(tmp_path: Path) -> None:
    root, source = str(tmp_path), SourceConfig(kind=SourceKind.files, events="x", permute_ids=False)
    raw = pl.DataFrame({"item_id": ["a", "b"], "price": [1.5, None]})
    tables.replace(root, "items", sources.bare_items(["a", "old"]).drop(["price"]))
    before = tables.version(root, "items")
    assert merge_items(root, None, {"a"}) == 2
    assert tables.version(root, "items") == before
    assert merge_items(root, sources.map_items(raw, source, source.columns, 7, "x"), set()) == 3
    assert tables.read(root, "items").select("item_id", "price").rows() == [("a", 1.5), ("b", None), ("old", None)]


def test_the_fence_of_a_store_that_does_not_run_is_read_all_the_same(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        config = PipelineConfig(root=str(tmp_path), store=StoreConfig(port=probe.getsockname()[1]))
    with erased_users(config) as fence:
        assert not fence().entries
    assert not (tmp_path / "store").exists(), "an import starts no store where there was none"
    with embedded_store(config) as url, OnlineStore(url, config.store.namespace) as store:
        request_erasure(ErasureStore(store), "user-3")
    with erased_users(config) as fence:
        assert set(fence().entries) == {user_digest("user-3")}
    config.store.url = "redis://127.0.0.1:1"
    with erased_users(config) as fence, pytest.raises(NotReadyError):
        fence()
