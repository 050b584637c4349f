"""Mirrored requests: behind the answers, bounded, compared, and without a trace elsewhere."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from reco_ray.serve.path.fleet import Fleet
from reco_ray.serve.path.mirror import Mirror
from reco_ray.serve.path.pipeline import LoggingObserver
from reco_ray.store import Shadow, Traffic
from reco_ray.store.online import read_traffic, write_traffic
from reco_ray.types import Request, Slate, UserRow

SHADOW = Shadow("new", 1.0, "r1")
VIEWS = {"old": "v1", "new": "v1"}


def slate(*item_ids: str) -> Slate:
    ones = np.ones(len(item_ids), np.float32)
    return Slate("r", item_ids, ("",) * len(item_ids), ones, ones, ((),) * len(item_ids))


class Stages:
    """A release whose answers wait for ``gate``, or fail."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.asked: list[Request] = []
        self.scored = 0
        self.breaks = False

    def prepare(self, request: Request) -> Request:
        self.asked.append(request)
        return request

    async def recall(self, query: Request) -> Request:
        await self.gate.wait()
        if self.breaks:
            raise RuntimeError("broken")
        return query

    async def score(self, query: Request, found: Request) -> Request:
        self.scored += 1
        return found

    async def arrange(self, query: Request, found: Request, scored: Request) -> Slate:
        return slate("a", "c")

    def recall_order(self, found: Request) -> Request:
        return found


class World:
    """Two releases, one of them in the shadow, and where the counts go."""

    def __init__(self, shadow: Shadow | None = SHADOW, views: dict[str, str] = VIEWS) -> None:
        self.stages, self.saved, self.away, self.told = Stages(), Counter[str](), False, Counter[tuple[str, str]]()
        self.record = Traffic(1, {"old": 1.0, "new": 0.0}, views, shadow)
        self.fleet = Fleet(self.poll, self.connect)
        self.row = UserRow(np.ones(3, np.uint64), np.ones(3, np.float32), np.ones(1, np.uint64), np.ones(2, np.float32), 1)
        self.mirror = Mirror(self.fleet, self.read, self.save, LoggingObserver(), self, 5.0)

    async def poll(self) -> Traffic:
        return self.record

    async def connect(self, release: str) -> tuple[Stages, None]:
        return self.stages, None

    async def read(self, user_id: str, view: str) -> UserRow:
        assert view == "v2"
        return self.row

    async def save(self, name: str, counts: Counter[str]) -> None:
        if self.away:
            raise OSError("away")
        assert name == "r1"
        self.saved.update(counts)

    def mirrored(self, release: str, result: str) -> None:
        self.told[release, result] += 1

    def offer(self, n: int, view: str = "v1", *, ranked: bool = True) -> None:
        for i in range(n):
            request = Request(request_id=f"q{i}", user_id="u", k=2, surface="home")
            self.mirror.offer(request, view, slate("a", "b"), ranked)


def run(world: Callable[[], World], check: Callable[[World], Awaitable[None]]) -> None:
    async def inner() -> None:
        made = world()
        await made.fleet.load_now(1)
        task = asyncio.create_task(made.mirror.run())
        try:
            await check(made)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(inner())


async def counted(world: World, n: int) -> None:
    for _ in range(10_000):
        await world.mirror.flush()
        if world.saved["made"] >= n:
            return
        await asyncio.sleep(0)
    raise AssertionError(world.saved)


def test_what_finds_no_place_is_dropped_and_counted_and_nobody_waits() -> None:
    async def check(world: World) -> None:
        world.offer(50)  # nothing of it awaits, and the release hangs
        await world.mirror.flush()
        assert (world.saved["dropped"], world.stages.asked) == (18, [])
        world.stages.gate.set()
        await counted(world, 32)
        assert (world.saved["made"], world.saved["errors"], world.saved["requests|all"]) == (32, 0, 32)
        assert world.saved["overlap|home, no history"] == 16
        assert world.told == {("new", "dropped"): 18, ("new", "made"): 32}

    run(World, check)


def test_a_few_are_asked_at_a_time() -> None:
    async def check(world: World) -> None:
        world.offer(20)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(world.stages.asked) == 4

    run(World, check)


def test_where_the_answer_had_no_ranker_the_copy_has_none() -> None:
    async def check(world: World) -> None:
        world.stages.gate.set()
        world.offer(3, ranked=False)
        await counted(world, 3)
        assert (world.stages.scored, world.saved["errors"]) == (0, 0)

    run(World, check)


def test_one_that_fails_is_an_error_of_the_release_and_opens_no_breaker() -> None:
    async def check(world: World) -> None:
        world.stages.breaks = True
        world.stages.gate.set()
        world.offer(30)
        await counted(world, 30)
        assert (world.saved["errors"], world.saved["failed|all"], world.told["new", "failed"]) == (30, 30, 30)
        route = world.fleet.loaded_route("new")
        assert route is not None
        assert route.breakers["recall"].allow()

    run(World, check)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_only_the_share_of_the_requests_is_mirrored(share: float) -> None:
    async def check(world: World) -> None:
        world.stages.gate.set()
        for start in range(20):
            for i in range(20):
                world.mirror.offer(Request(request_id=f"q{start}-{i}", k=2), "v1", slate("a"), True)
                world.mirror.offer(Request(request_id=f"s{start}-{i}", k=2, similar_to="x"), "v1", slate("a"), True)
            for _ in range(100):
                await asyncio.sleep(0)
        assert len(world.stages.asked) == pytest.approx(400 * share, abs=40 if share else 0)

    run(lambda: World(Shadow("new", share, "r1") if share else None), check)


def test_a_release_of_another_view_gets_the_users_row_of_its_own() -> None:
    async def check(world: World) -> None:
        world.stages.gate.set()
        world.offer(1)
        await counted(world, 1)
        assert world.stages.asked[0].user is world.row
        assert world.saved["requests|home, history"] == 1

    run(lambda: World(views={"old": "v1", "new": "v2"}), check)


def test_counts_wait_while_the_store_is_away() -> None:
    async def check(world: World) -> None:
        world.away = True
        world.stages.gate.set()
        world.offer(3)
        for _ in range(100):
            await asyncio.sleep(0)
        await world.mirror.flush()
        assert not world.saved
        world.away = False
        await counted(world, 3)

    run(World, check)


def test_the_record_names_the_shadow_and_one_without_reads_as_before() -> None:
    with_shadow = Traffic(3, {"old": 1.0, "new": 0.0}, VIEWS, SHADOW)
    assert read_traffic(write_traffic(with_shadow).encode()) == with_shadow
    without = Traffic(3, {"old": 1.0, "new": 0.0}, VIEWS)
    assert "shadow" not in write_traffic(without)
    assert read_traffic(write_traffic(without).encode()) == without
