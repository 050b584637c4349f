"""The record of each decision on its way to the bus: noted behind the answer, written by a task of its own.

While the bus is away records wait, the oldest first; what comes when the buffer is full is counted and lost. The oldest stay
because they may be on the bus already, in a call whose answer was lost: they are sent again as they were, and the sink removes
the copies by their request_id. A replica that is killed loses what it noted since its last write.
"""

import asyncio
import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import orjson

from reco_ray.config import ExposuresConfig
from reco_ray.errors import NotReadyError
from reco_ray.events.bus import EXPOSURES, Outgoing, partition_of
from reco_ray.feedback.exposures import Decision, encode, encode_slots
from reco_ray.hashing import unit_interval
from reco_ray.serve.http.answers import Answer, context_of
from reco_ray.store import FinishedSlate, pack_user
from reco_ray.types import UserRow

__all__ = ["ExposureMetrics", "Exposures"]

log = logging.getLogger(__name__)

_BATCH = 500  # records of one call of the bus
_SLICE = 10  # encoded between two turns of the event loop: at most 0.5 ms
_SLATES = 1_000  # whose places are remembered as written
_STOP_S = 5.0

Noted = tuple[str, Answer, UserRow | None, str]


class Appends(Protocol):
    """The part of `events.bus.Producer` that is needed."""

    async def append(self, topic: str, records: Sequence[Outgoing]) -> None:
        """Append; durable when it returns."""


class ExposureMetrics(Protocol):
    """Where records are counted."""

    def exposed(self, sent: int, lost: Mapping[str, int], failures: int, waiting: int) -> None:
        """Since the last call: records on the bus, lost ones by reason, calls that failed; and those that wait now."""


class Exposures:
    """The buffer of one gateway replica, used from one event loop.

    Args:
        partitions: of the bus.
    """

    def __init__(self, config: ExposuresConfig, bus: Appends, partitions: int, metrics: ExposureMetrics) -> None:
        self._config, self._bus, self._partitions, self._metrics = config, bus, partitions, metrics
        self._noted: deque[Noted] = deque()
        self._batch: list[Outgoing] = []  # encoded, and perhaps sent
        self._slots: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._lost: Counter[str] = Counter()
        self._sent = self._failures = 0
        self._bus_answers = True

    def __len__(self) -> int:
        return len(self._noted) + len(self._batch)

    def note(self, call: str, answer: Answer) -> None:
        """Note an answer that went out: 2 us at most; nothing is written here."""
        if len(self._noted) + len(self._batch) >= self._config.buffer:
            self._lost["overflow"] += 1
            return
        asked = answer.asked
        row, view = None, ""
        # only now: a computation for others may still fill it in
        if asked.user_id and asked.user_view and answer.slate.draw_id == answer.request_id:
            view = asked.user_view
            if unit_interval(answer.request_id, "features_share") < self._config.features_share:
                row = asked.user
        self._noted.append((call, answer, row, view))

    async def run(self) -> None:
        """Write each interval until cancelled; no error ends it."""
        while True:
            await asyncio.sleep(self._config.interval_s)
            try:
                await self.flush()
            except Exception:
                log.exception("records of decisions were not written; trying again")
            self._tell()

    async def flush(self) -> None:
        """Write what waits, as far as the bus takes it."""
        while self._noted or self._batch:
            await self._encode()
            try:
                await self._bus.append(EXPOSURES, self._batch)
            except Exception as exc:
                self._failures += 1
                if not isinstance(exc, NotReadyError):
                    raise
                if self._bus_answers:
                    log.warning("the bus does not take the records of decisions, which wait: %s", exc)
                self._bus_answers = False
                return
            self._bus_answers = True
            self._sent += len(self._batch)
            self._batch = []

    async def stop(self) -> None:
        """Write what waits, if that can be done soon."""
        try:
            await asyncio.wait_for(self.flush(), _STOP_S)
        except Exception as exc:
            log.warning("records of decisions were not written: %s", exc or type(exc).__name__)
        if len(self):
            log.warning("%d records of decisions are lost, as the bus does not take them", len(self))
            self._lost["stopped"] += len(self)
            self._noted.clear()
            self._batch = []
        self._tell()

    async def _encode(self) -> None:
        """Fill the batch; one that was sent in vain is sent again as it was."""
        if self._batch:
            return
        while self._noted and len(self._batch) < _BATCH:
            for _ in range(min(_SLICE, len(self._noted))):
                noted = self._noted.popleft()
                try:
                    self._batch.append(self._record(*noted))
                except Exception as exc:  # one that cannot be written must not hold up the others
                    self._lost["unwritable"] += 1
                    log.error("the record of a decision cannot be written: %s: %s", type(exc).__name__, exc)
            await asyncio.sleep(0)

    def _record(self, call: str, answer: Answer, row: UserRow | None, view: str) -> Outgoing:
        asked, slate = answer.asked, answer.slate
        decision = Decision(
            request_id=answer.request_id,
            call=call,
            user_id=asked.user_id,
            ts_us=int(answer.at * 1e6),
            surface=asked.surface,
            context={} if asked.context is None else context_of(asked.context),
            consent=asked.consent,
            release=slate.release,
            variant=answer.variant,
            rung=slate.rung,
            degraded=slate.degraded,
            draw_id=slate.draw_id,
            age_s=max(0.0, answer.at - slate.made),
            slots=self._slots_of(slate),
            user_view=view,
            user_row=None if row is None else pack_user(row),
            timings=answer.timings,
            circumstances=asked.circumstances if slate.draw_id == answer.request_id else (),
        )
        # the records of nobody in particular are spread
        return Outgoing(partition_of(asked.user_id or answer.request_id, self._partitions), encode(decision))

    def _slots_of(self, slate: FinishedSlate) -> bytes:
        name = slate.etag, slate.draw_id
        found = self._slots.get(name)
        if found is None:
            found = self._slots[name] = _slots(slate)
            if len(self._slots) > _SLATES:
                self._slots.popitem(last=False)
        else:
            self._slots.move_to_end(name)
        return found

    def _tell(self) -> None:
        sent, lost, failures = self._sent, self._lost, self._failures
        self._sent, self._lost, self._failures = 0, Counter(), 0
        self._metrics.exposed(sent, lost, failures, len(self))


def _slots(slate: FinishedSlate) -> bytes:
    fields = orjson.loads(b"{" + slate.tail)
    items, rules = fields["items"], fields.get("rules")
    scores = [item["score"] for item in items]
    return encode_slots(
        [item["item_id"] for item in items],
        np.array([np.nan if score is None else score for score in scores], np.float32),
        [item["reasons"] for item in items],
        np.frombuffer(slate.propensities, "<f4") if slate.propensities else None,
        rules["version"] if rules else None,
        items[0]["position"] if items else 1,
        fields.get("ranker"),
    )
