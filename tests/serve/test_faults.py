"""Processes die under load: every caller is answered, an answer that is less than full says so, and full ones come back."""

import os
import signal
from collections.abc import Callable, Iterator

import pytest
from serve_world import Load, World

CLIENTS = 4


@pytest.fixture
def load(world: World) -> Iterator[Load]:
    with Load(world, ms=1500) as load:
        load.clients(CLIENTS)
        world.until(lambda: load.full_in_a_row >= 50)
        yield load


def lives_through(world: World, load: Load, pid: int, replaced: Callable[[], bool]) -> None:
    """Kill a process; wait until another one took its place and answers are full again."""
    os.kill(pid, signal.SIGKILL)
    world.until(replaced, pause_s=0.3)
    load.full_in_a_row = 0
    world.until(lambda: load.full_in_a_row >= 50)
    load.clients(0)
    assert {status for status, _, _ in load.answers} == {200}, load.answers
    assert all((rung == "full") == (marks == "") for _, rung, marks in load.answers), load.answers


def test_the_only_ranker_dies(world: World, load: Load) -> None:
    before = world.pids("release-one", "Ranker")
    assert len(before) == 1
    lives_through(world, load, *before, lambda: len(world.pids("release-one", "Ranker") - before) == 1)
    assert "ranker_unavailable" in load.marks
    assert load.broken == 0


def test_one_of_two_gateways_dies(world: World, load: Load) -> None:
    before = world.pids("gateway", "Gateway")
    assert len(before) == 2
    killed = min(before)
    lives_through(world, load, killed, lambda: len(world.pids("gateway", "Gateway") - {killed}) == 2)
    # one of some 790 in one of two runs: HAProxy closed the connection instead of asking the other replica; why is not known
    assert load.broken <= CLIENTS, "at most the one request that each client had under way"


def test_the_store_dies_and_comes_back_with_all_that_was_written(world: World, load: Load) -> None:
    file = world.store_folder / "valkey.pid"
    killed = int(file.read_text())
    lives_through(world, load, killed, lambda: int(file.read_text()) != killed)
    assert load.broken == 0
