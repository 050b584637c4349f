"""The controller against a real store and bus: it counts, steps, goes back, and goes on after its death."""

import asyncio
import json
import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from ports import free_port

from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.config import EventsConfig
from reco_ray.errors import ConfigError, NotReadyError
from reco_ray.events.bus import EVENTS, EXPOSURES, Outgoing
from reco_ray.events.open import open_producer, open_reader
from reco_ray.feedback.exposures import Decision as Exposed
from reco_ray.feedback.exposures import encode, encode_slots
from reco_ray.hashing import unit_interval
from reco_ray.rollout import Guards, Policy, State, Status, Step, commands
from reco_ray.rollout.controller import Controller
from reco_ray.rollout.mirrored import compare, failed
from reco_ray.store import OnlineStore, RolloutStore, Shadow, ShadowStore
from reco_ray.types import Slate

POLICY = Policy((Step(0.05, 10, 100), Step(0.5, 10, 100), Step(1.0, 10, 100)), Guards())
SLOTS = encode_slots(["i1"], np.ones(1, np.float32), [["popular"]])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, EventsConfig]]:
    config = compose_config([f"root={tmp_path_factory.mktemp('root')}", f"store.port={free_port()}", "events.bus.partitions=2"])
    with embedded_store(config) as url:
        yield url, config.events


@dataclass
class World:
    """Two releases with users, in a namespace of its own; time passes when told to."""

    url: str
    events: EventsConfig
    namespace: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:8]}")
    now: float = field(default_factory=time.time)
    told: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = OnlineStore(self.url, self.namespace)
        self.store.set_traffic({"old": 1.0, "new": 0.0}, {"old": "v", "new": "v"})
        self.rollouts = RolloutStore(self.store)
        self.controller = self.start_controller()

    def start_controller(self) -> Controller:
        places = [(topic, partition) for topic in (EXPOSURES, EVENTS) for partition in range(2)]
        readers = {place: open_reader(self.events, self.namespace, self.url, *place) for place in places}
        return Controller(self.rollouts, readers, ShadowStore(self.store), self.told.append, clock=lambda: self.now)

    def start(self) -> State:
        state = commands.start(self.rollouts, "new", POLICY, self.now, "test")
        assert self.store.traffic().salt == f"traffic {state.rollout_id}"
        self.controller.turn()
        return state

    @property
    def state(self) -> State:
        found = self.rollouts.load()
        assert found is not None
        return State.from_json(found)

    def serve(self, n: int, seconds: float = 20.0, *, clicks: float = 0.2, errors: float = 0.0, slow: float = 1.0) -> None:
        """Let ``n`` users be answered; what is said of clicks, errors and latency is said of the new release."""
        share, rng = self.store.traffic().weights["new"], np.random.default_rng(int(self.now))
        self.now += seconds
        shown, clicked = [], []
        for i in range(n):
            user = f"u{rng.integers(1 << 40)}"
            new = unit_interval(user, "test") < share
            fails = new and rng.random() < errors
            ms = float(rng.gamma(4, 3)) * (slow if new else 1)
            exposed = Exposed(
                request_id=(request_id := f"{self.now}-{i}"),
                call="recommend",
                user_id=user,
                ts_us=int(self.now * 1e6),
                surface="home",
                context={},
                consent=True,
                release="old" if fails or not new else "new",
                variant="main" if new == (share > 0.5) else "canary",
                rung="precomputed" if fails else "full",
                degraded=["recall_unavailable"] if fails else [],
                draw_id="another" if fails else request_id,
                age_s=0.0,
                slots=SLOTS,
                timings={} if fails else {"recall": ms},
            )
            shown.append(Outgoing(i % 2, encode(exposed)))
            if rng.random() < (clicks if new else 0.2):
                event = {"event_id": request_id, "type": "click", "request_id": request_id}
                clicked += 2 * [Outgoing(i % 2, json.dumps(event).encode())]  # delivered twice

        async def send() -> None:
            producer = open_producer(self.events, self.namespace, self.url)
            await producer.append(EXPOSURES, shown)
            await producer.append(EVENTS, clicked)
            await producer.aclose()

        asyncio.run(send())


@pytest.fixture
def world(server: tuple[str, EventsConfig]) -> World:
    return World(*server)


def test_a_good_release_gets_all_users_step_by_step_and_every_step_is_on_record(world: World) -> None:
    world.start()
    seen = []
    for users in (4_000, 600, 300):
        seen.append(world.store.traffic().weights["new"])
        world.serve(users)
        world.controller.turn()
    assert seen == [0.05, 0.5, 1.0]
    assert world.state.status is Status.promoted
    assert world.store.traffic().weights == {"old": 0.0, "new": 1.0}
    assert [each["action"] for each in world.rollouts.history(9)] == ["promote", "step", "step", "start"]
    assert [each["action"] for each in world.told] == ["step", "step", "promote"]
    step = world.rollouts.history(9)[2]["numbers"]
    assert step["decisions"] + step["champion_decisions"] == 4_000
    assert step["users"] + step["champion_users"] == 4_000
    assert step["ctr_mean"] == pytest.approx(0, abs=0.1)
    assert world.controller.turn() is None


@pytest.mark.parametrize(
    ("hurts", "reason"), [({"errors": 0.2}, "errors"), ({"slow": 3.0}, "latency"), ({"clicks": 0.02}, "clicks")]
)
def test_what_hurts_loses_its_users_in_the_turn_that_sees_it(world: World, hurts: dict[str, float], reason: str) -> None:
    world.start()
    world.serve(12_000, 5.0, **hurts)
    decision = world.controller.turn()
    assert decision is not None
    assert (decision.action, decision.reason.split(":")[0]) == ("roll_back", reason)
    assert world.store.traffic().weights == {"old": 1.0, "new": 0.0}
    assert world.state.status is Status.rolled_back


def test_another_controller_goes_on_from_what_was_counted(world: World) -> None:
    world.start()
    world.serve(3_000, 5.0)
    assert world.controller.turn().reason == "5 of 10 s"  # type: ignore[union-attr]
    world.controller = world.start_controller()
    world.serve(1_000, 6.0)
    decision = world.controller.turn()
    assert decision is not None
    assert decision.action == "step"
    assert decision.numbers["decisions"] + decision.numbers["champion_decisions"] == 4_000
    assert decision.numbers["users"] + decision.numbers["champion_users"] == 4_000


def test_a_controller_that_died_between_a_step_and_its_counts_starts_the_step_with_none(world: World) -> None:
    world.start()
    world.serve(4_000)
    assert world.controller.turn().action == "step"  # type: ignore[union-attr]
    world.controller = world.start_controller()
    world.serve(100, 5.0)
    decision = world.controller.turn()
    assert decision is not None
    assert decision.numbers["decisions"] + decision.numbers["champion_decisions"] == 100


def test_without_records_it_waits_and_goes_on_by_itself(world: World) -> None:
    world.start()
    world.now += 120
    assert world.controller.turn().action == "wait"  # type: ignore[union-attr]
    assert world.store.traffic().weights["new"] == 0.05
    world.serve(3_000, 1.0)
    assert [world.controller.turn().action for _ in range(2)] == ["resume", "step"]  # type: ignore[union-attr]


def test_a_person_pauses_resumes_and_aborts_and_each_is_on_record(world: World) -> None:
    world.start()
    commands.pause(world.rollouts, world.now, "ann", "lunch")
    world.serve(4_000)
    assert world.controller.turn().action == "hold"  # type: ignore[union-attr]
    commands.resume(world.rollouts, world.now, "ann")
    assert world.controller.turn().action == "step"  # type: ignore[union-attr]
    commands.abort(world.rollouts, world.now, "ann", "no")
    assert world.store.traffic().weights == {"old": 1.0, "new": 0.0}
    assert [(r["action"], r["by"]) for r in world.rollouts.history(3)] == [
        ("abort", "ann"),
        ("step", "controller"),
        ("resume", "ann"),
    ]
    with pytest.raises(ConfigError, match="found none that runs"):
        commands.pause(world.rollouts, world.now, "ann", "again")


def test_one_rollout_at_a_time_and_only_of_what_is_loaded(world: World) -> None:
    with pytest.raises(ConfigError, match="expected one release with all of it and other with none"):
        commands.start(world.rollouts, "other", POLICY, world.now, "test")
    world.start()
    with pytest.raises(ConfigError, match="abort it first"):
        commands.start(world.rollouts, "new", POLICY, world.now, "test")


SHADOWED = Policy((Step(0.5, 10, 100, shadow=True), *POLICY.steps), Guards())


def mirror(world: World, n: int, errors: int = 0, ms: float = 12.0) -> None:
    """Let gateways have mirrored so many requests."""
    counts: Counter[str] = Counter()
    slate = Slate("r", ("i1",), ("",), np.ones(1, np.float32), np.ones(1, np.float32), ((),))
    for i in range(n):
        if i < errors:
            failed(counts, "home")
        else:
            compare(counts, "home", slate, slate, ms, partial=False)
    name = world.state.rollout_id

    async def send() -> None:
        store = OnlineStore(world.url, world.namespace)
        await ShadowStore(store).add(name, counts)
        await store.calls.aclose()

    asyncio.run(send())


def test_a_release_is_in_the_shadow_first_and_answers_nobody_there(world: World) -> None:
    state = commands.start(world.rollouts, "new", SHADOWED, world.now, "test")
    assert world.store.traffic().weights == {"old": 1.0, "new": 0.0}
    assert world.store.traffic().shadow == Shadow("new", 0.5, state.rollout_id)
    world.controller.turn()
    world.serve(1_000)
    mirror(world, 99)
    assert world.controller.turn().reason == "99 of 100 decisions"  # type: ignore[union-attr]
    mirror(world, 1)
    assert world.controller.turn().action == "step"  # type: ignore[union-attr]
    assert world.store.traffic().weights == {"old": 0.95, "new": 0.05}
    assert world.store.traffic().shadow is None
    report = world.rollouts.history(1)[0]["mirrored"]["home"]
    assert (report["requests"], report["overlap"], report["failed"]) == (100, 1, 0)
    assert report["ms"] == pytest.approx(12)
    for users in (4_000, 600, 300):
        world.serve(users)
        world.controller.turn()
    assert world.state.status is Status.promoted


@pytest.mark.parametrize(("hurts", "reason"), [({"errors": 30}, "errors"), ({"ms": 300.0}, "latency")])
def test_what_fails_in_the_shadow_never_gets_a_user(world: World, hurts: dict[str, Any], reason: str) -> None:
    commands.start(world.rollouts, "new", SHADOWED, world.now, "test")
    world.controller.turn()
    world.serve(1_000)
    mirror(world, 100, **hurts)
    decision = world.controller.turn()
    assert decision is not None
    assert (decision.action, decision.reason.split(":")[0]) == ("roll_back", reason)
    assert world.store.traffic().weights == {"old": 1.0, "new": 0.0}
    assert world.store.traffic().shadow is None


def test_aborting_ends_the_shadow(world: World) -> None:
    commands.start(world.rollouts, "new", SHADOWED, world.now, "test")
    commands.abort(world.rollouts, world.now, "ann", "no")
    assert world.store.traffic().shadow is None
    assert world.controller.turn() is None


def test_a_shadow_stands_first_or_nowhere() -> None:
    with pytest.raises(ConfigError, match="expected it as the first one"):
        Policy((Step(0.05), Step(0.5, shadow=True), Step(1.0)))
    assert Policy.from_json(SHADOWED.to_json()) == SHADOWED


def test_a_deployment_that_comes_between_ends_the_rollout_and_is_left_alone(world: World) -> None:
    world.start()
    world.store.set_traffic({"third": 1.0, "old": 0.0}, {"third": "v", "old": "v"})
    decision = world.controller.turn()
    assert decision is not None
    assert (decision.action, world.state.status) == ("abort", Status.aborted)
    assert world.store.traffic().weights == {"third": 1.0, "old": 0.0}


def test_falling_back_moves_all_users_at_once_and_ends_the_rollout(world: World) -> None:
    world.start()
    assert commands.fall_back(world.rollouts, "", world.now, "ann") == "old"
    assert world.store.traffic().weights == {"old": 1.0, "new": 0.0}
    assert world.state.status is Status.aborted
    assert commands.fall_back(world.rollouts, "", world.now, "ann") == "new"
    with pytest.raises(ConfigError, match="found other to go to"):
        commands.fall_back(world.rollouts, "other", world.now, "ann")


def test_one_controller_works_at_a_time(world: World) -> None:
    with world.rollouts.alone() as extend:
        extend()
        with pytest.raises(NotReadyError, match="rollouts: found the lock held by process"), world.rollouts.alone():
            pass
    with world.rollouts.alone():
        pass


def test_the_deployment_turns_in_a_thread_and_gives_the_lock_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from reco_ray.rollout.deployments import Rollouts

    monkeypatch.setattr(logging.getLogger("reco_ray"), "handlers", [logging.NullHandler()])  # as one that is set up already
    commands.start(world.rollouts, "new", POLICY, world.now, "test")
    replica = Rollouts.func_or_class(world.events, world.namespace, world.url, "")
    pause, deadline = threading.Event(), time.monotonic() + 60
    while world.rollouts.evidence() is None and time.monotonic() < deadline:
        pause.wait(0.05)
    assert world.rollouts.evidence() is not None
    replica.check_health()
    replica.__del__()
    with world.rollouts.alone():
        pass
    with pytest.raises(NotReadyError, match="thread ended"):
        replica.check_health()
