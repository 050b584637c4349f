"""One request through the stages: owns order, deadline, breakers, counts and timing; stages hold none of these.

A stage that fails, is late or is held back by its breaker is counted and named in ``degraded``. A missing ranker leaves
recall's order; for recall and rerank there is no such substitute: `StageFailed`, and the ladder's lower rungs answer.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from reco_ray.errors import SchemaError
from reco_ray.serve.guard.breaker import Breaker
from reco_ray.types import Request, Slate

__all__ = ["CUTOFFS", "Deadline", "LoggingObserver", "Observer", "Outcome", "Run", "StageFailed", "Stages", "run_stages"]

log = logging.getLogger(__name__)

# Share of the budget by whose end a stage must have answered: what one leaves unused, the next one has. The rest is for the way
# back: under overload an answer waits some 10 ms for the event loop and the proxy.
CUTOFFS = {"user": 0.3, "recall": 0.58, "rank": 0.77, "rerank": 0.88, "precomputed": 0.91, "answer": 0.94}
_FAIR = 0.15  # share of the budget from which on a late stage is held to be slow itself; less was left by one before it
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

    def check_health(self) -> None:
        """Raise when this process cannot run them any more."""

    def close(self) -> None:
        """Give back what is held; nothing is asked of these stages any more."""


class Observer(Protocol):
    """Where counts and timings go."""

    def stage(self, release: str, stage: str, ms: float) -> None:
        """A stage of a release answered after so many milliseconds."""

    def failed(self, release: str, stage: str, reason: str, error: BaseException | None) -> None:
        """A stage was ``late``, ``failed``, or ``open``: held back by its breaker."""


class LoggingObserver:
    """Logs failures, at most one line a second for each stage, and passes everything on.

    The line names the stage and the error's type, never the request's user.
    """

    def __init__(self, then: Observer | None = None) -> None:
        self._then = then
        self._last: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}

    def stage(self, release: str, stage: str, ms: float) -> None:
        if self._then is not None:
            self._then.stage(release, stage, ms)

    def failed(self, release: str, stage: str, reason: str, error: BaseException | None) -> None:
        if self._then is not None:
            self._then.failed(release, stage, reason, error)
        now = time.monotonic()
        if now - self._last.get(stage, -1e9) < 1.0:
            self._unsaid[stage] = self._unsaid.get(stage, 0) + 1
            return
        self._last[stage] = now
        also, why = self._unsaid.pop(stage, 0), "breaker" if error is None else f"{type(error).__name__}: {error}"
        log.warning("release %s: %s %s: %s (and %d more since the last line)", release, stage, reason, why, also)


class StageFailed(Exception):
    """A stage without a substitute gave nothing. ``reason`` is ``late``, ``failed`` or ``open``."""

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
class Run:
    """One request on its way.

    Attributes:
        breakers: by stage; a stage without one is always asked.
        hasty: whether the caller gave much less time than is usual. A stage that is late then is no worse for it: its breaker
            is not told, or a few callers in a hurry would open it for everybody.
        timings: milliseconds per stage so far.
    """

    release: str
    deadline: Deadline
    observer: Observer
    breakers: Mapping[str, Breaker] = field(default_factory=dict)
    hasty: bool = False
    timings: dict[str, float] = field(default_factory=dict)

    def taken(self) -> dict[str, float]:
        """Milliseconds per stage, and in all."""
        return {**self.timings, "total": self.deadline.elapsed_ms()}

    async def within(self, stage: str, call: Callable[[], Awaitable[T]]) -> T:
        """Ask one stage within its share of the budget; counts, times and translates whatever goes wrong.

        Raises: StageFailed: late, failed, or held back. Being cancelled from outside is neither, and passes through.
        """
        breaker = self.breakers.get(stage)
        if breaker is not None and not breaker.allow():
            self.observer.failed(self.release, stage, "open", None)
            raise StageFailed(stage, "open")
        started = time.perf_counter()
        left = self.deadline.left(stage)
        try:
            async with asyncio.timeout(max(left, _FLOOR_S) if stage == "rerank" else max(left, 0.0)):
                result = await call()
        except Exception as exc:
            reason = "late" if isinstance(exc, TimeoutError) else "failed"
            # a late ranker leaves rerank a rest in which the best is late: that must not open rerank's breaker, or the store's
            fair = not self.hasty and left >= _FAIR * self.deadline.budget_s
            # one value that cannot be read is not a store that is down
            if breaker is not None and not isinstance(exc, SchemaError) and (reason == "failed" or fair):
                breaker.failed()
            self.observer.failed(self.release, stage, reason, exc)
            self.timings[stage] = (time.perf_counter() - started) * 1e3
            raise StageFailed(stage, reason) from exc
        if breaker is not None:
            breaker.succeeded()
        self.timings[stage] = ms = (time.perf_counter() - started) * 1e3
        self.observer.stage(self.release, stage, ms)
        return result


@dataclass(slots=True)
class Outcome:
    """A slate, and what the path adds to its ``degraded``."""

    slate: Slate
    degraded: list[str]


async def run_stages(stages: Stages[Query, Found, Scored], request: Request, run: Run, *, ranker: bool = True) -> Outcome:
    """Answer one request within its deadline.

    Args:
        ranker: whether to ask it; else recall's order stands, which is no failure.
    Raises: StageFailed: recall or rerank gave nothing.
    """
    degraded: list[str] = []
    query = stages.prepare(request)
    found = await run.within("recall", lambda: stages.recall(query))
    if not ranker:
        scored = stages.recall_order(found)
    else:
        try:
            scored = await run.within("rank", lambda: stages.score(query, found))
        except StageFailed:
            degraded.append("ranker_unavailable")
            scored = stages.recall_order(found)
    slate = await run.within("rerank", lambda: stages.arrange(query, found, scored))
    if slate.ranker:
        run.observer.stage(run.release, f"rank.{slate.ranker}", run.timings["rank"])
    return Outcome(slate, degraded)
