"""What the tests of events share: events, a bus and a window in memory."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from reco_ray.errors import NotReadyError
from reco_ray.events.bus import EVENTS, Outgoing

NOW = 1_800_000_000.0


def event(number: int = 0, **more: Any) -> dict[str, Any]:
    """A click of user ``u<number % 7>``, a second before `NOW`."""
    return {
        "event_id": f"e{number}",
        "schema_version": "1.1",
        "type": "click",
        "user_id": f"u{number % 7}",
        "item_id": f"i{number}",
        "ts": int((NOW - 1) * 1e6),
        **more,
    }


class MemoryBus:
    """Keeps what is appended; ``away`` for the topics named there, and ``lag`` in partition 0."""

    def __init__(self) -> None:
        self.topics: dict[str, list[Outgoing]] = defaultdict(list)
        self.away: set[str] = set()
        self.appends: list[str] = []
        self.lag = 0

    async def append(self, topic: str, records: Sequence[Outgoing]) -> None:
        self.appends.append(topic)
        if topic in self.away:
            raise NotReadyError("the bus is away")
        self.topics[topic] += records

    async def lags(self, topic: str, reader: str) -> Mapping[int, int]:
        if EVENTS in self.away:
            raise NotReadyError("the bus is away")
        return {0: self.lag, 1: 0}

    async def aclose(self) -> None:
        pass


class MemoryWindow:
    """Remembers ids for ever; may be away."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.away = False

    async def known(self, ids: Sequence[str]) -> set[str]:
        self._check()
        return self.ids & set(ids)

    async def mark(self, ids: Sequence[str]) -> None:
        self._check()
        self.ids |= set(ids)

    def _check(self) -> None:
        if self.away:
            raise NotReadyError("the window is away")


class EventCounts:
    """Counts what a gateway counts of events."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.lags: dict[int, int] = {}

    def taken(self, accepted: int, duplicates: int, rejected: Mapping[str, int], dead_letters: int) -> None:
        self.counts.update(accepted=accepted, duplicates=duplicates, dead_letters=dead_letters)
        self.counts.update({f"rejected {reason}": n for reason, n in rejected.items()})

    def refused(self, reason: str) -> None:
        self.counts[f"refused {reason}"] += 1

    def bus_ms(self, topic: str, ms: float) -> None:
        self.counts[f"appended to {topic}"] += 1

    def window_failed(self) -> None:
        self.counts["window failed"] += 1

    def lag(self, partition: int, records: int) -> None:
        self.lags[partition] = records
