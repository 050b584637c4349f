"""The simulated world: its truth is what happens in it, and the driver loses nothing on the way."""

import asyncio
import json
import time
from collections import Counter
from typing import Any

import httpx
import numpy as np
import pytest

from reco_ray.errors import ConfigError
from reco_ray.events.contract import Refused, admit
from reco_ray.simulation import HttpApi, Ledger, Pattern, World, WorldConfig, WorldItem, arrival_times, drive

SMALL = WorldConfig(users=20, items=60, seed=3)


class Gateway:
    """A gateway that shows the same items to all, and takes a while to be there for events.

    Attributes:
        events: ids and how often each came. items: put, in order. asked: user_ids in order.
    """

    def __init__(self, item_ids: list[str], *, away: int = 0, fails: int = 0) -> None:
        self._item_ids, self._away, self._fails = item_ids, away, fails
        self.events: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.items: list[str] = []
        self.asked: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        if request.method == "PUT":
            self.items.append(request.url.path.rpartition("/")[2])
            return httpx.Response(200, json={})
        if request.url.path == "/v1/events":
            if self._away > 0:
                self._away -= 1
                return httpx.Response(503, headers={"retry-after": "0"})
            self.events.update(event["event_id"] for event in body["events"])
            self.bodies += body["events"]
            return httpx.Response(200, json={"results": [{"status": "accepted"} for _ in body["events"]]})
        self.asked.append(body["user_id"])
        if self._fails > 0:
            self._fails -= 1
            return httpx.Response(500)
        items = [{"item_id": item_id} for item_id in [*self.items[::-1], *self._item_ids][: body["k"]]]
        answer = {"request_id": f"r{len(self.asked)}", "release": "a", "variant": "main", "rung": "full", "items": items}
        return httpx.Response(200, json=answer)

    def drive(self, world: World, visits: int, **options: Any) -> Ledger:
        async def run() -> Ledger:
            async with HttpApi("http://gateway", pause_s=0.0, transport=httpx.MockTransport(self)) as api:
                return await drive(world, api, np.linspace(0, world.config.horizon_s, visits), k=5, **options)

        return asyncio.run(run())


def ids(world: World) -> list[str]:
    return [item.item_id for item in world.items]


def test_the_best_slate_has_no_regret_and_others_have_some() -> None:
    world = World(SMALL)
    best = np.argsort(-world.attraction(4, world.items_at(0), 0.0))
    assert world.judge(4, best[:10], 0.0).regret == pytest.approx(0)
    assert world.judge(4, best[:10][::-1], 0.0).regret > 0
    assert world.judge(4, best[-10:], 0.0).regret > world.judge(4, best[10:20], 0.0).regret > 0


def test_clicks_come_as_often_as_the_truth_says() -> None:
    world = World(SMALL)
    rows, turns = np.arange(10), 4_000
    clicks = np.mean([world.show(1, rows, 0.0, turn) for turn in range(turns)], axis=0)
    expected = world.examined(10) * world.attraction(1, rows, 0.0)
    assert world.judge(1, rows, 0.0).expected == pytest.approx(expected.sum())
    np.testing.assert_array_less(np.abs(clicks - expected), 4.5 * np.sqrt(expected * (1 - expected) / turns))
    np.testing.assert_array_equal(world.show(1, rows, 0.0, 9), World(SMALL).show(1, rows, 0.0, 9))


def test_tastes_turn_and_come_to_a_right_angle() -> None:
    world = World(WorldConfig(users=5, items=5, drift_days=10))
    now, later, right = (world.taste(2, day * 86_400) for day in (0.0, 5.0, 10.0))
    assert [now @ now, now @ later, now @ right] == pytest.approx([1, np.sqrt(0.5), 0])
    still = World(WorldConfig(users=5, items=5))
    np.testing.assert_array_equal(still.taste(2, 0), still.taste(2, 9e9))


def test_a_user_tires_of_what_was_shown_and_recovers() -> None:
    world = World(WorldConfig(users=3, items=8, fatigue=1.0, fatigue_hours=1.0))
    rows = np.array([0, 1])
    fresh = world.attraction(0, rows, 0.0)
    world.show(0, rows[:1], 0.0, 0)
    tired, rested = world.attraction(0, rows, 0.0), world.attraction(0, rows, 40 * 3600)
    assert tired[0] / (1 - tired[0]) == pytest.approx(fresh[0] / (1 - fresh[0]) / np.e)
    assert tired[1] == fresh[1]
    assert rested[0] == pytest.approx(fresh[0])
    np.testing.assert_array_equal(world.attraction(1, rows, 0.0), World(world.config).attraction(1, rows, 0.0))


def test_nobody_clicks_what_is_not_there_or_not_known() -> None:
    world = World(WorldConfig(items=4, new_items=3, horizon_s=100))
    assert world.items_at(0).tolist() == [0, 1, 2, 3]
    assert world.items_at(60).size == 6
    assert world.attraction(0, np.array([5, 6]), 60).tolist()[1] == 0 < world.attraction(0, np.array([5]), 60)[0]
    assert world.find(["item-2", "strange"]).tolist() == [2, -1]
    assert world.attraction(0, world.find(["strange"]), 0).tolist() == [0]


def test_own_items_are_liked_by_their_categories() -> None:
    items = [WorldItem(f"x{i}", "t", ("even" if i % 2 == 0 else "odd",)) for i in range(400)]
    world = World(WorldConfig(users=50, items=400, quality=0), items)
    each = np.array([world.attraction(u, np.arange(400), 0.0) for u in range(50)])
    apart = np.abs(each[:, ::2].mean(axis=1) - each[:, 1::2].mean(axis=1))
    assert ids(world)[:2] == ["x0", "x1"]
    assert np.median(apart) > 0.05


def test_the_past_is_before_time_0_and_only_of_what_was_there() -> None:
    world = World(WorldConfig(users=10, items=30, new_items=5, new_users=5))
    past = world.past(50, k=4)
    assert len(past) == 200
    assert all(at < 0 for _, _, at, _ in past)
    assert [at for _, _, at, _ in past] == sorted(at for _, _, at, _ in past)
    assert {item for _, item, _, _ in past} <= set(ids(world)[:30])
    assert {user for user, _, _, _ in past} <= {f"user-{u}" for u in range(10)}


@pytest.mark.parametrize("pattern", list(Pattern))
def test_arrivals_come_at_the_rate_that_was_asked_for(pattern: Pattern) -> None:
    times = arrival_times(pattern, 0.1, 4 * 86_400, seed=1)
    expected = 0.1 * 4 * 86_400
    assert abs(times.size - expected) < 5 * np.sqrt(expected)
    assert np.all(np.diff(times) >= 0)
    np.testing.assert_array_equal(times, arrival_times(pattern, 0.1, 4 * 86_400, seed=1))


def test_patterns_differ_in_when_they_come() -> None:
    hours = arrival_times(Pattern.daily, 0.2, 10 * 86_400, 1) % 86_400 // 3600
    assert (hours == 20).sum() > 5 * (hours == 8).sum()
    middle = np.abs(arrival_times(Pattern.burst, 1, 10_000, 1) / 10_000 - 0.5) < 0.05
    assert 0.3 < middle.mean() < 0.42
    assert arrival_times(Pattern.sporadic, 0.5, 86_400, 1).max() % 7200 < 900


def test_every_event_goes_back_once_though_the_gateway_is_away_for_a_while() -> None:
    world = World(SMALL)
    gateway = Gateway(ids(world), away=3)
    ledger = gateway.drive(world, 120)
    totals = ledger.totals()
    assert set(gateway.events.values()) == {1}
    assert ledger.events == len(gateway.events) == 120 * 5 + totals.clicks
    assert totals.clicks > 0
    assert {event["position"] for event in gateway.bodies} == {1, 2, 3, 4, 5}
    assert all(event["request_id"].startswith("r") for event in gateway.bodies)
    assert not [each for each in admit(gateway.bodies, time.time_ns() // 1000) if isinstance(each, Refused)]


def test_a_run_can_be_repeated_to_the_last_click() -> None:
    runs = [Gateway(ids(World(SMALL))).drive(World(SMALL), 40, at_once=1) for _ in range(2)]
    assert [v[:-1] for v in runs[0].visits] == [v[:-1] for v in runs[1].visits]
    assert [v.turn for v in runs[0].visits] == list(range(40))


def test_what_fails_is_a_visit_that_missed_everything() -> None:
    world = World(SMALL)
    ledger = Gateway(ids(world), fails=10).drive(world, 50)
    by = ledger.totals_by("status")
    assert (by["500"].visits, by["200"].visits) == (10, 40)
    assert by["500"].reward == 0 < by["500"].regret
    assert by["200"].clicks == ledger.totals().clicks


def test_items_are_put_when_they_are_born_and_shown_from_then_on() -> None:
    world = World(WorldConfig(users=20, items=30, new_items=4, horizon_s=1000))
    gateway = Gateway(ids(world)[:30])
    ledger = gateway.drive(world, 100, at_once=1)
    assert gateway.items == ids(world)[30:]
    assert ledger.puts == 4
    fresh = ledger.by_turn("fresh")
    assert fresh[0] == 0
    assert fresh[-1] == 4
    assert np.all(np.diff(fresh) >= 0)


def test_what_no_retry_can_change_is_said() -> None:
    world = World(SMALL)
    gateway = Gateway(ids(world))

    async def run() -> None:
        refuse = httpx.MockTransport(lambda r: gateway(r) if "events" not in r.url.path else httpx.Response(403, text="scope"))
        async with HttpApi("http://gateway", pause_s=0.0, transport=refuse) as api:
            await drive(world, api, np.zeros(1), k=5)

    with pytest.raises(ConfigError, match="POST /v1/events: found 403: scope, expected 2xx"):
        asyncio.run(run())
