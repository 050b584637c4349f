"""The two ways to run a release's stages behind one interface, `pipeline.Stages`."""

from collections.abc import Awaitable, Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from reco_ray.serve import wire
from reco_ray.serve.coalesce import Coalescer
from reco_ray.slate import Pipeline
from reco_ray.types import Candidates, Request, Slate

__all__ = ["InProcess", "Remote"]

Blocks = list[bytes]


class InProcess:
    """``topology=fused``: the stages in this process, one request at a time.

    A stage takes 1-3 ms of this core wherever it runs, and a thread would only add a hand-over; so it is called in line.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def prepare(self, request: Request) -> Request:
        return request

    async def recall(self, query: Request) -> Candidates:
        return self._pipeline.recall.recall([query])[0]

    async def score(self, query: Request, found: Candidates) -> NDArray[np.float32]:
        return self._pipeline.rank.score([query], [found])[0]

    async def arrange(self, query: Request, found: Candidates, scored: NDArray[np.float32]) -> Slate:
        return self._pipeline.rerank.arrange([query], [found], [scored])[0]

    def recall_order(self, found: Candidates) -> NDArray[np.float32]:
        return found.scores


class Remote:
    """``topology=staged``: the stages in deployments of their own, reached by one coalesced call each.

    Requests, candidates and scores are packed blocks that pass through this process unopened.

    Args:
        recall, score, arrange: send one batch of blocks and return a block for each.
        batches_in_flight, batch_rows: of each coalescer.
    """

    def __init__(
        self,
        recall: Callable[[Blocks], Awaitable[Blocks]],
        score: Callable[[Blocks, Blocks], Awaitable[Blocks]],
        arrange: Callable[[Blocks, Blocks, Blocks], Awaitable[Blocks]],
        *,
        batches_in_flight: int = 2,
        batch_rows: int = 16,
    ) -> None:
        async def call_score(rows: Sequence[tuple[bytes, bytes]]) -> Blocks:
            return await score([row[0] for row in rows], [row[1] for row in rows])

        async def call_arrange(rows: Sequence[tuple[bytes, bytes, bytes]]) -> Blocks:
            return await arrange([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])

        self._recall: Coalescer[bytes, bytes] = Coalescer(recall, max_in_flight=batches_in_flight, max_rows=batch_rows)
        self._score: Coalescer[tuple[bytes, bytes], bytes] = Coalescer(
            call_score, max_in_flight=batches_in_flight, max_rows=batch_rows
        )
        self._arrange: Coalescer[tuple[bytes, bytes, bytes], bytes] = Coalescer(
            call_arrange, max_in_flight=batches_in_flight, max_rows=batch_rows
        )

    def prepare(self, request: Request) -> bytes:
        return wire.pack_request(request)

    async def recall(self, query: bytes) -> bytes:
        return await self._recall(query)

    async def score(self, query: bytes, found: bytes) -> bytes:
        return await self._score((query, found))

    async def arrange(self, query: bytes, found: bytes, scored: bytes) -> Slate:
        return wire.unpack_slate(await self._arrange((query, found, scored)))

    def recall_order(self, found: bytes) -> bytes:
        return wire.recall_scores(found)
