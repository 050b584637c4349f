"""A release's stages change size under load and at rest, on a real cluster; no request is lost over it."""

from collections.abc import Iterator

import pytest
from ray import serve
from serve_world import Load, World

QUICK = {"queue_delay_ms": 10, "up_s": 0.5, "down_s": 1, "idle_to_zero_s": 5}
STAGES = ("Recall", "Ranker", "Reranker")


@pytest.fixture(scope="module")
def busy_and_rare(one_world: World) -> Iterator[World]:
    """One release that gets the traffic, and one that may go to zero meanwhile."""
    one_world.rest()
    rare = {"min_replicas": 0, "max_replicas": 1}
    one_world.run_release("rare", "fake:0,0,0", scaling=QUICK, recall=rare, ranker=rare, reranker=rare)
    one_world.run_release("busy", "fake:0,30,0", "SleepingLoader", scaling=QUICK, ranker={"max_replicas": 2})
    one_world.send_traffic(busy=1.0, rare=0.0)
    one_world.await_release("busy")
    one_world.until(lambda: all("rare" in one_world.get("/readyz").json()["releases"] for _ in range(10)))
    yield one_world
    one_world.rest()
    one_world.drop_releases("busy", "rare")


def replicas(release: str, stage: str) -> dict[str, int]:
    return {
        str(state): n
        for state, n in serve.status().applications[f"release-{release}"].deployments[stage].replica_states.items()
    }


def test_the_ranker_doubles_under_load_and_halves_after_it_and_no_answer_is_less_than_full(busy_and_rare: World) -> None:
    with Load(busy_and_rare, ms=20_000) as load:
        load.clients(6)
        busy_and_rare.until(lambda: replicas("busy", "Ranker").get("RUNNING") == 2, pause_s=0.4)
        load.clients(1, pause_s=0.15)
        busy_and_rare.until(lambda: replicas("busy", "Ranker") == {"RUNNING": 1}, pause_s=0.4)
    assert set(load.answers) == {(200, "full", "")}, load.answers
    assert replicas("busy", "Recall") == {"RUNNING": 1}


def test_a_release_at_zero_comes_back_for_one_request_even_when_its_caller_gave_up(busy_and_rare: World) -> None:
    world = busy_and_rare
    world.until(lambda: all(not replicas("rare", stage) for stage in STAGES), pause_s=0.4)
    assert serve.status().applications["release-rare"].status == "RUNNING", "what a deployment of another release waits for"
    world.send_traffic(rare=1.0, busy=0.0)
    world.await_traffic("rare")
    assert all(not replicas("rare", stage) for stage in STAGES), "traffic alone starts nothing"
    world.post({"user_id": "known"}, **{"x-request-timeout-ms": "50"})
    world.until(lambda: all(replicas("rare", stage).get("RUNNING") == 1 for stage in STAGES), pause_s=0.4)
    world.until(lambda: world.post({"user_id": "known"}).json().get("rung") == "full")
