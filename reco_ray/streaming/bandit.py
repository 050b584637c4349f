"""From the bus to a bandit's evidence: one partition, its decisions and its events, one micro-batch after another.

A place that was drawn from a source counts at once as one without a reward, and is remembered for half an hour; the first click
or stronger event that names its request and its item adds the reward, with the weight of the place. So an impression needs no
event to count as 0, and nothing waits to be decided. The two topics are read by the bus's own time, events some seconds behind
the decisions, since a gateway writes those late. A batch is written with both positions: what is read again counts once.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import orjson

from reco_ray.config import PipelineConfig
from reco_ray.errors import SchemaError
from reco_ray.events.bus import EVENTS, EXPOSURES, Reader, Record
from reco_ray.events.open import open_reader
from reco_ray.hashing import user_digest
from reco_ray.rerank.bandit import CIRCUMSTANCES, Evidence, drawn_source
from reco_ray.store import BanditStore, Fence, FenceStore, OnlineStore

__all__ = ["READER", "REMEMBERED_S", "BanditMetrics", "BanditStream", "Learned", "learn", "open_bandit"]

log = logging.getLogger(__name__)

READER = "bandit"  # its name among the bus's readers
REMEMBERED_S = 1_800
_BEHIND_S = 5.0  # of the events: a gateway writes decisions every quarter of a second
_WANTED_S = 86_400.0
_LOOK_S = 1.0
_REWARDED = frozenset(("click", "view", "like", "add_to_cart", "purchase"))


class BanditMetrics(Protocol):
    """Where it is counted; `monitoring.metrics.streams.BanditMetrics` in production."""

    def learned(self, places: int, rewards: int) -> None:
        """So many places and rewards were added."""

    def failed(self, error: BaseException) -> None:
        """A batch failed, and will be tried again."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What came of one round.

    Attributes:
        read: records. places, rewards: of drawn places that were added.
        more: whether more may wait behind what was read.
        waiting: whether no stage learns from it, so that nothing was read.
    """

    read: int = 0
    places: int = 0
    rewards: int = 0
    more: bool = False
    waiting: bool = False


@dataclass(slots=True)
class _Drawn:
    """What one request drew: when, in which circumstances, and the places that have no reward yet, as item -> source."""

    at: float
    x: list[float]
    places: dict[str, str]

    def pack(self) -> bytes:
        return orjson.dumps((self.at, self.x, self.places))


class BanditStream:
    """Adds one partition's decisions and rewards to the evidence.

    Args:
        decisions, events: readers of the topics.
        fence: whose records count no more.
        rows: of a batch, of each topic.
    """

    def __init__(
        self,
        decisions: Reader,
        events: Reader,
        store: BanditStore,
        partition: int,
        fence: Callable[[], Fence],
        *,
        rows: int = 2_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._decisions, self._events, self._store, self._partition = decisions, events, store, partition
        self._fence, self._rows, self._clock = fence, rows, clock
        self._registered = True  # among the bus's readers, for all that is known

    def run_once(self) -> Learned:
        """Read a batch and add it up. After any error nothing is half added: call again.

        Raises:
            NotReadyError: the bus or the store is away.
            StaleWriterError: another process learns from this partition in our place.
        """
        if self._clock() - self._store.wanted_s() > _WANTED_S:
            if self._registered:
                for reader in (self._decisions, self._events):
                    reader.forget(READER)
            self._registered = False
            return Learned(waiting=True)
        self._registered = True
        before, packed = self._store.learned(self._partition)
        if before is None:
            self._store.begin(self._partition, (self._decisions.newest(), self._events.newest()))
            return Learned()
        decided, happened = self._decisions.read(before[0], self._rows, 0), self._events.read(before[1], self._rows, 0)
        decided, happened = self._in_order(decided, happened)
        more = max(len(decided), len(happened)) >= self._rows
        if not decided and not happened:
            return Learned()
        fence = self._fence()
        drawn, clicks = list(_drawn(decided, fence)), list(_clicks(happened, fence))
        known = self._remembered([*(name for name, _ in drawn), *(name for name, _, _ in clicks)])
        added, changed = Evidence(), dict[str, _Drawn]()
        for name, each in drawn:
            if name in known:
                continue  # the gateway sends a record again where the bus's answer was lost
            known[name] = changed[name] = each
            for source in each.places.values():
                added = added.shown(source, np.array(each.x), each.at)
        places, rewards = sum(len(each.places) for each in changed.values()), 0
        for name, item_id, at in clicks:
            of = known.get(name)
            if of is None or at > of.at + REMEMBERED_S or not (source := of.places.pop(item_id, "")):
                continue
            added, rewards = added.rewarded(source, np.array(of.x), of.at), rewards + 1
            changed[name] = of
        after = (decided[-1].position if decided else before[0], happened[-1].position if happened else before[1])
        sums = (_readable(packed) + added).pack() if added.sums else None
        remember = {name: each.pack() for name, each in changed.items()}
        self._store.apply(self._partition, before, after, sums, remember, REMEMBERED_S)
        self._decisions.commit(READER, after[0])  # hints: the store's word is what is read again from
        self._events.commit(READER, after[1])
        return Learned(len(decided) + len(happened), places, rewards, more)

    def _in_order(self, decided: list[Record], happened: list[Record]) -> tuple[list[Record], list[Record]]:
        """What may be added now: no event before the decisions of some seconds behind it, no decision long before events."""
        behind_ms, now_ms = _BEHIND_S * 1e3, self._clock() * 1e3
        until = (decided[-1].ts_ms if len(decided) >= self._rows else now_ms) - behind_ms
        if len(happened) >= self._rows:
            until = min(until, happened[-1].ts_ms)
        return (
            [each for each in decided if each.ts_ms <= until + behind_ms],
            [each for each in happened if each.ts_ms <= until],
        )

    def _remembered(self, request_ids: Sequence[str]) -> dict[str, _Drawn]:
        found = self._store.drawn(list(dict.fromkeys(request_ids)))
        return {name: _Drawn(*orjson.loads(raw)) for name, raw in found.items()}


@contextlib.contextmanager
def open_bandit(config: PipelineConfig, store_url: str, partition: int) -> Iterator[BanditStream]:
    """Open the stream of one partition."""
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(OnlineStore(store_url, config.store.namespace))
        decisions, events = (
            open_reader(config.events, config.store.namespace, store_url, topic, partition) for topic in (EXPOSURES, EVENTS)
        )
        stack.callback(decisions.close)
        stack.callback(events.close)
        bandit = BanditStore(store, config.store.ttl_days * 86_400)
        yield BanditStream(decisions, events, bandit, partition, FenceStore(store).read)


def learn(config: PipelineConfig, store_url: str, partition: int, stop: threading.Event, metrics: BanditMetrics) -> None:
    """Add what comes until ``stop``; no error ends it."""
    while not stop.is_set():
        try:
            with open_bandit(config, store_url, partition) as stream:
                while not stop.is_set():
                    done = stream.run_once()
                    if done.places or done.rewards:
                        metrics.learned(done.places, done.rewards)
                    if not done.more:
                        stop.wait(_LOOK_S)
        except Exception as exc:
            log.warning("bandit of %d: %s: %s", partition, type(exc).__name__, exc)
            metrics.failed(exc)
            stop.wait(_LOOK_S)


def _readable(packed: bytes | None) -> Evidence:
    """Evidence of before; what another version of the code has written counts no more."""
    try:
        return Evidence.unpack(packed) if packed else Evidence()
    except SchemaError as exc:
        log.warning("%s", exc)
        return Evidence()


def _drawn(records: Sequence[Record], fence: Fence) -> Iterator[tuple[str, _Drawn]]:
    """Requests of which a place was drawn from a source, with what they drew."""
    for record in records:
        if b'"circumstances":[' not in record.value or (row := _row(record, fence)) is None:
            continue
        try:
            x = [float(value) for value in row["circumstances"]]
            whence = [drawn_source(rules.split(",")) for rules in row["rules"]]
            places = {str(item): source for item, source in zip(row["item_ids"], whence, strict=True) if source}
            name, at = str(row["request_id"]), float(record.ts_ms) / 1e3
        except (KeyError, TypeError, ValueError, AttributeError):
            continue  # the sink keeps what it cannot decode
        if places and len(x) == len(CIRCUMSTANCES):
            yield name, _Drawn(at, x, places)


def _clicks(records: Sequence[Record], fence: Fence) -> Iterator[tuple[str, str, float]]:
    """Request, item and time of what counts as a reward."""
    for record in records:
        if b'"request_id":"' not in record.value or (row := _row(record, fence)) is None:
            continue
        if row.get("type") in _REWARDED and row.get("request_id") and row.get("item_id"):
            yield str(row["request_id"]), str(row["item_id"]), record.ts_ms / 1e3


def _row(record: Record, fence: Fence) -> Mapping[str, Any] | None:
    """A record's fields; None where it is none, or its user is or was erased."""
    try:
        row = orjson.loads(record.value)
        user, ts_us = row.get("user_id"), int(row["ts"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        return None
    if fence.entries and user and fence.drops(user_digest(str(user)), ts_us, record.ts_ms * 1_000):
        return None
    return dict(row)
