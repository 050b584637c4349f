"""One request through the stages: owns order, deadline, fallback, counts and timing; stages hold none of these.

A stage that fails or is late is counted and named in ``degraded``. Rungs so far: a missing ranker leaves recall's order;
recall and rerank have no substitute yet and raise `StageFailed`.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from reco_ray.types import Request, Slate

__all__ = [
    "CUTOFFS",
    "Deadline",
    "LoggingObserver",
    "Observer",
    "Outcome",
    "StageFailed",
    "Stages",
    "run_stages",
    "run_within",
]

log = logging.getLogger(__name__)

# Share of the budget by whose end a stage must have answered: what one leaves unused, the next one has.
CUTOFFS = {"user": 0.35, "recall": 0.65, "rank": 0.85, "rerank": 1.0}
_FLOOR_S = 0.005  # the last stage may overrun by so much rather than throw finished work away

Query = TypeVar("Query")
Found = TypeVar("Found")
Scored = TypeVar("Scored")
T = TypeVar("T")


class Stages(Protocol[Query, Found, Scored]):
    """The stages of one release, one request at a time; the types between them are the implementation's own."""

    def prepare(self, request: Request) -> Query:
        """Turn a request into what the stages take, once per request."""

    async def recall(self, query: Query) -> Found:
        """Find candidates."""

    async def score(self, query: Query, found: Found) -> Scored:
        """Score candidates."""

    async def arrange(self, query: Query, found: Found, scored: Scored) -> Slate:
        """Arrange scored candidates into a slate."""

    def recall_order(self, found: Found) -> Scored:
        """Give scores that keep recall's order, for when there is no ranker."""

    def close(self) -> None:
        """Give back what is held; nothing is asked of these stages any more."""


class Observer(Protocol):
    """Where counts and timings go."""

    def stage(self, stage: str, ms: float) -> None:
        """A stage answered after so many milliseconds."""

    def failed(self, stage: str, reason: str, error: BaseException) -> None:
        """A stage was ``late`` or ``failed``."""


class LoggingObserver:
    """Logs failures, at most one line a second for each stage, and passes everything on.

    The line names the stage and the error's type, never the request's user.
    """

    def __init__(self, then: Observer | None = None) -> None:
        self._then = then
        self._last: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}

    def stage(self, stage: str, ms: float) -> None:
        if self._then is not None:
            self._then.stage(stage, ms)

    def failed(self, stage: str, reason: str, error: BaseException) -> None:
        if self._then is not None:
            self._then.failed(stage, reason, error)
        now = time.monotonic()
        if now - self._last.get(stage, -1e9) < 1.0:
            self._unsaid[stage] = self._unsaid.get(stage, 0) + 1
            return
        self._last[stage] = now
        also = self._unsaid.pop(stage, 0)
        log.warning("stage %s %s: %s: %s (and %d more since the last line)", stage, reason, type(error).__name__, error, also)


class StageFailed(Exception):
    """A stage without a substitute gave nothing. ``reason`` is ``late`` or ``failed``."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(f"{stage} {reason}")
        self.stage, self.reason = stage, reason


@dataclass(slots=True)
class Deadline:
    """The budget of one request; starts when made."""

    budget_s: float
    started: float = field(default_factory=time.perf_counter)

    def left(self, stage: str) -> float:
        """Seconds that ``stage`` may take from now on; not positive when its time is over."""
        return self.budget_s * CUTOFFS[stage] - (time.perf_counter() - self.started)

    def elapsed_ms(self) -> float:
        """Milliseconds since the start."""
        return (time.perf_counter() - self.started) * 1e3


@dataclass(slots=True)
class Outcome:
    """A slate, what the path adds to its ``degraded``, and what each stage took in milliseconds."""

    slate: Slate
    degraded: list[str]
    timings: dict[str, float]


async def run_stages(
    stages: Stages[Query, Found, Scored],
    request: Request,
    deadline: Deadline,
    observer: Observer,
    timings: dict[str, float] | None = None,
) -> Outcome:
    """Answer one request within its deadline.

    Args:
        timings: to add to; a new dictionary when None.
    Raises: StageFailed: recall or rerank failed or was late.
    """
    timings = {} if timings is None else timings
    degraded: list[str] = []
    query = stages.prepare(request)
    found = await run_within("recall", stages.recall(query), deadline, observer, timings)
    try:
        scored = await run_within("rank", stages.score(query, found), deadline, observer, timings)
    except StageFailed:
        degraded.append("ranker_unavailable")
        scored = stages.recall_order(found)
    slate = await run_within("rerank", stages.arrange(query, found, scored), deadline, observer, timings)
    return Outcome(slate, degraded, timings)


async def run_within(stage: str, work: Awaitable[T], deadline: Deadline, observer: Observer, timings: dict[str, float]) -> T:
    """Await one stage within its share of the budget; counts, times and translates whatever goes wrong.

    Raises: StageFailed: with reason ``late`` or ``failed``. Being cancelled from outside is neither, and passes through.
    """
    started = time.perf_counter()
    left = deadline.left(stage)
    try:
        async with asyncio.timeout(max(left, _FLOOR_S) if stage == "rerank" else max(left, 0.0)):
            result = await work
    except TimeoutError as exc:
        observer.failed(stage, "late", exc)
        timings[stage] = (time.perf_counter() - started) * 1e3
        raise StageFailed(stage, "late") from exc
    except Exception as exc:
        observer.failed(stage, "failed", exc)
        timings[stage] = (time.perf_counter() - started) * 1e3
        raise StageFailed(stage, "failed") from exc
    timings[stage] = ms = (time.perf_counter() - started) * 1e3
    observer.stage(stage, ms)
    return result
