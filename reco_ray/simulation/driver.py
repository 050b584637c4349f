"""Brings a world's users to an API: they come, are shown a slate, click, and their events go back."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reco_ray.simulation.ledger import Ledger, Visit
from reco_ray.simulation.world import World, WorldItem

__all__ = ["Api", "Shown", "drive"]

_EVENTS = 200  # of a call


@dataclass(frozen=True, slots=True)
class Shown:
    """An answer; without items where ``status`` is not 200."""

    status: int
    request_id: str = ""
    item_ids: tuple[str, ...] = ()
    release: str = ""
    variant: str = ""
    rung: str = ""
    ms: float = 0.0


class Api(Protocol):
    """What the driver asks for; `http.HttpApi` asks a gateway for it."""

    async def recommend(self, user_id: str, k: int, context: Mapping[str, str]) -> Shown:
        """Ask for a slate; never raises: what goes wrong is a status, 0 without an answer."""

    async def send(self, events: Sequence[Mapping[str, object]]) -> int:
        """Send events until they are accepted; returns how many were."""

    async def put_item(self, item: WorldItem) -> None:
        """Bring an item."""


@dataclass(slots=True)
class _Outbox:
    api: Api
    ledger: Ledger
    waiting: list[Mapping[str, object]] = field(default_factory=list)

    async def put(self, events: Sequence[Mapping[str, object]]) -> None:
        self.waiting += events
        if len(self.waiting) >= _EVENTS:
            await self.flush()

    async def flush(self) -> None:
        while self.waiting:
            batch, self.waiting = self.waiting[:_EVENTS], self.waiting[_EVENTS:]
            accepted = await self.api.send(batch)
            self.ledger.events += accepted
            self.ledger.refused += len(batch) - accepted


async def drive(
    world: World,
    api: Api,
    times_s: NDArray[np.float64],
    *,
    k: int = 10,
    at_once: int = 8,
    speed: float = 0.0,
    name: str = "sim",
    first_turn: int = 0,
    context: Mapping[str, str] | None = None,
    watch: Callable[[Visit], None] | None = None,
) -> Ledger:
    """Let a visit come at each time, and new items when it is theirs; returns what became of them all.

    Visits start in order, at most ``at_once`` of them at a time; with 1 a run can be repeated to the last click.

    Args:
        times_s: of the world's clock, ascending; see `arrivals`.
        speed: seconds of the world in one of ours; 0 is as fast as the API answers.
        name: of this run, a part of the events' ids: a run of the same name sends the same ids.
        first_turn: number of the first visit; a run that goes on counts on. Who comes depends on it and the world's seed.
        watch: called with each visit once it is over.
    """
    ledger = Ledger()
    outbox = _Outbox(api, ledger)
    free = asyncio.Semaphore(at_once)
    began = time.perf_counter()
    start_s = float(times_s[0]) if times_s.size else 0.0
    coming = [int(row) for row in np.argsort(world.item_born_s, kind="stable") if world.item_born_s[row] > start_s]

    async def visit(turn: int, at_s: float) -> None:
        try:
            luck = np.random.default_rng((world.config.seed, 0, turn))
            user = int(luck.choice(world.users_at(at_s)))
            shown = await api.recommend(world.user_ids[user], k, context or {})
            rows = world.find(shown.item_ids)
            truth = world.judge(user, rows, at_s)
            best = truth.best if rows.size else float(world.judge(user, np.full(k, -1), at_s).best)
            clicked = world.show(user, rows, at_s, turn)
            fresh = int((world.item_born_s[rows[rows >= 0]] > 0).sum())
            numbers = (rows.size, int(clicked.sum()), truth.expected, best, fresh, shown.ms)
            done = Visit(turn, at_s, user, shown.status, shown.release, shown.variant, shown.rung, *numbers)
            ledger.visits.append(done)
            if watch is not None:
                watch(done)
            await outbox.put(list(_events(world.user_ids[user], shown, clicked, f"{name}-{turn}")))
        finally:
            free.release()

    try:
        async with asyncio.TaskGroup() as tasks:
            for turn, at_s in enumerate(times_s.tolist(), first_turn):
                if speed and (left := began + (at_s - start_s) / speed - time.perf_counter()) > 0:
                    await asyncio.sleep(left)
                while coming and world.item_born_s[coming[0]] <= at_s:
                    await api.put_item(world.items[coming.pop(0)])
                    ledger.puts += 1
                await free.acquire()
                tasks.create_task(visit(turn, at_s))
    except ExceptionGroup as group:  # of calls that no retry helps; the first one says why
        raise group.exceptions[0] from group
    await outbox.flush()
    return ledger


def _events(user_id: str, shown: Shown, clicked: NDArray[np.bool_], name: str) -> list[Mapping[str, object]]:
    now_us = time.time_ns() // 1000
    found: list[Mapping[str, object]] = []
    for place, (item_id, click) in enumerate(zip(shown.item_ids, clicked.tolist(), strict=True), 1):
        for kind in ("impression", "click") if click else ("impression",):
            event = {"event_id": f"{name}-{place}-{kind}", "type": kind, "user_id": user_id, "item_id": item_id}
            found.append({**event, "ts": now_us, "request_id": shown.request_id, "position": place})
    return found
