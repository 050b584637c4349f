"""The two ways to run a release's stages behind one interface, `pipeline.Stages`: in deployments, or in this process.

Both coalesce concurrent requests into batches per stage, and in both a stage runs off the event loop, so that a slow or hanging
one leaves the loop, the deadline and the other stages alone.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from reco_ray.errors import NotReadyError
from reco_ray.serve.path import wire
from reco_ray.serve.path.coalesce import Coalescer
from reco_ray.slate import Pipeline, ranker_of
from reco_ray.types import Candidates, Request, Slate

__all__ = ["Blocks", "InProcess", "Left", "Remote"]

Blocks = list[bytes]
T = TypeVar("T")
_HANGS_S = 10.0
Scored = tuple[NDArray[np.float32], str]
"""Scores and the name of the model that they are of."""
Left = Callable[[str, int, float], None]
"""Told the stage, the rows of a batch that leaves for it, and how long its oldest member queued, in seconds."""


class Remote:
    """``topology=staged``: the stages in deployments of their own, reached by one coalesced call each.

    Requests, candidates and scores are packed blocks that pass through this process unopened.

    Args:
        recall, score, arrange: send one batch of blocks and return a block for each; told as well how many rows still queue
            here behind the batch and how many milliseconds its oldest row queued, which the stage scales on.
        rows: members per batch.
    """

    def __init__(
        self,
        recall: Callable[[Blocks, int, float], Awaitable[Blocks]],
        score: Callable[[Blocks, Blocks, int, float], Awaitable[Blocks]],
        arrange: Callable[[Blocks, Blocks, Blocks, int, float], Awaitable[Blocks]],
        *,
        rows: int = 32,
        left: Left | None = None,
    ) -> None:
        self._recall: Coalescer[bytes] = _coalescer("recall", recall, rows, left, tell=True)
        self._score: Coalescer[bytes] = _coalescer("rank", score, rows, left, tell=True)
        self._arrange: Coalescer[bytes] = _coalescer("rerank", arrange, rows, left, tell=True)

    def allow_in_flight(self, recall: int, rank: int, rerank: int) -> None:
        """Set how many batches may be out per stage."""
        self._recall.max_in_flight, self._score.max_in_flight, self._arrange.max_in_flight = recall, rank, rerank

    def prepare(self, request: Request) -> bytes:
        return wire.pack_request(request)

    async def recall(self, query: bytes) -> bytes:
        return await self._recall(query)

    async def score(self, query: bytes, found: bytes) -> bytes:
        return await self._score(query, found)

    async def arrange(self, query: bytes, found: bytes, scored: bytes) -> Slate:
        return replace(wire.unpack_slate(await self._arrange(query, found, scored)), ranker=wire.ranked_by(scored))

    def recall_order(self, found: bytes) -> bytes:
        return wire.recall_scores(found)

    def check_health(self) -> None:
        """The deployments check themselves."""

    def close(self) -> None:
        """Nothing is held here."""


class InProcess:
    """``topology=fused``: the stages in this process, each in a thread of its own.

    Args:
        rows: members per batch.
        closed: called by `close`.
    """

    def __init__(
        self, pipeline: Pipeline, *, rows: int = 32, left: Left | None = None, closed: Callable[[], None] = lambda: None
    ) -> None:
        self._closed, self._rank = closed, pipeline.rank
        self._threads = {stage: _Thread(stage) for stage in ("recall", "rank", "rerank")}
        calls: dict[str, Callable[..., Any]] = {
            "recall": pipeline.recall.recall,
            "rank": pipeline.rank.score,
            "rerank": pipeline.rerank.arrange,
        }
        recall, rank, rerank = (
            _coalescer(stage, self._threads[stage].running(call), rows, left) for stage, call in calls.items()
        )
        self._recall: Coalescer[Candidates] = recall
        self._score: Coalescer[NDArray[np.float32]] = rank
        self._arrange: Coalescer[Slate] = rerank

    def prepare(self, request: Request) -> Request:
        return request

    async def recall(self, query: Request) -> Candidates:
        return await self._recall(query)

    async def score(self, query: Request, found: Candidates) -> Scored:
        return await self._score(query, found), ranker_of(self._rank, query)

    async def arrange(self, query: Request, found: Candidates, scored: Scored) -> Slate:
        scores, ranker = scored
        return replace(await self._arrange(query, found, scores), ranker=ranker)

    def recall_order(self, found: Candidates) -> Scored:
        return found.scores, ""

    def check_health(self) -> None:
        """Raise when a stage hangs."""
        for stage, thread in self._threads.items():
            if (busy := thread.busy_s()) > _HANGS_S:
                raise NotReadyError(
                    f"{stage}: found one batch at work for {busy:.0f} s, expected milliseconds; replace the replica"
                )

    def close(self) -> None:
        """Let the threads end once their work is done; one that hangs is left behind."""
        self._closed()
        for thread in self._threads.values():
            thread.pool.shutdown(wait=False)


class _Thread:
    """A thread for one stage, which knows since when it is at work."""

    def __init__(self, stage: str) -> None:
        self.pool = ThreadPoolExecutor(1, thread_name_prefix=stage)
        self._since: float | None = None

    def busy_s(self) -> float:
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def running(self, call: Callable[..., T]) -> Callable[..., Awaitable[T]]:
        def timed(*columns: Any) -> T:
            self._since = time.monotonic()
            try:
                return call(*columns)
            finally:
                self._since = None

        async def run(*columns: Any) -> T:
            return await asyncio.get_running_loop().run_in_executor(self.pool, timed, *columns)

        return run


def _coalescer(
    stage: str, call: Callable[..., Awaitable[Any]], rows: int, left: Left | None, *, tell: bool = False
) -> Coalescer[Any]:
    told = None if left is None else lambda n, queued_s: left(stage, n, queued_s)
    return Coalescer(call, max_in_flight=1, max_rows=rows, left=told, tell=tell)
