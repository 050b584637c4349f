"""Features that lack the events of the last minutes are marked, counted and said; nothing is late that no stream keeps."""

import asyncio
import logging
from collections.abc import Sequence

import pytest

from reco_ray.events.bus import partition_of
from reco_ray.serve.path.freshness import Freshness

USERS = {partition_of(f"u{i}", 2): f"u{i}" for i in range(20)}  # one of each partition


class World:
    """What the streams have said, and a clock."""

    def __init__(self) -> None:
        self.until: Sequence[float | None] = (1000.0, 1000.0)
        self.now = 1000.0
        self.ages: list[float] = []
        self.away = False
        self.freshness = Freshness(self.read, lambda: {"v"}, self, clock=lambda: self.now)

    async def read(self, view: str) -> Sequence[float | None]:
        if self.away:
            raise OSError("away")
        return self.until

    def fresh(self, view: str, age_s: float) -> None:
        self.ages.append(age_s)

    def late(self) -> list[bool]:
        asyncio.run(self.freshness.refresh())
        return [self.freshness.late("v", USERS[partition]) for partition in (0, 1)]


def test_only_users_of_the_partition_that_is_behind_are_late_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world = World()
    assert world.late() == [False, False]
    world.now, world.until = 1100.0, (1099.0, 1000.0)
    assert world.late() == [False, True]
    assert world.late() == [False, True]
    assert world.ages == [0.0, 100.0, 100.0]
    world.until = (1099.0, 1098.0)
    assert world.late() == [False, False]
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "features of view v: found them 100 s behind, expected at most 60 s; look at `reco features status`",
        "features of view v are fresh again",
    ]


def test_a_view_without_streams_is_never_late_and_counts_no_age() -> None:
    world = World()
    world.until, world.now = (None, None), 1e9
    assert world.late() == [False, False]
    assert world.ages == []
    assert not world.freshness.late("another", "u1")


def test_while_the_store_is_away_the_last_word_stays() -> None:
    world = World()
    world.now = 2000.0
    assert world.late() == [True, True]
    world.away = True
    with pytest.raises(OSError, match="away"):
        asyncio.run(world.freshness.refresh())
    assert world.freshness.late("v", USERS[0])
