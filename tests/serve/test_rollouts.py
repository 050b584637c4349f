"""A rollout on a real cluster: the controller is killed on the way, and a release that breaks leaves by itself."""

import os
import signal
import time
from collections.abc import Iterator

import pytest
from ray import serve
from serve_world import FAST, Load, World

from reco_ray.rollout import Guards, Policy, State, Status, Step, commands
from reco_ray.serve.app import RolloutArgs, build_rollouts
from reco_ray.store import RolloutStore

GUARDS = Guards(degraded_margin=0.1, error_margin=0.1, p95_ratio=20)  # two cores for all of it: much is late
POLICY = Policy((Step(0.3, 1, 200), Step(0.6, 1, 200), Step(1.0, 1, 200)), GUARDS)


@pytest.fixture
def rollouts(world: World) -> Iterator[RolloutStore]:
    serve.run(build_rollouts(RolloutArgs(store_url=world.store_url)), name="rollouts", route_prefix=None)
    yield RolloutStore(world.store)
    serve.delete("rollouts", _blocking=False)
    world.send_traffic(one=1.0)
    world.await_release("one")


def status(rollouts: RolloutStore) -> State:
    found = rollouts.load()
    assert found is not None
    return State.from_json(found)


def start(world: World, rollouts: RolloutStore, release: str) -> None:
    world.send_traffic(one=1.0, **{release: 0.0})
    world.until(lambda: all(release in world.get("/readyz").json()["releases"] for _ in range(10)))
    commands.start(rollouts, release, POLICY, time.time(), "test")


def test_a_rollout_goes_on_after_the_death_of_its_controller_and_no_request_fails(world: World, rollouts: RolloutStore) -> None:
    world.run_release("two", FAST)
    start(world, rollouts, "two")
    with Load(world, ms=5000) as load:
        load.clients(4)
        world.until(lambda: status(rollouts).step == 1, 120)
        killed = world.pids("rollouts", "Rollouts")
        assert len(killed) == 1
        os.kill(*killed, signal.SIGKILL)
        world.until(lambda: status(rollouts).status is Status.promoted, 120)
    assert world.store.traffic().weights == {"one": 0.0, "two": 1.0}
    assert {code for code, _, _ in load.answers} == {200}, load.answers
    actions = [each["action"] for each in reversed(rollouts.history(20)) if each["action"] not in ("wait", "resume")]
    assert actions == ["start", "step", "step", "promote"]
    world.send_traffic(one=1.0)
    world.drop_releases("two")


def test_a_release_that_fails_every_third_time_leaves_by_itself_at_its_first_step(world: World, rollouts: RolloutStore) -> None:
    world.run_release("flaky", FAST, "FlakyLoader")
    start(world, rollouts, "flaky")
    with Load(world, ms=5000) as load:
        load.clients(4)
        world.until(lambda: status(rollouts).status.over, 120)
    state = status(rollouts)
    assert (state.status, state.step) == (Status.rolled_back, 0)
    assert state.reason.split(":")[0] in ("errors", "degraded")
    assert world.store.traffic().weights == {"one": 1.0, "flaky": 0.0}
    assert {code for code, _, _ in load.answers} == {200}, load.answers
    world.send_traffic(one=1.0)
    world.drop_releases("flaky")
