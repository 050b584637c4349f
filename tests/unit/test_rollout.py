"""Policies, tests that may be looked at any time, and the decisions made from them."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reco_ray.errors import ConfigError
from reco_ray.rollout import (
    DEFAULT_POLICY,
    Arm,
    Evidence,
    Guards,
    Policy,
    State,
    Status,
    Step,
    budget_left,
    compare_rates,
    decide,
    excess,
    first_state,
    mismatch,
    sample_size,
)
from reco_ray.rollout.simulation import peek

POLICY = Policy(tuple(Step(share, 10, 500) for share in (0.01, 0.05, 0.25, 1.0)), Guards())


def arm(decisions: int, *, clicks: float = 0.1, errors: int = 0, slow: float = 1.0, users: int = 0, seed: int = 0) -> Arm:
    rng = np.random.default_rng(seed)
    found = Arm(made=decisions, errors=errors, users=users)
    np.add.at(found.rates, (rng.integers(64, size=decisions), 0), 1)
    found.rates[:, 1] = np.round(found.rates[:, 0] * clicks)
    for ms in np.linspace(5, 20, decisions):
        found.took(ms * slow)
    return found


def started(step: int = 0, **changes: object) -> State:
    return replace(first_state("r1", "new", "old", POLICY, 1000.0, "test"), step=step, **changes)  # type: ignore[arg-type]


def seen(candidate: Arm, champion: Arm, now: float = 1020.0) -> Evidence:
    return Evidence([(candidate, champion)], now, now, 10_000, 10_000)


def test_a_good_candidate_goes_through_all_steps_and_is_promoted() -> None:
    state, shares = started(), []
    for _ in POLICY.steps:
        shares.append(state.share)
        now = state.since_ts + 20
        users = round(20_000 * state.share)
        decision = decide(state, seen(arm(1000, users=users), arm(20_000, users=20_000 - users), now), now)
        assert decision.action in ("step", "promote"), decision
        state = decision.state
    assert shares == [0.01, 0.05, 0.25, 1.0]
    assert state.status is Status.promoted
    assert state.share == 1.0


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (arm(600, errors=18), "errors: 3.00%"),
        (arm(600, slow=3), "latency"),
        (arm(5_000, clicks=0.0), "clicks"),
    ],
)
def test_what_hurts_is_rolled_back_at_once_even_while_paused(candidate: Arm, reason: str) -> None:
    for status in (Status.running, Status.paused, Status.waiting):
        decision = decide(started(status=status), seen(candidate, arm(50_000), 1001.0), 1001.0)
        assert (decision.action, decision.state.status, decision.state.share) == ("roll_back", Status.rolled_back, 0.0)
        assert decision.reason.startswith(reason)
        assert decision.numbers["decisions"] == candidate.decisions


def test_neither_time_nor_decisions_alone_are_enough_for_a_step() -> None:
    assert decide(started(), seen(arm(600), arm(6000), 1005.0), 1005.0).reason == "5 of 10 s"
    assert decide(started(), seen(arm(60), arm(6000)), 1020.0).reason == "60 of 500 decisions"


def test_a_rollout_without_records_waits_and_goes_on_when_they_return() -> None:
    quiet = decide(started(), replace_heard(seen(arm(600), arm(6000)), 1020.0), 1100.0)
    assert (quiet.action, quiet.state.status) == ("wait", Status.waiting)
    again = decide(quiet.state, replace_heard(seen(arm(600), arm(6000)), 1020.0), 1101.0)
    assert again.action == "hold"
    back = decide(again.state, seen(arm(600), arm(6000), 1102.0), 1102.0)
    assert (back.action, back.state.status) == ("resume", Status.running)


def replace_heard(evidence: Evidence, ts: float) -> Evidence:
    evidence.heard_ts = evidence.candidate_ts = ts
    return evidence


def test_a_candidate_that_gets_no_traffic_at_all_is_noticed() -> None:
    evidence = seen(arm(0), arm(50_000), 1100.0)
    evidence.candidate_ts = 0.0
    decision = decide(started(), evidence, 1100.0)
    assert decision.action == "wait"
    assert "candidate" in decision.reason


def test_shares_that_are_not_as_declared_hold_a_rollout() -> None:
    decision = decide(started(step=1), seen(arm(600, users=800), arm(6000, users=9200)), 1020.0)
    assert decision.action == "wait"
    assert "shares" in decision.reason


def test_half_a_budget_doubles_a_step_and_none_stops_it() -> None:
    evidence = seen(arm(600), arm(60_000), 1015.0)
    evidence.good = 9_940  # 60 of the 100 failures that 99% allows
    assert decide(started(), evidence, 1015.0).reason == "15 of 20 s"
    evidence.good = 9_890
    assert decide(started(), evidence, 1015.0).state.status is Status.waiting


def test_the_last_step_is_measured_by_what_the_champion_did_before() -> None:
    evidence = Evidence([(arm(600), arm(6000)), (arm(600, slow=3), Arm())], 1020.0, 1020.0, 10_000, 10_000)
    assert decide(started(step=3), evidence, 1020.0).reason.startswith("latency")


def test_state_and_evidence_survive_json() -> None:
    state = started(step=2, status=Status.paused)
    assert State.from_json(state.to_json()) == state
    evidence = seen(arm(60, errors=1), arm(600))
    again = Evidence.from_json(evidence.to_json())
    assert again.to_json() == evidence.to_json()
    assert decide(state, again, 1020.0).numbers["errors_rate"] == pytest.approx(1 / 60)


@pytest.mark.parametrize(
    "found",
    [
        {"steps": []},
        {"steps": [{"share": 0.5}]},
        {"steps": [{"share": 0.5}, {"share": 0.5}, {"share": 1}]},
        {"steps": [{"share": 1, "color": 1}]},
        {"steps": [{"share": 1}], "guards": {"alpha": 2}},
        {"steps": [{"share": 1}], "gards": {}},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(found: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Policy.from_json(found)


def test_the_default_policy_survives_json() -> None:
    assert Policy.from_json(DEFAULT_POLICY.to_json()) == DEFAULT_POLICY


def test_peeking_finds_no_difference_where_there_is_none() -> None:
    found = peek(200, 4_000, rate=0.2, share=0.25, looks=40, spread=0.5, seed=1)
    assert found.rate <= 0.05


def test_the_planned_size_has_the_planned_power() -> None:
    size = sample_size(0.2, -0.2, 0.5)
    found = peek(60, size, rate=0.2, effect=-0.2, looks=40, seed=2)
    assert found.worse / found.n >= 0.8
    assert found.better == 0


def test_failures_within_what_is_allowed_are_no_evidence_at_any_look() -> None:
    rng, alarms = np.random.default_rng(3), 0
    for _ in range(200):
        failures = np.cumsum(rng.random(2_000) < 0.02)
        alarms += any(excess(n, int(failures[n - 1]), 0.02) >= 20 for n in range(20, 2_001, 20))
    assert alarms <= 10


@given(st.integers(1, 5_000), st.floats(0.001, 0.5))
def test_evidence_grows_with_failures_and_is_finite(n: int, allowed: float) -> None:
    values = [excess(n, k, allowed) for k in sorted({0, n // 3, n // 2, n})]
    assert all(math.isfinite(v) and v >= 0 for v in values)
    assert values[-1] >= values[0]


def test_a_mismatch_of_shares_is_seen_and_chance_is_not() -> None:
    assert mismatch(500, 9_500, 0.05) < 1
    assert mismatch(700, 9_300, 0.05) > 1e6
    assert mismatch(0, 0, 0.05) == 1.0


def test_strata_keep_a_change_of_the_times_from_looking_like_a_difference() -> None:
    quiet, busy = arm(2_000, clicks=0.02), arm(50_000, clicks=0.02)
    then, later = arm(50_000, clicks=0.3), arm(50_000, clicks=0.3)
    found = compare_rates([(quiet.rates, busy.rates), (then.rates, later.rates)], 0.05, 0.2)
    assert found.low < 0 < found.high


def test_too_little_says_nothing() -> None:
    found = compare_rates([(arm(10).rates, arm(1000).rates)], 0.05, 0.2)
    assert math.isnan(found.mean)
    assert not found.worse
    assert not found.better


def test_plans_grow_with_what_makes_a_test_hard() -> None:
    base = sample_size(0.1, -0.2, 0.5)
    assert base < sample_size(0.1, -0.1, 0.5)
    assert base < sample_size(0.1, -0.2, 0.05)
    assert base < sample_size(0.1, -0.2, 0.5, power=0.9)
    with pytest.raises(ConfigError, match="expected rates"):
        sample_size(1.1, 0.2, 0.5)


def test_a_budget_counts_what_may_fail() -> None:
    assert budget_left(0, 0, 0.99) == 1
    assert budget_left(995, 1000, 0.99) == pytest.approx(0.5)
    assert budget_left(980, 1000, 0.99) == pytest.approx(-1.0)
