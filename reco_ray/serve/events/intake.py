"""A batch of events on its way to the bus: admit, look for what is known, append, remember, answer for each.

An event is acknowledged when it is durable on the bus, and a batch as a whole: whatever fails on the way refuses all of it, and
the client sends it again; the ids make that harmless. Events go to the bus before dead letters, and are remembered in between,
so that a batch that is sent again because of its dead letters finds its events known.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from reco_ray.errors import NotReadyError, RecoError
from reco_ray.events.bus import DEAD_LETTERS, EVENTS, Outgoing, partition_of
from reco_ray.events.contract import Admitted, Refused
from reco_ray.events.dead_letters import DeadLetter, letter_key, letter_partition
from reco_ray.hashing import user_digest
from reco_ray.serve.events.backpressure import EventsRefused
from reco_ray.serve.guard.breaker import Breaker

__all__ = ["Admit", "EventIntake", "EventMetrics", "Fence", "NoFence", "Taken", "Window"]

log = logging.getLogger(__name__)

Admit = Callable[[Sequence[object], int], Sequence[Admitted | Refused]]
"""`events.contract.admit` under the gateway's limits: raw events and our clock in microseconds -> a verdict on each."""

_SLICE = 25  # events between two turns of the event loop: 2.5 ms
_MOST_AT_WORK = 64  # batches; each holds up to a few MiB
_APPEND_TIMEOUT_S = 10.0


class Appends(Protocol):
    """The part of `events.bus.Producer` that is needed."""

    async def append(self, topic: str, records: Sequence[Outgoing]) -> None:
        """Append; durable when it returns."""


class Window(Protocol):
    """`events.window.DedupWindow` in production."""

    async def known(self, ids: Sequence[str]) -> set[str]:
        """Return the ids that were marked lately."""

    async def mark(self, ids: Sequence[str]) -> None:
        """Remember ids."""


class Fence(Protocol):
    """`store.Fence` as last read: users whose data are, or were lately, erased."""

    def drops(self, user: str, ts_us: int, received_us: int, /) -> bool:
        """Whether an event of a user (digest) may not be kept."""


class NoFence:
    """Nobody was erased."""

    def drops(self, user: str, ts_us: int, received_us: int, /) -> bool:
        """Never."""
        return False


class Checks(Protocol):
    """`backpressure.LagWatch` in production."""

    def check(self) -> None:
        """Raise `EventsRefused` where no events may be taken."""


class EventMetrics(Protocol):
    """Where events are counted."""

    def taken(self, accepted: int, duplicates: int, rejected: Mapping[str, int], dead_letters: int) -> None:
        """A batch was answered; ``rejected`` by reason."""

    def refused(self, reason: str) -> None:
        """A batch was refused: ``bus``, ``lag`` or ``busy``."""

    def bus_ms(self, topic: str, ms: float) -> None:
        """The bus took records."""

    def window_failed(self) -> None:
        """The dedup window did not answer."""


@dataclass(slots=True)
class Taken:
    """The answer to a batch: a result for each event, in order, and their sums."""

    results: list[dict[str, str | None]] = field(default_factory=list)
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0


@dataclass(slots=True)
class _Event:
    """One event as judged: ``outgoing`` to ``topic``, unless ``key`` is known; no key: it goes nowhere."""

    event_id: str | None
    topic: str = EVENTS
    key: str = ""
    outgoing: Outgoing | None = None
    reason: str = ""
    detail: str = ""


class EventIntake:
    """Takes batches.

    Args:
        bus: appends; whatever it raises but RecoError is a programming error.
        window: while it does not answer no event counts as known: the sink sorts the repeated ones out.
        partitions: of the bus.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        admit: Admit,
        bus: Appends,
        window: Window,
        lags: Checks,
        metrics: EventMetrics,
        *,
        partitions: int,
        fence: Fence | None = None,
        breaker: Breaker | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._admit, self._bus, self._window, self._lags, self._metrics = admit, bus, window, lags, metrics
        self._partitions, self._clock = partitions, clock
        self._fence = fence or NoFence()
        self._breaker = breaker or Breaker()
        self._turn = asyncio.Lock()
        self._at_work = 0
        self._window_answers = True

    async def take(self, raw: Sequence[object]) -> Taken:
        """Take a batch of parsed events.

        Raises: EventsRefused: the bus is away, its sink too far behind, or too many batches are at work; nothing of it counts.
        """
        try:
            self._lags.check()
            if self._at_work >= _MOST_AT_WORK:
                raise EventsRefused("busy", f"this gateway has {self._at_work} batches at work; send the batch again")
            self._at_work += 1
            try:
                return await self._take(raw)
            finally:
                self._at_work -= 1
        except EventsRefused as exc:
            self._metrics.refused(exc.reason)
            raise

    async def _take(self, raw: Sequence[object]) -> Taken:
        received_us = int(self._clock() * 1e6)
        events: list[_Event] = []
        for start in range(0, len(raw), _SLICE):
            async with self._turn:  # first come, first served: of all batches, one slice between two turns of the loop
                events += self._judge(raw[start : start + _SLICE], received_us)
                await asyncio.sleep(0)
        known = await self._known([event.key for event in events if event.key])
        fresh: dict[str, _Event] = {}
        taken = Taken()
        rejected: Counter[str] = Counter()
        for event in events:
            first = bool(event.key) and event.key not in known and event.key not in fresh
            if first:
                fresh[event.key] = event
            if event.reason:
                rejected[event.reason] += 1
                taken.results.append(
                    {"event_id": event.event_id, "status": "rejected", "reason": event.reason, "detail": event.detail}
                )
            else:
                taken.results.append({"event_id": event.event_id, "status": "accepted" if first else "duplicate"})
                taken.accepted += first
                taken.duplicates += not first
        taken.rejected = rejected.total()
        for topic in (EVENTS, DEAD_LETTERS):
            await self._append(topic, fresh)
        self._metrics.taken(
            taken.accepted, taken.duplicates, dict(rejected), sum(event.topic == DEAD_LETTERS for event in fresh.values())
        )
        return taken

    def _judge(self, raw: Sequence[object], received_us: int) -> list[_Event]:
        return [
            self._refused(verdict, received_us) if isinstance(verdict, Refused) else self._admitted(verdict, received_us)
            for verdict in self._admit(raw, received_us)
        ]

    def _admitted(self, event: Admitted, received_us: int) -> _Event:
        if self._fence.drops(user_digest(event.user_id), event.ts_us, received_us):
            # no dead letter: it would keep what is to be gone
            return _Event(event.event_id, reason="erased", detail="this user's data were erased; send no more of them")
        outgoing = Outgoing(partition_of(event.user_id, self._partitions), event.value)
        return _Event(event.event_id, EVENTS, event.event_id, outgoing)

    def _refused(self, event: Refused, received_us: int) -> _Event:
        letter = DeadLetter.of(event.reason, event.detail, event.raw, event.user_id, received_us)
        if letter.user and self._fence.drops(letter.user, received_us, received_us):
            return _Event(event.event_id, reason=event.reason, detail=event.detail)
        outgoing = Outgoing(letter_partition(event.raw, event.user_id, self._partitions), letter.encode())
        return _Event(event.event_id, DEAD_LETTERS, letter_key(event.raw), outgoing, event.reason, event.detail)

    async def _known(self, keys: Sequence[str]) -> set[str]:
        try:
            known = await self._window.known(keys)
        except NotReadyError as exc:
            self._window_fails(exc)
            return set()
        self._window_answers = True
        return known

    async def _append(self, topic: str, fresh: dict[str, _Event]) -> None:
        """Make records durable, then remember their keys.

        Raises: EventsRefused: they are not, or nobody knows.
        """
        mine = {key: event.outgoing for key, event in fresh.items() if event.topic == topic and event.outgoing is not None}
        if not mine:
            return
        if not self._breaker.allow():
            raise EventsRefused("bus", "the event bus has failed lately and is left alone for a moment; send the batch again")
        started = time.perf_counter()
        try:
            async with asyncio.timeout(_APPEND_TIMEOUT_S):
                await self._bus.append(topic, list(mine.values()))
        except (RecoError, TimeoutError) as exc:  # a server that is not durable is a ConfigError
            self._breaker.failed()
            log.warning("the bus did not take %d records: %s", len(mine), exc or type(exc).__name__)
            raise EventsRefused("bus", "the event bus does not take events just now; send the batch again") from exc
        self._breaker.succeeded()
        self._metrics.bus_ms(topic, (time.perf_counter() - started) * 1e3)
        try:
            await self._window.mark(list(mine))
        except NotReadyError as exc:  # they are durable all the same
            self._window_fails(exc)

    def _window_fails(self, exc: NotReadyError) -> None:
        self._metrics.window_failed()
        if self._window_answers:
            log.warning("events are taken without looking for repeated ones, which the sink removes: %s", exc)
        self._window_answers = False
