"""Coalescing: no wait when idle, fewer calls than requests under load, and no caller left behind."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from reco_ray.errors import NotReadyError
from reco_ray.serve.path.coalesce import Coalescer


class Stage:
    """Answers a batch with each item doubled, once it is let go."""

    def __init__(self, *, open_: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.cancelled = 0
        self.go = asyncio.Event()
        if open_:
            self.go.set()

    async def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return [2 * item for item in items]


def run(check: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(check(), 5)

    asyncio.run(bounded())


async def turns(n: int = 5) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


def test_an_idle_coalescer_calls_at_once_and_alone() -> None:
    async def check() -> None:
        stage = Stage()
        call = asyncio.create_task(Coalescer(stage)(21))
        await turns()
        assert stage.batches == [[21]]
        stage.go.set()
        assert await call == 42

    run(check)


def test_requests_of_one_turn_leave_together() -> None:
    async def check() -> None:
        stage = Stage(open_=True)
        coalescer = Coalescer(stage)
        assert await asyncio.gather(*(coalescer(i) for i in range(5))) == [0, 2, 4, 6, 8]
        assert stage.batches == [[0, 1, 2, 3, 4]]

    run(check)


def test_arrivals_queue_while_all_slots_are_taken_and_leave_together_in_order() -> None:
    async def check() -> None:
        stage = Stage()
        coalescer = Coalescer(stage, max_in_flight=2, max_rows=16)
        calls = []
        for i in range(12):
            calls.append(asyncio.create_task(coalescer(i)))
            await turns()
        assert stage.batches == [[0], [1]]
        assert (coalescer.in_flight, coalescer.queued) == (2, 10)
        stage.go.set()
        assert await asyncio.gather(*calls) == [2 * i for i in range(12)]
        assert stage.batches == [[0], [1], list(range(2, 12))]
        assert (coalescer.in_flight, coalescer.queued) == (0, 0)

    run(check)


def test_a_batch_has_at_most_max_rows_and_no_more_are_out_than_allowed() -> None:
    async def check() -> None:
        stage = Stage()
        coalescer = Coalescer(stage, max_in_flight=2, max_rows=4)
        calls = [asyncio.create_task(coalescer(i)) for i in range(11)]
        await turns()
        assert [len(batch) for batch in stage.batches] == [4, 4]
        stage.go.set()
        assert await asyncio.gather(*calls) == [2 * i for i in range(11)]
        assert [len(batch) for batch in stage.batches] == [4, 4, 3]

    run(check)


def test_a_cancelled_caller_is_skipped() -> None:
    async def check() -> None:
        stage = Stage()
        coalescer = Coalescer(stage, max_in_flight=1)
        first = asyncio.create_task(coalescer(1))
        await turns()
        waiting = [asyncio.create_task(coalescer(i)) for i in (2, 3, 4)]
        await turns()
        waiting[1].cancel()
        await turns()
        stage.go.set()
        assert [await first, await waiting[0], await waiting[2]] == [2, 4, 8]
        assert stage.batches == [[1], [2, 4]]
        assert waiting[1].cancelled()

    run(check)


def test_a_batch_whose_callers_have_all_left_is_cancelled_and_frees_its_slot() -> None:
    async def check() -> None:
        stage = Stage()
        coalescer = Coalescer(stage, max_in_flight=1)
        gone = [asyncio.create_task(coalescer(i)) for i in (1, 2)]
        await turns()
        after = asyncio.create_task(coalescer(3))
        await turns()
        gone[0].cancel()
        await turns()
        assert stage.cancelled == 0
        gone[1].cancel()
        await turns()
        assert stage.cancelled == 1
        stage.go.set()
        assert await after == 6
        assert stage.batches == [[1, 2], [3]]

    run(check)


def test_an_error_reaches_every_caller_of_its_batch_and_no_other() -> None:
    async def check() -> None:
        calls = 0

        async def stage(items: list[int]) -> list[int]:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise RuntimeError("broken")
            return items

        coalescer = Coalescer(stage, max_in_flight=1, max_rows=2)
        found = await asyncio.gather(*(coalescer(i) for i in range(4)), return_exceptions=True)
        assert [str(each) for each in found] == ["broken", "broken", "2", "3"]

    run(check)


def test_an_answer_of_the_wrong_length_is_an_error_and_not_a_mixed_up_answer() -> None:
    async def check() -> None:
        async def stage(items: list[int]) -> list[int]:
            return items[:-1]

        coalescer = Coalescer(stage)
        with pytest.raises(NotReadyError, match="found 1 results for a batch of 2"):
            await asyncio.gather(coalescer(1), coalescer(2))

    run(check)


def test_many_callers_some_of_whom_leave_all_get_their_own_answer() -> None:
    async def check() -> None:
        async def stage(items: list[int]) -> list[int]:
            await turns(len(items) % 3 + 1)
            return [2 * item for item in items]

        coalescer = Coalescer(stage, max_in_flight=2, max_rows=3)
        calls = [asyncio.create_task(coalescer(i)) for i in range(200)]
        for i in range(0, 200, 7):
            await turns(1)
            calls[i].cancel()
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) or each == 2 * i for i, each in enumerate(found))
        assert sum(isinstance(each, asyncio.CancelledError) for each in found) <= 29
        assert (coalescer.in_flight, coalescer.queued) == (0, 0)

    run(check)


@pytest.mark.parametrize("sizes", [{"max_in_flight": 0}, {"max_rows": 0}])
def test_sizes_below_one_are_refused(sizes: dict[str, int]) -> None:
    async def stage(items: list[int]) -> list[int]:
        return items

    with pytest.raises(ValueError, match="expected both to be at least 1"):
        Coalescer(stage, **sizes)


def test_a_batch_is_told_of_the_queue_behind_it_when_asked_for() -> None:
    async def check() -> None:
        told: list[tuple[int, float]] = []

        async def stage(items: list[int], queued: int, waited_ms: float) -> list[int]:
            told.append((queued, waited_ms))
            await asyncio.sleep(0.02)
            return items

        coalescer = Coalescer(stage, max_in_flight=1, max_rows=2, tell=True)
        assert await asyncio.gather(*(coalescer(i) for i in range(5))) == [0, 1, 2, 3, 4]
        assert [queued for queued, _ in told] == [3, 1, 0]
        assert told[0][1] < 15 < told[1][1] < told[2][1]

    run(check)
