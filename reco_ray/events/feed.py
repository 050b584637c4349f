"""A sink with all that it needs: the bus's reader, the table's writer, the fence, and the way to the dead letters."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reco_ray.config import PipelineConfig
from reco_ray.errors import NotReadyError
from reco_ray.events.bus import DEAD_LETTERS, LAKE, Outgoing
from reco_ray.events.open import open_producer, open_reader
from reco_ray.events.sink import Decode, Sink
from reco_ray.lake.appending import TableAppender
from reco_ray.lake.ids import StoredIds
from reco_ray.store import OnlineStore
from reco_ray.store.fence import FenceStore

__all__ = ["Feed", "Flow", "open_flow", "writer_name"]


@dataclass(frozen=True, slots=True)
class Feed:
    """What goes from a topic of the bus to the table of the same name.

    Attributes:
        id_column: what makes a row unique. decode: a module's function, as it travels to other processes.
    """

    topic: str
    id_column: str
    decode: Decode


@dataclass(frozen=True, slots=True)
class Flow:
    """A running sink. ``newest_us``: latest event time in the table when it started; 0 for none."""

    sink: Sink
    newest_us: int
    producer: "BlockingProducer"
    topic: str
    partition: int

    def lag(self) -> int | None:
        """Records that wait in the partition; None where the bus does not say."""
        return self.producer.lag(self.topic, self.partition)


def writer_name(topic: str, partition: int) -> str:
    """Name under which the lake's table, and the fence, know the sink of a partition."""
    return f"sink:{topic}:{partition}"


class BlockingProducer:
    """The writing side of the bus for a thread without an event loop."""

    def __init__(self, config: PipelineConfig, store_url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._producer = open_producer(config.events, config.store.namespace, store_url)

    def refuse(self, partition: int, letters: Sequence[bytes]) -> None:
        """Append dead letters; they are durable when it returns.

        Raises: NotReadyError: they may not be.
        """
        records = [Outgoing(partition, letter) for letter in letters]
        self._loop.run_until_complete(self._producer.append(DEAD_LETTERS, records))

    def lag(self, topic: str, partition: int) -> int | None:
        """Records that the lake has not taken; None where the bus does not answer."""
        try:
            return self._loop.run_until_complete(self._producer.lags(topic, LAKE)).get(partition)
        except NotReadyError:
            return None

    def close(self) -> None:
        """Close the connections."""
        self._loop.run_until_complete(self._producer.aclose())
        self._loop.close()


@contextlib.contextmanager
def open_flow(
    config: PipelineConfig, store_url: str, feed: Feed, partition: int, stop: threading.Event | None = None
) -> Iterator[Flow]:
    """Open the sink of one partition of a topic.

    Raises:
        NotReadyError: the bus or the store is away.
        DataError: the lake's table has dates of another unit, or columns of another type.
    """
    name, unit = writer_name(feed.topic, partition), config.lake.date_unit
    appender = TableAppender(config.root, feed.topic, name, unit)
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(OnlineStore(store_url, config.store.namespace))
        fence = FenceStore(store, name)
        reader = open_reader(config.events, config.store.namespace, store_url, feed.topic, partition)
        stack.callback(reader.close)
        producer = stack.enter_context(contextlib.closing(BlockingProducer(config, store_url)))
        sink = Sink(
            reader,
            appender,
            feed.decode,
            unit,
            fresh=StoredIds(feed.id_column).fresh,
            fence=fence.read,
            refuse=lambda letters: producer.refuse(partition, letters),
            rows=config.events.sink_rows,
            interval_s=config.events.sink_interval_s,
            stop=stop,
        )
        yield Flow(sink, appender.newest_us(), producer, feed.topic, partition)
