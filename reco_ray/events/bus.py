"""The bus: topics of numbered partitions, each an ordered list of byte records. Two implementations, one contract.

Topics are ``events``, ``exposures`` and ``dead_letters``. A record's partition is that of its user, so that what concerns one
user keeps its order and has one owner. A position is an integer that grows within a partition: a Kafka offset, or a stream id
as ``ms << 22 | seq``. `open_producer` and `open_reader` (`events.open`) choose the implementation that the configuration names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from reco_ray.hashing import hash64

__all__ = ["DEAD_LETTERS", "EVENTS", "EXPOSURES", "LAKE", "Outgoing", "Producer", "Reader", "Record", "partition_of"]

EVENTS, EXPOSURES, DEAD_LETTERS = "events", "exposures", "dead_letters"
LAKE = "lake"  # the reader that stores records


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record on its way to the bus."""

    partition: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """A record as read. ``ts_ms``: when the bus took it, milliseconds since 1970."""

    position: int
    ts_ms: int
    value: bytes


class Producer(Protocol):
    """The writing side, on an event loop."""

    async def append(self, topic: str, records: Sequence[Outgoing]) -> None:
        """Append records, in order within a partition; when it returns all of them are durable.

        Raises: NotReadyError: they are not, or some may be: the caller answers 503 and the client sends them again.
        """

    async def lags(self, topic: str, reader: str) -> Mapping[int, int]:
        """Records of each partition that ``reader`` has not committed.

        Raises: NotReadyError: the bus is away.
        """

    async def aclose(self) -> None:
        """Close the connections."""


class Reader(Protocol):
    """The reading side, blocking, one partition of one topic, owned by one process.

    ``commit`` and ``trim`` are hints: what a reader has really read is what its own output says (design, section 5).
    """

    def read(self, after: int, limit: int, wait_s: float) -> list[Record]:
        """Read up to ``limit`` records behind a position (-1: from the oldest); waits up to ``wait_s`` for a first one.

        Raises: NotReadyError: the bus is away.
        """

    def oldest(self) -> int:
        """Position of the oldest record kept; -1 where there is none."""

    def newest(self) -> int:
        """Position of the newest record ever appended; -1 where there was none."""

    def commit(self, reader: str, position: int) -> None:
        """Say how far ``reader`` has come; records behind the slowest reader may go."""

    def forget(self, reader: str) -> None:
        """Keep nothing for ``reader`` any more."""

    def remove(self, positions: Sequence[int]) -> int:
        """Remove single records for an erasure, where the bus can; returns how many (Kafka: 0, retention removes them)."""

    def close(self) -> None:
        """Close the connection."""


def partition_of(user_id: str, partitions: int) -> int:
    """Return the partition of a user's records, in [0, partitions)."""
    return hash64(user_id, "bus_partition") % partitions
