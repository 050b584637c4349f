"""What keeps the gateway up: breakers and load shedding."""

import asyncio

import pytest

from reco_ray.serve.guard.admission import Admission
from reco_ray.serve.guard.breaker import Breaker
from reco_ray.serve.guard.pulse import Pulse


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def opened(clock: Clock) -> Breaker:
    """Opened at 0 by failures since -0.4."""
    clock.now = -0.5
    breaker = Breaker(pause_s=1, max_pause_s=4, clock=clock)
    for _ in range(5):
        clock.now = round(clock.now + 0.1, 1)
        assert breaker.allow()
        breaker.failed()
    return breaker


def test_five_failures_in_a_row_open_a_breaker_for_its_pause(clock: Clock) -> None:
    breaker = opened(clock)
    assert breaker.open
    assert not breaker.allow()
    clock.now = 0.99
    assert not breaker.allow()
    clock.now = 1.0
    assert breaker.allow()


def test_one_late_batch_does_not_open_it_however_many_calls_shared_it(clock: Clock) -> None:
    breaker = Breaker(clock=clock)
    for _ in range(3):
        for _ in range(64):
            breaker.failed()
        clock.now += 0.1
    breaker.succeeded()
    assert not breaker.open


def test_a_dependency_that_is_back_is_noticed_within_two_seconds_by_default(clock: Clock) -> None:
    breaker = Breaker(clock=clock)
    while clock.now < 60:
        clock.now += 0.1
        if breaker.allow():
            breaker.failed()
    assert breaker.open
    clock.now += 2.0
    assert breaker.allow()


def test_one_probe_at_a_time_and_three_good_ones_close_it(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now = 1.0
    for left in (2, 1, 0):
        assert breaker.allow()
        assert not breaker.allow(), "a second probe beside the first"
        breaker.succeeded()
        assert breaker.open == (left > 0)


def test_a_failed_probe_doubles_the_pause_up_to_its_limit(clock: Clock) -> None:
    breaker, pauses = opened(clock), []
    clock.now = 1.0
    for _ in range(4):
        assert breaker.allow()
        breaker.failed()
        before = clock.now
        while not breaker.allow():
            clock.now += 0.5
        pauses.append(clock.now - before)
        clock.now += 100  # the probe that was just let out never reports
    assert pauses == [2, 4, 4, 4]


def test_a_probe_that_never_reports_gives_its_turn_up(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now = 1.0
    assert breaker.allow()
    clock.now = 2.1
    assert breaker.allow()


def test_answers_that_were_on_their_way_when_it_opened_do_not_close_it(clock: Clock) -> None:
    breaker = opened(clock)
    for _ in range(10):
        breaker.succeeded()
    assert breaker.open


def test_half_of_the_calls_failing_opens_it_and_a_tenth_does_not(clock: Clock) -> None:
    steady, shaky = Breaker(clock=clock), Breaker(clock=clock)
    for i in range(100):
        clock.now += 0.01
        (steady.failed if i % 10 == 0 else steady.succeeded)()
        (shaky.failed if i % 2 == 0 else shaky.succeeded)()
    assert not steady.open
    assert shaky.open


def test_failures_of_long_ago_do_not_count(clock: Clock) -> None:
    breaker = Breaker(clock=clock)
    for _ in range(20):
        breaker.failed()
        breaker.succeeded()
        clock.now += 3
    assert not breaker.open


def test_the_limit_follows_the_queue_down_and_up_again(clock: Clock) -> None:
    admission = Admission(0.03, least=8, most=64, clock=clock)
    while admission.enter():
        pass
    assert admission.at_work == 64
    for _ in range(100):
        clock.now += 0.1
        admission.waited(0.05)
        while admission.at_work > admission.limit:
            admission.leave()
    assert admission.limit == 8
    for _ in range(40):
        while admission.enter():
            pass
        admission.waited(0.01)
    assert admission.limit == 48


def test_one_late_batch_lowers_the_limit_once(clock: Clock) -> None:
    admission = Admission(0.03, most=100, clock=clock)
    while admission.enter():
        pass
    for _ in range(10):
        admission.waited(1.0)
    assert admission.limit == 85


def test_a_limit_that_is_not_in_use_does_not_grow(clock: Clock) -> None:
    admission = Admission(0.03, most=100, clock=clock)
    for _ in range(20):
        admission.enter()
    admission.waited(1.0)
    assert admission.limit == 17
    for _ in range(10):
        admission.leave()
    admission.waited(0.0)
    assert admission.limit == 17


def test_a_loop_that_is_behind_is_seen_in_the_middle_of_a_turn_and_told_after_it() -> None:
    async def overrun() -> tuple[float, float, list[float]]:
        now = 0.0
        lags: list[float] = []
        pulse = Pulse(lags.append, interval_s=0.001, clock=lambda: now)
        before = pulse.behind_s()
        beat = asyncio.create_task(pulse.run())
        await asyncio.sleep(0)
        now = 0.301  # a turn that takes 0.3 s longer than the beat's interval
        during = pulse.behind_s()
        while not lags:
            await asyncio.sleep(0.001)
        beat.cancel()
        return before, during, lags

    before, during, lags = asyncio.run(overrun())
    assert before == 0
    assert during == pytest.approx(0.3)
    assert lags[0] == pytest.approx(0.3)
