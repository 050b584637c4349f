"""The bus on Kafka: topics ``{namespace}.{topic}``, offsets as positions, and readers' positions in a compacted topic.

The producer is idempotent and waits for all replicas that are in sync. Records go when their retention ends, whoever has read
them: a sink that is away for longer loses what it has not read, and single records cannot be removed.
"""

import asyncio
import contextlib
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from reco_ray.config import BusConfig
from reco_ray.errors import ConfigError, NotReadyError
from reco_ray.events.bus import DEAD_LETTERS, EVENTS, EXPOSURES, Outgoing, Record

__all__ = ["KafkaProducer", "KafkaReader", "create_topics"]

_READERS = "readers"
_TIMEOUT_S = 5.0
_HOUR_MS = 3_600_000


class KafkaProducer:
    """The writing side; see `bus.Producer`. A thread of its own polls for what the brokers have confirmed."""

    def __init__(self, config: BusConfig, namespace: str, *, dead_letters_days: float = 14) -> None:
        self._config, self._namespace, self._dead_letters_days = config, namespace, dead_letters_days
        self._producer: Producer | None = None
        self._opening = asyncio.Lock()
        self._stopped = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="kafka-delivery", daemon=True)
        self._positions = _Positions(config, namespace)

    async def append(self, topic: str, records: Sequence[Outgoing]) -> None:
        """As `bus.Producer.append`; where it fails, some of the records may be there."""
        if not records:
            return
        loop = asyncio.get_running_loop()
        confirmed: asyncio.Future[None] = loop.create_future()
        missing = len(records)

        def settle(error: KafkaError | None) -> None:
            if not confirmed.done():
                confirmed.set_exception(_away(error)) if error is not None else confirmed.set_result(None)

        def delivered(error: KafkaError | None, _: Message) -> None:  # in the poller's thread, one at a time
            nonlocal missing
            missing -= 1
            if error is not None and error.fatal():
                self._producer = None  # it takes nothing more; the next call opens another
            if error is not None or not missing:
                with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
                    loop.call_soon_threadsafe(settle, error)

        with _translated():
            producer = await self._open()
            name = _topic(self._namespace, topic)
            for record in records:
                producer.produce(name, record.value, partition=record.partition, on_delivery=delivered)
        await confirmed

    async def lags(self, topic: str, reader: str) -> Mapping[int, int]:
        """As `bus.Producer.lags`."""
        await self._open()
        with _translated():
            return await asyncio.to_thread(self._positions.lags, topic, reader)

    async def aclose(self) -> None:
        """Send what is under way, and end the thread."""
        self._stopped.set()
        if self._poller.is_alive():
            await asyncio.to_thread(self._poller.join)
        await asyncio.to_thread(self._positions.close)

    async def _open(self) -> Producer:
        async with self._opening:
            if self._producer is None:
                with _translated():
                    await asyncio.to_thread(create_topics, self._config, self._namespace, self._dead_letters_days)
                self._producer = Producer(
                    {
                        **_client(self._config),
                        "enable.idempotence": True,
                        "acks": "all",
                        "linger.ms": 2,
                        "message.timeout.ms": int(_TIMEOUT_S * 1e3),
                    }
                )
                if not self._poller.is_alive():
                    self._poller.start()
            return self._producer

    def _poll(self) -> None:
        while not self._stopped.is_set():
            if (producer := self._producer) is not None:
                producer.poll(0.1)
            else:
                self._stopped.wait(0.1)
        if (producer := self._producer) is not None:
            producer.flush(_TIMEOUT_S)


class KafkaReader:
    """The reading side; see `bus.Reader`. It is assigned its partition, and belongs to no consumer group."""

    def __init__(self, config: BusConfig, namespace: str, topic: str, partition: int, *, dead_letters_days: float = 14) -> None:
        self._config, self._namespace, self._dead_letters_days = config, namespace, dead_letters_days
        self._opened = False
        self._topic, self._name, self._partition = topic, _topic(namespace, topic), partition
        self._consumer = _consumer(config)
        self._next: int | None = None
        self._commits: Producer | None = None

    def read(self, after: int, limit: int, wait_s: float) -> list[Record]:
        """As `bus.Reader.read`. Behind a position that retention has removed, it goes on with the oldest record."""
        with _translated():
            self._open()
            if self._next != after + 1:
                offset = OFFSET_BEGINNING if after < 0 else after + 1
                self._consumer.assign([TopicPartition(self._name, self._partition, offset)])
            self._next = None  # an error below leaves the client behind records that nobody got
            first = self._consumer.poll(_TIMEOUT_S if self._behind(after) else wait_s)
            # what has been fetched together with it; to wait for the limit would hold up those that are there
            messages = [] if first is None else [first, *(self._consumer.consume(limit - 1, 0.01) if limit > 1 else ())]
            for message in messages:
                if (error := message.error()) is not None:
                    raise KafkaException(error)
        records = [_record(message) for message in messages]
        self._next = records[-1].position + 1 if records else after + 1
        return records

    def oldest(self) -> int:
        """As `bus.Reader.oldest`."""
        low, high = self._bounds()
        return low if low < high else -1

    def newest(self) -> int:
        """As `bus.Reader.newest`."""
        return self._bounds()[1] - 1

    def commit(self, reader: str, position: int) -> None:
        """As `bus.Reader.commit`."""
        with _translated():
            if self._commits is None:
                self._open()
                self._commits = Producer({**_client(self._config), "enable.idempotence": True, "acks": "all"})
            key = f"{self._topic}/{self._partition}/{reader}"
            self._commits.produce(_topic(self._namespace, _READERS), str(position), key=key, partition=0)
            if self._commits.flush(_TIMEOUT_S):
                raise KafkaException(KafkaError(KafkaError._MSG_TIMED_OUT))

    def forget(self, reader: str) -> None:
        """As `bus.Reader.forget`: Kafka keeps records by their age, whoever has read them."""

    def remove(self, positions: Sequence[int]) -> int:
        """As `bus.Reader.remove`: Kafka removes no single records."""
        return 0

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()

    def _open(self) -> None:
        if not self._opened:
            create_topics(self._config, self._namespace, self._dead_letters_days)
            self._opened = True

    def _bounds(self) -> tuple[int, int]:
        with _translated():
            self._open()
            found: tuple[int, int] = self._consumer.get_watermark_offsets(
                TopicPartition(self._name, self._partition), timeout=_TIMEOUT_S
            )
            return found

    def _behind(self, after: int) -> bool:
        """Whether there is something to read; asking is also how a broker that is away is noticed."""
        return self.newest() > after


class _Positions:
    """How far readers are, followed in the compacted topic."""

    def __init__(self, config: BusConfig, namespace: str) -> None:
        self._config, self._namespace = config, namespace
        self._consumer: Consumer | None = None
        self._known: dict[str, int] = {}
        self._lock = threading.Lock()

    def lags(self, topic: str, reader: str) -> dict[int, int]:
        with self._lock:
            consumer = self._follow()
            found = {}
            for partition in range(self._config.partitions):
                at = TopicPartition(_topic(self._namespace, topic), partition)
                low, high = consumer.get_watermark_offsets(at, timeout=_TIMEOUT_S)
                found[partition] = max(0, high - max(low, self._known.get(f"{topic}/{partition}/{reader}", -1) + 1))
            return found

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()

    def _follow(self) -> Consumer:
        at = TopicPartition(_topic(self._namespace, _READERS), 0, OFFSET_BEGINNING)
        if self._consumer is None:
            self._consumer = _consumer(self._config)
            self._consumer.assign([at])
        _, high = self._consumer.get_watermark_offsets(at, timeout=_TIMEOUT_S)
        until = time.monotonic() + _TIMEOUT_S
        while high and self._consumer.position([at])[0].offset < high:
            if time.monotonic() > until:
                raise TimeoutError(f"the readers' positions were not read within {_TIMEOUT_S} s")
            for message in self._consumer.consume(1_000, 0.1):
                if (error := message.error()) is not None:
                    raise KafkaException(error)
                key = _text(message.key())
                self._known[key] = max(self._known.get(key, -1), int(_text(message.value())))
        return self._consumer


def create_topics(config: BusConfig, namespace: str, dead_letters_days: float = 14) -> None:
    """Create what is not there yet, with its partitions and retention.

    Raises:
        NotReadyError: the brokers do not answer.
        ConfigError: a topic has another number of partitions, so that users would change their place.
    """
    with _translated():
        admin = AdminClient({**_client(config), "socket.timeout.ms": int(_TIMEOUT_S * 1e3)})
        there = admin.list_topics(timeout=_TIMEOUT_S).topics
        keep_ms = dict.fromkeys((EVENTS, EXPOSURES), config.keep_hours * _HOUR_MS)
        keep_ms[DEAD_LETTERS] = int(dead_letters_days * 24 * _HOUR_MS)
        wanted = {
            _topic(namespace, topic): NewTopic(
                _topic(namespace, topic),
                num_partitions=config.partitions,
                replication_factor=config.replication,
                config={"cleanup.policy": "delete", "retention.ms": str(ms)},
            )
            for topic, ms in keep_ms.items()
        }
        readers = _topic(namespace, _READERS)
        wanted[readers] = NewTopic(
            readers, num_partitions=1, replication_factor=config.replication, config={"cleanup.policy": "compact"}
        )
        for name in wanted:
            if name in there and name != readers and len(there[name].partitions) != config.partitions:
                raise ConfigError(
                    f"events.bus.partitions={config.partitions}: found topic {name} with {len(there[name].partitions)}; "
                    "give that number, or another store.namespace"
                )
        missing = [topic for name, topic in wanted.items() if name not in there]
        for future in (admin.create_topics(missing, operation_timeout=_TIMEOUT_S) if missing else {}).values():
            try:
                future.result(_TIMEOUT_S)
            except KafkaException as exc:
                if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise


def _topic(namespace: str, topic: str) -> str:
    return f"{namespace}.{topic}"


def _client(config: BusConfig) -> dict[str, str | int]:
    return {"bootstrap.servers": config.url, "log_level": 2}  # brokers that are away are errors here, not lines on stderr


def _consumer(config: BusConfig) -> Consumer:
    return Consumer(
        {
            **_client(config),
            "group.id": f"reco-{uuid.uuid4().hex}",  # asked for by the client; nothing is committed to it
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 100,
        }
    )


def _record(message: Message) -> Record:
    value = message.value()
    return Record(int(message.offset() or 0), int(message.timestamp()[1]), value if isinstance(value, bytes) else b"")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _away(error: object) -> NotReadyError:
    return NotReadyError(f"the event bus does not answer ({error}); start it, or check events.bus.url")


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (KafkaException, BufferError, OSError, TimeoutError) as exc:
        raise _away(exc) from exc
