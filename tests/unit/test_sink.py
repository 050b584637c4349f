"""The sink over a bus in memory: each id is stored once, what is left out is counted, and no error loses a record."""

import threading
from collections.abc import Sequence
from pathlib import Path

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reco_ray.config import DateUnit
from reco_ray.errors import DataError, NotReadyError, StaleWriterError
from reco_ray.events.bus import Record
from reco_ray.events.sink import Batch, Sink
from reco_ray.hashing import user_bucket, user_digest
from reco_ray.lake import tables
from reco_ray.lake.appending import TableAppender
from reco_ray.lake.dates import date_of
from reco_ray.lake.ids import StoredIds
from reco_ray.schema import EVENTS, check
from reco_ray.store.fence import Fence, FenceEntry

NOW_US = 1_790_000_000_000_000
DAY_US = 86_400_000_000


def decode(records: Sequence[Record], unit: DateUnit) -> pa.Table:
    """As the contract's encoding, with the columns that matter here."""
    rows = [(record, orjson.loads(record.value)) for record in records]
    columns = {
        "event_id": [row["event_id"] for _, row in rows],
        "schema_version": ["1.1"] * len(rows),
        "received_ts": [row["received_us"] for _, row in rows],
        "bus_position": [str(record.position) for record, _ in rows],
        "type": ["view"] * len(rows),
        "user_id": [row["user_id"] for _, row in rows],
        "item_id": ["i"] * len(rows),
        "ts": [row["ts"] for _, row in rows],
        "consent": [True] * len(rows),
        "date": [date_of(row["ts"], unit) for _, row in rows],
        "user_bucket": [user_bucket(row["user_id"]) for _, row in rows],
    }
    return check(pa.table(columns), EVENTS, "test") if rows else EVENTS.empty_table()


def event(event_id: str, user_id: str = "u", ts: int = NOW_US, received_us: int = NOW_US) -> bytes:
    return orjson.dumps({"event_id": event_id, "user_id": user_id, "ts": ts, "received_us": received_us})


class MemoryBus:
    """One partition; fails where it is told to, forgets what was committed."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.top, self.committed = -1, -1
        self.fail = ""

    def add(self, *values: bytes) -> None:
        for value in values:
            self.top += 3
            self.records.append(Record(self.top, NOW_US // 1000, value))

    def read(self, after: int, limit: int, wait_s: float) -> list[Record]:
        self._fail("read")
        return [record for record in self.records if record.position > after][:limit]

    def oldest(self) -> int:
        return self.records[0].position if self.records else -1

    def newest(self) -> int:
        return self.top

    def commit(self, reader: str, position: int) -> None:
        self._fail("commit")
        self.committed = position
        self.records = [record for record in self.records if record.position > position]

    def remove(self, positions: Sequence[int]) -> int:
        return 0

    def close(self) -> None:
        return

    def _fail(self, where: str) -> None:
        if self.fail == where:
            raise NotReadyError(f"{where}: away")


class World:
    """A lake, a bus, and sinks between them."""

    def __init__(self, root: Path) -> None:
        self.root, self.bus, self.letters, self.fence = root, MemoryBus(), list[bytes](), Fence()
        self.refuse_fails = False

    def sink(self, rows: int = 100, app_id: str = "sink:events:0") -> Sink:
        return Sink(
            self.bus,
            TableAppender(str(self.root), "events", app_id, DateUnit.day),
            decode,
            DateUnit.day,
            fresh=StoredIds("event_id").fresh,
            fence=lambda: self.fence,
            refuse=self.refuse,
            rows=rows,
            interval_s=0.0,
        )

    def refuse(self, letters: Sequence[bytes]) -> None:
        if self.refuse_fails:
            raise NotReadyError("away")
        self.letters += letters

    def ids(self) -> list[str]:
        return sorted(tables.read(str(self.root), "events", ["event_id"])["event_id"])


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def counts(batch: Batch) -> tuple[int, ...]:
    return batch.read, batch.rows, batch.duplicates, batch.fenced, batch.undecodable


def test_what_comes_twice_is_stored_once_in_a_batch_across_batches_and_after_a_restart(world: World) -> None:
    sink = world.sink(rows=3)
    world.bus.add(event("a"), event("b"), event("a"), event("b"), event("c"))
    assert counts(sink.run_once()) == (3, 2, 1, 0, 0)
    assert counts(sink.run_once()) == (2, 1, 1, 0, 0)
    assert counts(sink.run_once()) == (0, 0, 0, 0, 0)
    world.bus.add(event("c"), event("d"))
    assert counts(world.sink().run_once()) == (2, 1, 1, 0, 0)
    assert world.ids() == ["a", "b", "c", "d"]


def test_late_events_go_to_their_own_date_and_are_known_there(world: World) -> None:
    world.bus.add(event("a"), event("late", ts=NOW_US - 40 * DAY_US))
    world.sink().run_once()
    world.bus.add(event("late", ts=NOW_US - 40 * DAY_US), event("later", ts=NOW_US - 41 * DAY_US))
    assert counts(world.sink().run_once()) == (2, 1, 1, 0, 0)
    dates = tables.read(str(world.root), "events", ["event_id", "date"])
    found = dict(dates.iter_rows())
    days = {"a": 0, "late": 40, "later": 41}
    assert found == {name: date_of(NOW_US - days[name] * DAY_US, DateUnit.day) for name in days}


def test_a_sink_goes_on_behind_the_lake_when_the_bus_has_forgotten_and_forgets_nothing_itself(world: World) -> None:
    world.bus.add(event("a"), event("b"))
    world.bus.fail = "commit"
    assert world.sink().run_once().rows == 2, "the bus's memory is a hint"
    assert world.bus.committed == -1
    world.bus.fail = ""
    world.bus.add(event("c"))
    assert counts(world.sink().run_once()) == (1, 1, 0, 0, 0), "not read again"


def test_a_bus_that_was_set_up_anew_is_refused(world: World) -> None:
    world.bus.add(event("a"), event("b"))
    world.sink().run_once()
    world.bus = MemoryBus()
    world.bus.add(event("c"))
    with pytest.raises(DataError, match=r"found position 2 as its newest, expected 5 or later"):
        world.sink().run_once()


def test_a_second_owner_is_fenced_off_and_both_go_on(world: World) -> None:
    one, other = world.sink(rows=2), world.sink(rows=2)
    world.bus.fail = "commit"  # nothing is trimmed, so that both can read everything
    world.bus.add(*(event(str(n)) for n in range(8)))
    assert one.run_once().rows == 2
    assert other.run_once().rows == 2
    with pytest.raises(StaleWriterError, match="another process writes"):
        one.run_once()
    assert one.run_once().rows == 2, "it looked again"
    with pytest.raises(StaleWriterError):
        other.run_once()
    assert other.run_once().rows == 2
    assert world.ids() == [str(n) for n in range(8)]


def test_what_cannot_be_decoded_is_a_dead_letter_and_the_rest_is_stored(world: World) -> None:
    broken = b'{"event_id": "x", "user_id": "anna@example.org"}'
    world.bus.add(*(event(str(n)) for n in range(20)), broken, b"\xff", *(event(str(n)) for n in range(20, 30)))
    assert counts(world.sink().run_once()) == (32, 30, 0, 0, 2)
    letters = [orjson.loads(letter) for letter in world.letters]
    assert [each["reason"] for each in letters] == ["undecodable"] * 2
    assert [each["user_digest"] for each in letters] == [user_digest("anna@example.org"), None]
    assert "anna" not in "".join(each["detail"] for each in letters)
    world.bus.add(b"", b"{}")
    assert counts(world.sink().run_once()) == (2, 0, 0, 0, 2), "a batch of nothing else"
    assert world.ids() == sorted(map(str, range(30)))


def test_a_dead_letter_that_is_not_durable_holds_the_batch(world: World) -> None:
    sink = world.sink()
    world.bus.add(b"?", event("a"))
    world.refuse_fails = True
    with pytest.raises(NotReadyError):
        sink.run_once()
    world.refuse_fails = False
    assert counts(sink.run_once()) == (2, 1, 0, 0, 1)
    assert len(world.letters) == 1


def test_records_of_an_erased_user_are_dropped_until_they_are_newer_than_the_erasure(world: World) -> None:
    running, done = user_digest("erased"), user_digest("was")
    world.fence = Fence(1, {running: FenceEntry("r", NOW_US, False), done: FenceEntry("s", NOW_US, True)})
    after = NOW_US + 1
    world.bus.add(
        event("a", "erased", after, after),
        event("b", "was", NOW_US, after),
        event("c", "was", after, after),
        event("d", "other"),
    )
    assert counts(world.sink().run_once()) == (4, 2, 0, 2, 0)
    assert world.ids() == ["c", "d"]


def test_the_fence_is_read_after_the_records_and_before_every_batch(world: World) -> None:
    sink, seen = world.sink(), []
    original = world.bus.read

    def read(after: int, limit: int, wait_s: float) -> list[Record]:
        seen.append("read")
        return original(after, limit, wait_s)

    world.bus.read = read  # type: ignore[method-assign]
    sink._fence = lambda: seen.append("fence") or Fence()  # type: ignore[func-returns-value,assignment]
    sink.run_once()
    world.bus.add(event("a"))
    sink.run_once()
    assert seen[:2] == ["read", "fence"], "also where there is nothing to write"
    assert seen[-1] == "fence"


def test_the_age_of_the_lag_is_that_of_the_last_record_and_zero_at_the_end(world: World) -> None:
    world.bus.add(event("a"), event("b"), event("c", ts=NOW_US + 5))
    sink = world.sink(rows=2)
    assert sink.run_once().lag_age_s > 0
    last = sink.run_once()
    assert (last.lag_age_s, last.newest_us) == (0, NOW_US + 5)


def test_two_partitions_of_a_topic_write_at_once_and_keep_their_places(world: World) -> None:
    buses = [MemoryBus(), MemoryBus()]
    total = 40
    for n in range(total):
        buses[n % 2].add(event(str(n)))
    errors: list[BaseException] = []

    def run(partition: int) -> None:
        sink = Sink(
            buses[partition],
            TableAppender(str(world.root), "events", f"sink:events:{partition}", DateUnit.day),
            decode,
            DateUnit.day,
            fresh=StoredIds("event_id").fresh,
            fence=Fence,
            refuse=world.refuse,
            rows=2,
            interval_s=0.0,
        )
        try:
            while sink.run_once().read:
                pass
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=run, args=(partition,)) for partition in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert world.ids() == sorted(map(str, range(total)))
    assert [bus.committed for bus in buses] == [bus.top for bus in buses]


STEPS = st.one_of(
    st.tuples(st.just("send"), st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2)), min_size=1, max_size=8)),
    st.tuples(st.just("garbage"), st.binary(max_size=4)),
    st.tuples(st.just("run"), st.integers(1, 5)),
    st.tuples(st.just("fail"), st.sampled_from(["", "read", "commit", "refuse"])),
    st.tuples(st.just("restart"), st.none()),
)


@settings(max_examples=20)
@given(st.lists(STEPS, max_size=14))
def test_any_interleaving_of_records_failures_and_restarts_ends_in_the_same_lake(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, object]]
) -> None:
    world = World(tmp_path_factory.mktemp("lake"))
    sink, sent, garbage = world.sink(rows=4), set(), set()
    for kind, value in [*steps, ("fail", ""), ("run", 100)]:
        if kind == "send":
            for number, day in value:  # type: ignore[attr-defined]
                world.bus.add(event(str(number), ts=NOW_US - day * DAY_US))
                sent.add(str(number))
        elif kind == "garbage":
            world.bus.add(value + b"!")  # type: ignore[operator]
            garbage.add(value)
        elif kind == "fail":
            world.bus.fail, world.refuse_fails = str(value), value == "refuse"
        elif kind == "restart":
            sink = world.sink(rows=4)
        else:
            for _ in range(int(value)):  # type: ignore[call-overload]
                try:
                    if not sink.run_once().read:
                        break
                except NotReadyError:
                    break
    frame = tables.read(str(world.root), "events", ["event_id", "date"])
    assert set(frame["event_id"]) == sent
    assert frame.is_unique().all()
    assert len({orjson.loads(letter)["raw_b64"] for letter in world.letters}) == len(garbage)
