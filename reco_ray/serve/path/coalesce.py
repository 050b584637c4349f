"""Coalescing: concurrent calls of one stage of one release leave together as one batch.

A hop between deployments costs more than the work it carries (design section 14), and a stage works faster on many rows than on
one; so the gateway pays both once per batch. There is no waiting for company: while a slot is free, whatever has arrived by the
event loop's next turn leaves at once; while all slots are taken arrivals queue, and the queue leaves when a batch returns. Load
alone makes batches larger.
"""

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from reco_ray.errors import NotReadyError

__all__ = ["Coalescer"]

Result = TypeVar("Result")


class _Member(Generic[Result]):
    """One caller: what it sent, since when, the future it waits on, and the batch it left with."""

    __slots__ = ("batch", "future", "items", "since")

    def __init__(self, items: tuple[Any, ...], future: asyncio.Future[Result]) -> None:
        self.items, self.future = items, future
        self.since = time.monotonic()
        self.batch: _Batch[Result] | None = None


class _Batch(Generic[Result]):
    """Members that left together; ``waiting`` counts those that still want their result."""

    __slots__ = ("members", "task", "waiting")

    def __init__(self, members: list[_Member[Result]]) -> None:
        self.members, self.waiting = members, len(members)
        self.task: asyncio.Task[None] | None = None


class Coalescer(Generic[Result]):
    """Turn concurrent calls into batches of one stage of one release.

    Args:
        call: answers a batch: takes a list for each argument of the calls, returns one result per row in order.
        max_in_flight: batches out at a time; may be changed while running.
        max_rows: members per batch.
        left: told the rows of each batch that leaves and how long its oldest member queued, in seconds.
        tell: give ``call`` two arguments more at the end: the rows that still queue as the batch leaves, and how many
            milliseconds its oldest member queued.
    """

    def __init__(
        self,
        call: Callable[..., Awaitable[Sequence[Result]]],
        *,
        max_in_flight: int = 2,
        max_rows: int = 32,
        left: Callable[[int, float], None] | None = None,
        tell: bool = False,
    ) -> None:
        if max_in_flight < 1 or max_rows < 1:
            raise ValueError(f"found max_in_flight={max_in_flight}, max_rows={max_rows}, expected both to be at least 1")
        self.max_in_flight, self.max_rows = max_in_flight, max_rows
        self._call, self._left, self._tell = call, left, tell
        self._queue: deque[_Member[Result]] = deque()
        self._out: set[_Batch[Result]] = set()
        self._pump_due = False

    @property
    def queued(self) -> int:
        """Members that have not left yet, those included that were cancelled and not yet skipped."""
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        """Batches out."""
        return len(self._out)

    async def __call__(self, *items: Any) -> Result:
        """Send one row with the next batch and return its result.

        Cancelling this call takes the row out of the queue; a batch that all members have left is cancelled.

        Raises: what ``call`` raised for the batch; NotReadyError: the batch was cancelled, or its answer has the wrong length.
        """
        loop = asyncio.get_running_loop()
        member: _Member[Result] = _Member(items, loop.create_future())
        self._queue.append(member)
        self._schedule(loop)
        try:
            return await member.future
        except asyncio.CancelledError:
            if (batch := member.batch) is not None:
                batch.waiting -= 1
                if batch.waiting == 0 and batch.task is not None:
                    batch.task.cancel()
            raise

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        """Pump at the loop's next turn, so that requests read from the network in one turn leave together."""
        if not self._pump_due and len(self._out) < self.max_in_flight:
            self._pump_due = True
            loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_due = False
        while self._queue and len(self._out) < self.max_in_flight:
            members: list[_Member[Result]] = []
            while self._queue and len(members) < self.max_rows:
                member = self._queue.popleft()
                if not member.future.done():
                    members.append(member)
            if not members:
                return
            batch = _Batch(members)
            for member in members:
                member.batch = batch
            self._out.add(batch)
            queued_s = time.monotonic() - members[0].since
            if self._left is not None:
                self._left(len(members), queued_s)
            told = (len(self._queue), 1e3 * queued_s) if self._tell else ()
            # in a context of its own: Serve cancels what was called in the context of a request whose client has left
            batch.task = asyncio.get_running_loop().create_task(self._run(batch, told), context=contextvars.Context())
            # in a callback and not inside the task: a task cancelled before its first step never runs its own finally
            batch.task.add_done_callback(lambda _, done=batch: self._settle(done))  # type: ignore[misc]

    async def _run(self, batch: _Batch[Result], told: tuple[float, ...]) -> None:
        try:
            results = await self._call(*map(list, zip(*[member.items for member in batch.members], strict=True)), *told)
        except Exception as exc:
            for member in batch.members:
                if not member.future.done():
                    member.future.set_exception(exc)
            return
        if len(results) != len(batch.members):
            raise NotReadyError(
                f"found {len(results)} results for a batch of {len(batch.members)}; the stage broke its contract"
            )
        for member, result in zip(batch.members, results, strict=True):
            if not member.future.done():
                member.future.set_result(result)

    def _settle(self, batch: _Batch[Result]) -> None:
        """Free the slot, and fail whoever still waits: no member is ever left behind."""
        self._out.discard(batch)
        task = batch.task
        error = None if task is None or task.cancelled() else task.exception()
        for member in batch.members:
            if not member.future.done():
                member.future.set_exception(error or NotReadyError("the batch was cancelled; try again"))
        self._pump()
