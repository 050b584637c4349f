"""Copies of requests for a release in the shadow: asked behind the answers, compared with what was served, and forgotten.

A request only leaves a copy: nobody waits for it, and what finds no place is counted and dropped. Nothing of it is recorded as
a decision. Without a shadow in the traffic record a request costs one look at it.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from reco_ray.hashing import unit_interval
from reco_ray.rollout.mirrored import compare, dropped, failed
from reco_ray.serve.path.fleet import Fleet
from reco_ray.serve.path.pipeline import Deadline, Observer, Run, StageFailed, run_stages
from reco_ray.store import Shadow
from reco_ray.types import Request, Slate, UserRow

__all__ = ["Mirror", "MirrorMetrics"]

log = logging.getLogger(__name__)

_AT_ONCE = 4
_WAITING = 32
_SEGMENTS = 50
_FLUSH_S = 1.0
_STAGES = ("recall", "rank", "rerank")


class MirrorMetrics(Protocol):
    """What is counted of copies; `monitoring.metrics.serving.GatewayMetrics` in production."""

    def mirrored(self, release: str, result: str) -> None:
        """A copy was ``made``, has ``failed``, or was ``dropped``."""


class _Copy(NamedTuple):
    shadow: Shadow
    request: Request
    view: str
    served: Slate
    ranked: bool


class Mirror:
    """The copies of one gateway replica.

    Args:
        read: a user's row of another view than that of the release that answered.
        save: adds counts to those of a name; what it raises leaves them for the next time.
        budget_s: of a copy.
    """

    def __init__(
        self,
        fleet: Fleet,
        read: Callable[[str, str], Awaitable[UserRow]],
        save: Callable[[str, Counter[str]], Awaitable[None]],
        observer: Observer,
        metrics: MirrorMetrics,
        budget_s: float,
    ) -> None:
        self._fleet, self._read, self._save, self._observer, self._budget_s = fleet, read, save, observer, budget_s
        self._metrics = metrics
        self._waiting: deque[_Copy] = deque()
        self._there = asyncio.Event()
        self._counts: dict[str, Counter[str]] = {}
        self._segments: set[str] = set()

    def offer(self, request: Request, view: str, served: Slate, ranked: bool) -> None:
        """Take a copy of a request, if it is one of the share and there is room.

        Args:
            view: of the request's user row. served: by the release that answers.
            ranked: whether a ranker is to have a part; else the copy keeps recall's order, as the answer did.
        """
        shadow = self._fleet.traffic.shadow
        if shadow is None or request.similar_to or unit_interval(request.request_id, "shadow") >= shadow.share:
            return
        if len(self._waiting) >= _WAITING:
            self._drop(shadow)
            return
        self._waiting.append(_Copy(shadow, request, view, served, ranked))
        self._there.set()

    async def run(self) -> None:
        """Ask until cancelled, a few at a time; no error ends it."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_AT_ONCE):
                tasks.create_task(self._work())
            tasks.create_task(self._tell())

    async def flush(self) -> None:
        """Save what was counted."""
        for name in list(self._counts):
            counts = self._counts.pop(name)
            try:
                await self._save(name, counts)
            except Exception as exc:
                self._of_name(name).update(counts)
                log.info("the counts of mirrored requests wait: %s", type(exc).__name__)

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_S)
            await self.flush()

    async def _work(self) -> None:
        while True:
            while not self._waiting:
                self._there.clear()
                await self._there.wait()
            copy = self._waiting.popleft()
            try:
                await self._ask(*copy)
            except Exception as exc:  # the user's row cannot be read, or a stage broke its contract
                self._drop(copy.shadow)
                log.info("a mirrored request was dropped: %s", type(exc).__name__)

    async def _ask(self, shadow: Shadow, request: Request, view: str, served: Slate, ranked: bool) -> None:
        route = self._fleet.loaded_route(shadow.release)
        if route is None or self._fleet.traffic.shadow != shadow:
            return  # not loaded here yet, or over
        if request.user_id and route.user_view != view:
            request = replace(request, user=await self._read(request.user_id, route.user_view))
        segment = self._segment(request)
        # no breakers: they are for those who answer people, and a copy must not open them
        run = Run(route.release, Deadline(self._budget_s), self._observer)
        stages: Any = route.stages
        try:
            outcome = await run_stages(stages, request, run, ranker=ranked)
        except StageFailed:
            failed(self._of(shadow), segment)
            self._metrics.mirrored(shadow.release, "failed")
            return
        ms = sum(run.timings.get(stage, 0.0) for stage in _STAGES)
        compare(self._of(shadow), segment, served, outcome.slate, ms, bool(outcome.degraded))
        self._metrics.mirrored(shadow.release, "made")

    def _drop(self, shadow: Shadow) -> None:
        dropped(self._of(shadow))
        self._metrics.mirrored(shadow.release, "dropped")

    def _segment(self, request: Request) -> str:
        """Where it was asked, and whether for somebody with a history; bounded in number."""
        name = f"{request.surface or 'none'}, {'history' if request.user.history.size else 'no history'}"
        if name not in self._segments and len(self._segments) >= _SEGMENTS:
            return "others"
        self._segments.add(name)
        return name

    def _of(self, shadow: Shadow) -> Counter[str]:
        return self._of_name(shadow.name)

    def _of_name(self, name: str) -> Counter[str]:
        return self._counts.setdefault(name, Counter())
