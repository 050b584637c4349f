"""Scaling a stage: what a replica measures, what the policy makes of it, and how it holds still under noise."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from ray.serve.autoscaling_policy import _apply_autoscaling_config
from ray.serve.config import AutoscalingConfig

from reco_ray.serve.autoscaling import Signals, StagePolicy, desired_replicas
from reco_ray.serve.path.load import LoadWindow, batches_in_flight
from reco_ray.serve.path.stages import Remote
from reco_ray.serve.path.waking import Waker
from reco_ray.serve.path.watch import Replicas, ReplicaWatch

CALM = Signals(replicas=2, reporting=2, busy=1.0, rows_per_s=100.0)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_window_reports_work_rows_and_queues_of_the_last_seconds() -> None:
    clock = Clock()
    window = LoadWindow(clock)
    for _ in range(10):
        with window.batch(4, ("g1", 6, 10.0)):
            clock.now += 0.25
        with window.batch(4, ("g2", 2, 30.0)):
            clock.now += 0.25
        clock.now += 0.5
    assert window.stats() == pytest.approx({"busy": 0.5, "rows_per_s": 8.0, "delay_ms": 20.0, "rows_queued": 8.0}, rel=0.15)
    clock.now += 6
    assert window.stats() == {"busy": 0.0, "rows_per_s": 0.0, "delay_ms": 0.0, "rows_queued": 0.0}


def test_a_batch_that_fails_or_says_nothing_of_a_queue_is_work() -> None:
    clock = Clock()
    window = LoadWindow(clock)

    def work() -> None:
        with window.batch(1, None):
            clock.now += 2.0
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert window.stats() == {"busy": 1.0, "rows_per_s": 0.5, "delay_ms": 0.0, "rows_queued": 0.0}


@pytest.mark.parametrize(
    ("signals", "expected"),
    [
        (CALM, 2),
        (replace(CALM, busy=1.5, delay_ms=30.0, rows_queued=2.0), 3),  # late
        (replace(CALM, busy=0.9, delay_ms=30.0), 2),  # late, but not for want of replicas
        (replace(CALM, busy=1.9, rows_queued=3.0), 4),  # full: 1.9 replicas at work, aiming at 60 %
        (replace(CALM, busy=2.0, rows_queued=0.5), 2),  # busy, but nothing waits
        (replace(CALM, busy=2.0, rows_queued=15.0, delay_ms=100.0), 5),  # 150 rows/s arrive, 50 a replica
        (replace(CALM, busy=2.0, rows_queued=900.0, delay_ms=100.0), 8),  # at most four times as many
        (replace(CALM, busy=0.3), 1),
        (replace(CALM, busy=0.0, rows_per_s=0.0, calls=1.0), 1),
        (replace(CALM, replicas=1, reporting=1, busy=0.0, rows_per_s=0.0), 0),
        (replace(CALM, replicas=8, reporting=8, busy=0.1), 4),  # at most by half
        (replace(CALM, reporting=0), 2),
        (Signals(replicas=0), 0),
    ],
)
def test_the_number_of_replicas_follows_what_queues(signals: Signals, expected: int) -> None:
    assert desired_replicas(signals, target_delay_ms=20.0) == expected


@dataclass
class Stage:
    """A stage of replicas that do 100 rows/s each, a queue in front that drops rows after 130 ms, and Serve's own delays."""

    config: AutoscalingConfig
    replicas: int = 1
    now: float = 0.0
    queue: float = 0.0
    starting: list[tuple[float, int]] = field(default_factory=list)
    reports: list[dict[str, float]] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    target: int = 1
    changes: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.policy = _apply_autoscaling_config(StagePolicy(20.0))

    def second(self, arriving: float) -> None:
        self.now += 1
        if self.starting and self.now >= self.starting[0][0]:
            self.replicas = self.starting.pop(0)[1]
        capacity = 100.0 * self.replicas
        done = min(self.queue + arriving, capacity)
        self.queue = min(self.queue + arriving - done, 0.13 * arriving)
        delay_ms = 1e3 * self.queue / max(arriving, 1e-9) if self.queue else 2.0
        busy = done / capacity if capacity else 0.0
        self.reports.append({"busy": busy, "rows_per_s": done, "rows_queued": self.queue, "delay_ms": delay_ms})
        self.decide(arriving)

    def decide(self, arriving: float) -> None:
        mean = {name: float(np.mean([report[name] for report in self.reports[-5:]])) for name in self.reports[-1]}
        each = mean | {"rows_per_s": mean["rows_per_s"] / max(1, self.replicas)}
        ctx = Context(self, {name: {r: [Point(value)] for r in range(self.replicas)} for name, value in each.items()}, arriving)
        wanted, self.state = self.policy(ctx)  # type: ignore[arg-type]
        wanted = min(max(wanted, self.config.min_replicas), self.config.max_replicas)
        if wanted != self.target:
            self.target = wanted
            self.changes.append((self.now, wanted))
            self.starting = [(self.now + (4 if wanted > self.replicas else 0), wanted)]


@dataclass
class Point:
    value: float


class Context:
    """What Serve hands to a policy."""

    def __init__(self, stage: Stage, metrics: Mapping[str, Mapping[int, list[Point]]], calls: float) -> None:
        self.current_num_replicas, self.target_num_replicas = stage.replicas, stage.target
        self.capacity_adjusted_min_replicas = stage.config.min_replicas
        self.current_time, self.policy_state, self.config = stage.now, stage.state, stage.config
        self.raw_metrics, self.total_num_requests = metrics, calls


def stage(min_replicas: int = 1, **fields: float) -> Stage:
    delays = {"upscale_delay_s": 2.0, "downscale_delay_s": 60.0, "downscale_to_zero_delay_s": 120.0} | fields
    return Stage(AutoscalingConfig(min_replicas=min_replicas, max_replicas=16, **delays))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def serve_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Serve's delays read the wall clock; here they read the simulated one."""
    clock = Clock()
    monkeypatch.setattr("ray.serve.autoscaling_policy.time.time", clock)
    return clock


def run(world: Stage, clock: Clock, seconds: int, load: Callable[[int], float]) -> list[int]:
    counts = []
    for second in range(seconds):
        clock.now = world.now
        world.second(load(second))
        counts.append(world.replicas)
    return counts


def test_a_rise_is_followed_within_seconds_and_a_fall_within_minutes(serve_clock: Clock) -> None:
    world = stage()
    assert run(world, serve_clock, 30, lambda _: 50.0)[-1] == 1
    risen = run(world, serve_clock, 60, lambda _: 600.0)
    assert max(risen) >= 7
    assert next(i for i, n in enumerate(risen) if n >= 6) < 40
    assert run(world, serve_clock, 400, lambda _: 50.0)[-1] == 2 or world.replicas == 1
    targets = [n for _, n in world.changes]
    turns = sum((b > a) != (c > b) for a, b, c in zip(targets, targets[1:], targets[2:], strict=False))
    assert turns == 1, f"up, then down, and nothing between: {world.changes}"


@pytest.mark.parametrize("level", [60.0, 120.0, 170.0, 250.0, 380.0, 700.0])
@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_noisy_load_settles_and_stays(level: float, noise: float, serve_clock: Clock) -> None:
    world, random = stage(), np.random.default_rng(7)
    run(world, serve_clock, 300, lambda _: level * random.lognormal(0, noise))
    settled = len(world.changes)
    counts = run(world, serve_clock, 1800, lambda _: level * random.lognormal(0, noise))
    turns = len(world.changes) - settled
    assert turns <= 2, f"in half an hour: {world.changes[settled:]}"
    assert 100 * min(counts) > level, "it must carry the load"


def test_a_stage_goes_to_zero_only_after_its_time_and_only_if_it_may(serve_clock: Clock) -> None:
    idle, always = stage(min_replicas=0), stage(min_replicas=1)
    for world in (idle, always):
        run(world, serve_clock, 30, lambda _: 20.0)
    assert run(idle, serve_clock, 110, lambda _: 0.0)[-1] == 1
    run(idle, serve_clock, 2, lambda _: 1.0)  # one request, and the time starts anew
    assert run(idle, serve_clock, 110, lambda _: 0.0)[-1] == 1
    assert run(idle, serve_clock, 30, lambda _: 0.0)[-1] == 0
    assert run(always, serve_clock, 300, lambda _: 0.0)[-1] == 1
    idle.second(1.0)
    assert idle.target == 1, "a call that waits at zero starts a replica at once"


@pytest.mark.parametrize(("replicas", "gateways", "batches"), [(0, 2, 1), (1, 2, 1), (1, 1, 2), (3, 2, 3), (3, 4, 2)])
def test_a_gateway_keeps_its_part_of_two_batches_per_replica_out(replicas: int, gateways: int, batches: int) -> None:
    assert batches_in_flight(replicas, gateways) == batches


def test_the_watch_sets_batches_in_flight_and_outlives_a_failing_status() -> None:
    async def nothing(*_: Any) -> list[bytes]:
        return []

    found: list[Replicas] = [{}, {"gateway": {"Gateway": 2}, "release-a": {"Recall": 1, "Ranker": 5, "Reranker": 0}}]

    def count() -> Replicas:
        if not found:
            raise RuntimeError("no controller")
        return found.pop(0)

    async def check() -> None:
        stages = Remote(nothing, nothing, nothing)
        watch = ReplicaWatch(count, lambda: {"a": stages, "not-there": stages}, interval_s=0.001)
        task = asyncio.create_task(watch.run())
        while found:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        assert not task.done()
        task.cancel()
        limits = [c.max_in_flight for c in (stages._recall, stages._score, stages._arrange)]
        assert limits == [1, 5, 1]

    asyncio.run(check())


def test_a_quiet_stage_wakes_all_with_one_open_knock_each() -> None:
    async def check() -> None:
        clock, gate, knocked, failing = Clock(), asyncio.Event(), [], False

        def knock(name: str) -> Callable[[], Any]:
            async def call() -> None:
                knocked.append(name)
                await gate.wait()
                if failing:
                    raise RuntimeError("gone")

            return call

        waker = Waker({"a": knock("a"), "b": knock("b")}, clock)
        for _ in range(3):
            waker.calling("a")
            await asyncio.sleep(0)
        assert knocked == ["a", "b"]
        gate.set()
        await asyncio.sleep(0.01)
        waker.calling("a")
        await asyncio.sleep(0.01)
        assert knocked == ["a", "b"], "both have answered just now"
        clock.now, failing = clock.now + 10, True
        waker.answered("b")
        waker.calling("b")
        await asyncio.sleep(0.01)
        assert len(knocked) == 2
        waker.calling("a")
        await asyncio.sleep(0.01)
        assert len(knocked) == 4
        waker.calling("a")  # a knock that failed is not an answer
        await asyncio.sleep(0.01)
        assert len(knocked) == 6

    asyncio.run(check())
