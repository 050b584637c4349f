"""A bandit's evidence over a real store and bus: counted once, in whatever order, whoever reads it again, and of nobody."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest

from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.config import PipelineConfig
from reco_ray.errors import NotReadyError, StaleWriterError
from reco_ray.events.bus import EVENTS, EXPOSURES, LAKE, Outgoing, Record
from reco_ray.events.encoding import encode as encode_event
from reco_ray.events.open import open_producer, open_reader
from reco_ray.feedback.exposures import Decision, encode, encode_slots
from reco_ray.hashing import user_digest
from reco_ray.privacy.needles import Needle
from reco_ray.rerank.bandit import CIRCUMSTANCES, Evidence
from reco_ray.store import BanditStore, Fence, FenceEntry, OnlineStore
from reco_ray.streaming.bandit import READER, REMEMBERED_S, BanditStream, Learned, learn, open_bandit

D = len(CIRCUMSTANCES)
X = (1.0, 0.5, 0.0, 1.0, 0.0, -0.25, 0.75)
USER = "somebody-8271"


class Topic:
    """One partition of a topic in memory, with times of its own."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.committed: dict[str, int] = {}

    def put(self, at_s: float, value: bytes) -> None:
        self.records.append(Record(len(self.records), int(at_s * 1e3), value))

    def read(self, after: int, limit: int, wait_s: float) -> list[Record]:
        return [record for record in self.records if record.position > after][:limit]

    def oldest(self) -> int:
        return 0 if self.records else -1

    def newest(self) -> int:
        return len(self.records) - 1

    def commit(self, reader: str, position: int) -> None:
        self.committed[reader] = position

    def forget(self, reader: str) -> None:
        self.committed.pop(reader, None)

    def remove(self, positions: Sequence[int]) -> int:
        return 0

    def close(self) -> None:
        """Nothing to close."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PipelineConfig, str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = compose_config([f"root={tmp_path_factory.mktemp('root')}", f"store.port={port}"])
    with embedded_store(config) as url:
        yield config, url


@pytest.fixture
def store(world: tuple[PipelineConfig, str]) -> Iterator[OnlineStore]:
    with OnlineStore(world[1], world[0].store.namespace) as store:
        store.blocking_calls.flushall()
        yield store


class Bench:
    """A stream over topics in memory and the real store; the clock is in seconds since 1970."""

    def __init__(self, store: OnlineStore, partition: int = 0, rows: int = 2_000) -> None:
        self.bandit, self.now, self.fence = BanditStore(store), 1_000_000.0, Fence()
        self.decisions, self.events = Topic(), Topic()
        self.partition, self.rows = partition, rows
        self.stream = self.another()
        self.bandit.want(self.now)
        self.stream.run_once()

    def another(self) -> BanditStream:
        return BanditStream(
            self.decisions,
            self.events,
            self.bandit,
            self.partition,
            lambda: self.fence,
            rows=self.rows,
            clock=lambda: self.now,
        )

    def decide(self, request_id: str, places: Sequence[tuple[str, str]], user: str = USER, **more: Any) -> None:
        self.decisions.put(self.now, decision(request_id, places, user, **more))

    def click(self, request_id: str, item_id: str, kind: str = "click", user: str = USER) -> None:
        self.events.put(self.now, event(request_id, item_id, kind, user, self.now))

    def run(self) -> Learned:
        """All that there is."""
        total = Learned()
        while True:
            done = self.stream.run_once()
            total = Learned(total.read + done.read, total.places + done.places, total.rewards + done.rewards)
            if not done.read:
                return total

    def evidence(self) -> Evidence:
        return sum(map(Evidence.unpack, self.bandit.read().parts), Evidence())


def decision(request_id: str, places: Sequence[tuple[str, str]], user: str = USER, x: Sequence[float] = X) -> bytes:
    """A slate of these items, each drawn from a source, or from none."""
    reasons = [(("covisit", "explore", f"explore:{source}") if source else ("covisit",)) for _, source in places]
    n = len(places)
    slots = encode_slots([item for item, _ in places], np.ones(n, np.float32), reasons, np.full(n, 0.5, np.float32))
    made = Decision(
        request_id, "recommend", user, 1, "home", {}, True, "r", "main", "full", (), request_id, 0.0, slots, circumstances=x
    )
    return encode(made)


def event(request_id: str, item_id: str, kind: str, user: str, now: float) -> bytes:
    head = {"event_id": f"{request_id}-{item_id}", "schema_version": "1.1", "type": kind, "user_id": user, "item_id": item_id}
    return encode_event(
        {**head, "ts": int(now * 1e6), "received_us": int(now * 1e6), "request_id": request_id, "consent": True}
    )


def test_a_place_counts_at_once_and_a_click_adds_its_reward_once(store: OnlineStore) -> None:
    bench = Bench(store)
    bench.decide("r1", [("a", "fresh"), ("b", ""), ("c", "popular")])
    assert bench.run() == Learned(1, 2, 0)
    x = np.array(X)
    np.testing.assert_allclose(bench.evidence().sums["fresh"], np.vstack([np.outer(x, x), np.zeros(D)]))
    for kind in ("impression", "click", "click", "purchase"):
        bench.click("r1", "a", kind)
    bench.click("r1", "b")  # no draw
    bench.click("r2", "a")  # of nothing known
    assert bench.run() == Learned(), "events wait for decisions that are on their way"
    bench.now += 6
    assert bench.run() == Learned(6, 0, 1)
    found = bench.evidence()
    np.testing.assert_allclose(found.sums["fresh"][D], x)
    np.testing.assert_allclose(found.sums["popular"][D], np.zeros(D))
    assert found.as_of == 1_000_000.0, "a reward weighs as its place"


def test_records_sent_twice_and_read_twice_count_once(store: OnlineStore) -> None:
    bench = Bench(store)
    bench.decide("r1", [("a", "fresh")])
    bench.decide("r1", [("a", "fresh")])
    bench.run()
    bench.decide("r1", [("a", "fresh")])
    bench.click("r1", "a")
    bench.now += 6
    bench.click("r1", "a")
    bench.now += 6
    bench.run()
    once = bench.evidence().pack()
    assert Evidence.unpack(once).sums["fresh"][0, 0] == pytest.approx(1)
    assert Evidence.unpack(once).sums["fresh"][D, 0] == pytest.approx(1)
    bench.decide("r1", [("a", "fresh")])  # its reward is not to be had again
    bench.click("r1", "a")
    bench.now += 6
    bench.run()
    assert bench.evidence().pack() == once


def test_a_batch_that_ends_before_it_is_written_is_read_again(store: OnlineStore, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(store)
    bench.decide("r1", [("a", "fresh")])
    bench.click("r1", "a")
    bench.now += 6

    def fails(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(BanditStore, "apply", fails)
        with pytest.raises(RuntimeError):
            bench.stream.run_once()
    bench.stream = bench.another()
    assert bench.run() == Learned(2, 1, 1)
    with monkeypatch.context() as patch:  # killed behind the write, before the bus was told
        patch.setattr(Topic, "commit", fails)
        bench.decide("r2", [("a", "fresh")])
        with pytest.raises(RuntimeError):
            bench.stream.run_once()
    bench.stream = bench.another()
    assert bench.run() == Learned()
    assert bench.evidence().sums["fresh"][0, 0] == pytest.approx(2, rel=1e-4)


def test_two_streams_of_one_partition_do_not_both_write(store: OnlineStore) -> None:
    bench = Bench(store)
    bench.decide("r1", [("a", "fresh")])
    before, _ = bench.bandit.learned(0)
    assert before is not None
    bench.run()
    with pytest.raises(StaleWriterError, match="bandit of partition 0"):
        bench.bandit.apply(0, before, (9, 9), b"no", {"r9": b"no"}, 10)
    assert bench.bandit.drawn(["r9", "r1"]).keys() == {"r1"}


def test_partitions_add_up_and_a_click_may_come_by_another_one(store: OnlineStore) -> None:
    one, two = Bench(store, 0), Bench(store, 1)
    one.decide("r1", [("a", "fresh")], user="")
    two.decide("r2", [("a", "fresh"), ("b", "popular")])
    two.click("r1", "a")
    one.now = two.now = one.now + 6
    assert (one.run(), two.run()) == (Learned(1, 1, 0), Learned(2, 2, 1))
    assert len(one.bandit.read().parts) == 2
    found = one.evidence().sums
    assert [found["fresh"][0, 0], found["fresh"][D, 0], found["popular"][0, 0]] == pytest.approx([2, 1, 1])


def test_a_backlog_is_added_up_in_the_order_in_which_it_came(store: OnlineStore) -> None:
    bench = Bench(store, rows=7)
    rng, clicks = np.random.default_rng(5), 0
    for number in range(200):
        bench.decide(f"r{number}", [("a", "fresh")])
        if rng.random() < 0.5:
            bench.click(f"r{number}", "a")
            clicks += 1
        for _ in range(int(rng.integers(0, 3))):
            bench.click("unknown", "a", "impression")
        bench.now += float(rng.exponential(2.0))
    bench.now += 6
    done = bench.run()
    assert (done.places, done.rewards) == (200, clicks)
    found = bench.evidence().sums["fresh"]
    bench.stream = BanditStream(bench.decisions, bench.events, bench.bandit, 1, lambda: Fence(), clock=lambda: bench.now)
    bench.bandit.begin(1, (-1, -1))
    store.blocking_calls.delete(*store.blocking_calls.keys(store.key("drawn", "*")))
    bench.run()
    at_once = Evidence.unpack(bench.bandit.read().parts[1]).sums["fresh"]
    np.testing.assert_allclose(at_once, found, rtol=1e-9)


def test_a_click_that_comes_too_late_counts_no_more(store: OnlineStore) -> None:
    bench = Bench(store)
    bench.decide("r1", [("a", "fresh")])
    bench.run()
    bench.now += REMEMBERED_S + 1
    bench.click("r1", "a")
    bench.now += 6
    assert bench.run() == Learned(1, 0, 0)


def test_what_cannot_be_read_and_what_no_bandit_drew_is_passed_over(store: OnlineStore) -> None:
    bench = Bench(store)
    good = orjson.loads(decision("r1", [("a", "fresh")]))
    for wrong in ({"circumstances": [1]}, {"rules": [1]}, {"item_ids": []}, {"ts": None}, {"circumstances": None}):
        bench.decisions.put(bench.now, orjson.dumps({**good, **wrong}))
    bench.decisions.put(bench.now, b'?"circumstances":[')
    bench.decide("r2", [("a", "")])
    bench.events.put(bench.now, b'{"request_id":"r1"')
    bench.now += 6
    assert bench.run() == Learned(8, 0, 0)


def test_evidence_of_another_version_begins_anew(store: OnlineStore) -> None:
    bench = Bench(store)
    store.blocking_calls.hset(store.key("bandit"), "sums:0", b'{"format":0}')
    bench.decide("r1", [("a", "fresh")])
    bench.run()
    assert bench.evidence().sums["fresh"][0, 0] == 1


def test_nothing_is_read_while_no_stage_learns_from_it(store: OnlineStore) -> None:
    bench = Bench(store)
    bench.decide("r1", [("a", "fresh")])
    bench.run()
    assert bench.decisions.committed == {READER: 0}
    bench.now += 86_400 + 1
    bench.decide("r2", [("a", "fresh")])
    assert bench.stream.run_once() == Learned(waiting=True)
    assert bench.decisions.committed == {}
    bench.bandit.want(bench.now)
    assert bench.run() == Learned(1, 1, 0)


def test_nothing_of_a_user_is_kept_and_who_is_erased_counts_no_more(store: OnlineStore) -> None:
    bench = Bench(store)
    bench.decide("r1", [("a", "fresh"), ("b", "popular")])
    bench.now += 6
    bench.click("r1", "a")
    bench.now += 6
    assert bench.run() == Learned(2, 2, 1)
    calls, needles = store.blocking_calls, [Needle(USER), Needle(user_digest(USER)), Needle("r1")]
    keys = calls.keys("*")
    assert len(keys) == 2
    for key in keys:
        held = (
            orjson.dumps({k.decode(): v.decode() for k, v in calls.hgetall(key).items()})
            if b"drawn" not in key
            else calls.get(key)
        )
        assert not any(needle.within(key + held) for needle in needles)
        assert 0 < calls.ttl(key) <= (REMEMBERED_S if b"drawn" in key else 30 * 86_400)
    bench.fence = Fence(1, {user_digest(USER): FenceEntry("e", int(bench.now * 1e6), done=False)})
    bench.decide("r3", [("a", "fresh")])
    bench.click("r1", "b")
    bench.decide("r4", [("a", "fresh")], user="another")
    bench.now += 6
    assert bench.run() == Learned(3, 1, 0)


class Counts:
    """Counts as `monitoring.metrics.streams.BanditMetrics` does, and ends what it counts for."""

    def __init__(self) -> None:
        self.stop, self.found = threading.Event(), list[object]()

    def learned(self, places: int, rewards: int) -> None:
        self.found.append((places, rewards))
        self.stop.set()

    def failed(self, error: BaseException) -> None:
        self.found.append(type(error))
        self.stop.set()


def test_a_store_that_is_away_is_counted_and_asked_again(world: tuple[PipelineConfig, str], store: OnlineStore) -> None:
    config, url = world
    away, back = Counts(), Counts()
    learn(config, "redis://127.0.0.1:1", 0, away.stop, away)
    assert away.found == [NotReadyError]
    BanditStore(store).want(2e9)
    BanditStore(store).begin(0, (-1, -1))
    send(config, url, EXPOSURES, decision("r1", [("a", "fresh"), ("b", "popular")]))
    learn(config, url, 0, back.stop, back)
    assert back.found == [(2, 0)]


def send(config: PipelineConfig, url: str, topic: str, *values: bytes) -> None:
    async def run() -> None:
        producer = open_producer(config.events, config.store.namespace, url)
        await producer.append(topic, [Outgoing(0, value) for value in values])
        await producer.aclose()

    asyncio.run(run())


def test_over_the_real_bus_it_begins_where_the_bus_stands(world: tuple[PipelineConfig, str], store: OnlineStore) -> None:
    config, url = world
    config = replace(config, events=replace(config.events, bus=replace(config.events.bus, partitions=1)))
    send(config, url, EXPOSURES, decision("r0", [("a", "fresh")]))
    bandit = BanditStore(store)
    with open_bandit(config, url, 0) as stream:
        assert stream.run_once().waiting
        bandit.want(2e9)
        assert stream.run_once() == Learned()
        send(config, url, EXPOSURES, decision("r1", [("a", "fresh")]))
        send(config, url, EVENTS, event("r1", "a", "click", USER, 1.0))
        assert stream.run_once() == Learned(1, 1, 0)
        stream._clock = lambda: 2e9  # when events wait no more
        assert stream.run_once() == Learned(1, 0, 1)
    assert Evidence.unpack(bandit.read().parts[0]).sums["fresh"][D, 0] == 1
    for topic in (EXPOSURES, EVENTS):
        with contextlib.closing(open_reader(config.events, config.store.namespace, url, topic, 0)) as reader:
            reader.commit(LAKE, reader.newest())  # all readers have what there is
            assert reader.oldest() == -1
