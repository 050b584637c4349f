"""Which release answers whom, and how a gateway follows the traffic record."""

import asyncio
import logging
from collections import Counter

import pytest

from reco_ray.errors import NotReadyError
from reco_ray.hashing import hash64
from reco_ray.serve.path.fleet import Fleet, choose
from reco_ray.store import Traffic


def traffic(version: int, **weights: float) -> Traffic:
    return Traffic(version, weights, dict.fromkeys(weights, "v1"))


def test_shares_come_near_the_weights_and_a_user_stays() -> None:
    record = traffic(1, a=0.8, b=0.2)
    found = {f"user-{i}": choose(record, f"user-{i}") for i in range(5000)}
    assert Counter(found.values())["b"] == pytest.approx(1000, abs=100)
    assert all(choose(record, user) == release for user, release in found.items())


def test_a_growing_canary_moves_users_one_way_only() -> None:
    before, after = traffic(1, a=0.9, b=0.1), traffic(2, a=0.7, b=0.3)
    moves = Counter((choose(before, f"u{i}"), choose(after, f"u{i}")) for i in range(2000))
    assert set(moves) == {("a", "a"), ("a", "b"), ("b", "b")}


def test_a_release_without_traffic_gets_no_user() -> None:
    assert {choose(traffic(1, a=0.0, b=1.0), f"u{i}") for i in range(100)} == {"b"}


class World:
    """A record that changes, and releases that load, fail or hang."""

    def __init__(self) -> None:
        self.record = traffic(1, old=1.0)
        self.away = False
        self.loads: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.broken: set[str] = set()
        self.now = 0.0
        self.fleet = Fleet(self.poll, self.connect, clock=lambda: self.now)

    async def poll(self) -> Traffic:
        if self.away:
            raise OSError("away")
        return self.record

    async def connect(self, release: str) -> tuple[object, None]:
        self.loads.append(release)
        if release in self.broken:
            raise RuntimeError("broken")
        if release in self.gates:
            await self.gates[release].wait()
        return object(), None


def test_a_new_release_answers_only_once_it_is_loaded_and_the_old_one_until_then() -> None:
    async def check() -> None:
        world = World()
        await world.fleet.load_now(1)
        world.gates["new"] = asyncio.Event()
        world.record = traffic(2, new=1.0)
        await world.fleet.refresh()
        await asyncio.sleep(0)
        assert (world.fleet.route("u").release, world.fleet.loaded, world.fleet.missing()) == ("old", ["old"], ["new"])
        world.gates["new"].set()
        await world.fleet.load_now(1)
        assert (world.fleet.route("u").release, world.fleet.loaded, world.fleet.main) == ("new", ["new"], "new")
        assert world.loads == ["old", "new"]

    asyncio.run(check())


def test_a_hanging_release_does_not_hold_up_a_way_back() -> None:
    async def check() -> None:
        world = World()
        await world.fleet.load_now(1)
        world.gates["new"] = asyncio.Event()
        world.record = traffic(2, new=1.0, old=0.0)
        await world.fleet.refresh()
        world.record = traffic(3, new=0.0, old=1.0)
        await world.fleet.refresh()
        assert (world.fleet.traffic.version, world.fleet.route("u").release) == (3, "old")
        world.gates["new"].set()
        await world.fleet.load_now(1)

    asyncio.run(check())


def test_a_release_kept_without_traffic_is_loaded_and_ready_to_go_back_to() -> None:
    async def check() -> None:
        world = World()
        world.record = traffic(1, new=1.0, old=0.0)
        await world.fleet.load_now(1)
        assert (world.fleet.loaded, world.fleet.route("u").release) == (["new", "old"], "new")

    asyncio.run(check())


def test_while_the_store_is_away_the_last_record_stays(caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        world = World()
        await world.fleet.load_now(1)
        world.away = True
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                await world.fleet.refresh()
        assert (world.fleet.route("u").release, world.fleet.store_answers) == ("old", False)
        assert len(caplog.records) == 1

    asyncio.run(check())


def test_a_release_that_cannot_be_loaded_is_tried_again_later() -> None:
    async def check() -> None:
        world = World()
        world.broken = {"old"}
        await world.fleet.load_now(1)
        await world.fleet.load_now(1)
        assert world.loads == ["old"], "not before its pause is over"
        with pytest.raises(NotReadyError, match="release old is being loaded"):
            world.fleet.route("u")
        world.broken = set()
        world.now = 0.5
        await world.fleet.load_now(1)
        assert world.fleet.loaded == ["old"]

    asyncio.run(check())


def test_without_a_record_nothing_answers_and_the_error_says_what_to_do() -> None:
    async def check() -> None:
        world = World()
        world.record = Traffic()
        await world.fleet.load_now(1)
        with pytest.raises(NotReadyError, match="deploy one"):
            world.fleet.route("u")

    asyncio.run(check())


def test_the_next_rollout_begins_with_other_users_and_one_keeps_its_own() -> None:
    users = [f"u{i}" for i in range(5000)]

    def first(salt: str, share: float) -> set[str]:
        record = Traffic(1, {"a": 1 - share, "b": share}, {"a": "v1", "b": "v1"}, salt=salt)
        return {user for user in users if choose(record, user) == "b"}

    few, more, other = first("traffic 1", 0.05), first("traffic 1", 0.25), first("traffic 2", 0.05)
    assert few < more
    assert 200 < len(other) < 300
    assert 2 < len(few & other) < 30, "about 5% of 5%: no more than by chance"


def test_what_a_rollout_counts_users_by_does_not_tell_which_release_they_have() -> None:
    record = Traffic(1, {"a": 0.5, "b": 0.5}, {"a": "v1", "b": "v1"}, salt="traffic id")
    shares = Counter((hash64(f"u{i}", "id") % 2, choose(record, f"u{i}")) for i in range(4000))
    assert all(900 < n < 1100 for n in shares.values())
