"""Off-policy estimates: right where the truth is known, covered by their intervals, refused where logs say nothing."""

import numpy as np
import pytest
from numpy.typing import NDArray

from reco_ray.evaluation.off_policy import Draws, estimate, mean_interval, support

LOGGED = np.array([0.5, 0.3, 0.15, 0.05])
TARGET = np.array([0.1, 0.2, 0.3, 0.4])
CLICKS = np.array([0.1, 0.2, 0.4, 0.5])


def single(n: int, seed: int, target: NDArray[np.float64] = TARGET, model: NDArray[np.float64] | None = None) -> Draws:
    rng = np.random.default_rng(seed)
    taken = rng.choice(4, n, p=LOGGED)
    rewards = (rng.random(n) < CLICKS[taken]).astype(float)[:, None]
    predicted = None if model is None else model[taken][:, None]
    expected = None if model is None else np.full((n, 1), target @ model)
    return Draws(rewards, LOGGED[taken][:, None], target[taken][:, None], np.arange(n), predicted, expected)


def pairs(n: int, seed: int) -> Draws:
    """Two of four items, one after another without replacement; the second place is looked at half as often."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        first = rng.choice(4, p=LOGGED)
        left = np.delete(np.arange(4), first)
        second = rng.choice(left, p=LOGGED[left] / LOGGED[left].sum())
        odds = [[p[first], p[second] / p[left].sum()] for p in (LOGGED, TARGET)]
        rows.append([*(rng.random(2) < CLICKS[[first, second]] * [1, 0.5]), *odds[0], *odds[1]])
    found = np.array(rows, float)
    return Draws(found[:, :2], found[:, 2:4], found[:, 4:], np.arange(n))


def truth_of_pairs() -> float:
    second = [TARGET[f] * TARGET[s] / (1 - TARGET[f]) * CLICKS[s] for f in range(4) for s in range(4) if s != f]
    return float(TARGET @ CLICKS + 0.5 * sum(second))


def test_every_estimator_finds_the_truth_and_covers_it() -> None:
    truth, model = float(TARGET @ CLICKS), np.array([0.0, 0.3, 0.3, 0.6])
    runs = [estimate(single(400, seed, model=model)) for seed in range(200)]
    for place, name in enumerate(("ips", "snips", "dr")):
        intervals = [run[place].value for run in runs]
        assert {run[place].estimator for run in runs} == {name}
        means = np.array([i.mean for i in intervals])
        assert abs(means.mean() - truth) < 4 * means.std() / np.sqrt(len(means)) + 0.002
        assert 0.90 <= np.mean([i.low <= truth <= i.high for i in intervals]) <= 0.99
    widths = [np.median([run[p].value.high - run[p].value.low for run in runs]) for p in range(3)]
    assert widths[2] < widths[0]


def test_slates_are_estimated_place_by_place_and_more_narrowly() -> None:
    truth = truth_of_pairs()
    runs = [estimate(pairs(500, seed)) for seed in range(100)]
    assert [e.estimator for e in runs[0]] == ["ips", "snips", "sequential"]
    for place in range(3):
        intervals = [run[place].value for run in runs]
        assert abs(np.mean([i.mean for i in intervals]) - truth) < 0.02
        assert np.mean([i.low <= truth <= i.high for i in intervals]) >= 0.88
    width = [np.median([run[p].value.high - run[p].value.low for run in runs]) for p in range(3)]
    assert width[2] < width[0]


def test_a_model_that_is_right_leaves_only_the_noise_of_rewards() -> None:
    draws = single(2_000, 0, model=CLICKS)
    still = Draws(
        CLICKS[np.zeros(2000, int)][:, None], *(np.full((2000, 1), 0.5),) * 2, np.arange(2000), *(draws.predicted,) * 2
    )
    assert estimate(still)[0].value.mean == pytest.approx(CLICKS[0])
    assert abs(estimate(draws)[2].value.mean - TARGET @ CLICKS) < 0.05


def test_skewed_values_are_covered_on_both_sides() -> None:
    rng = np.random.default_rng(5)
    values = rng.lognormal(0, 1.2, (400, 200))
    truth = float(np.exp(0.72))
    found = [mean_interval(row, np.arange(200)) for row in values]
    covered = np.mean([i.low <= truth <= i.high for i in found])
    plain = np.mean([abs(row.mean() - truth) <= 1.96 * row.std() / np.sqrt(200) for row in values])
    assert covered > plain
    assert covered >= 0.90
    assert all(i.high - i.mean > i.mean - i.low for i in found)


def test_values_of_one_unit_count_together() -> None:
    each = np.random.default_rng(0).random(100)
    alone, repeated = mean_interval(each, np.arange(100)), mean_interval(np.repeat(each, 5), np.repeat(np.arange(100), 5))
    assert (repeated.low, repeated.high) == pytest.approx((alone.low, alone.high))
    apart = mean_interval(np.repeat(each, 5), np.arange(500))
    assert apart.high - apart.low < 0.5 * (alone.high - alone.low)
    assert not mean_interval(np.ones(3), np.zeros(3, int)).known


def test_enough_overlap_is_not_refused() -> None:
    refused = [support(single(2_000, seed)).refused for seed in range(100)]
    assert sum(map(bool, refused)) <= 1
    found = support(single(2_000, 0, LOGGED))
    assert found.effective == pytest.approx(2_000)
    assert found.mean_weight.mean == pytest.approx(1)


def test_a_policy_that_does_what_was_never_logged_is_refused() -> None:
    unlogged = TARGET * 0.7  # 0.3 on a fifth item
    assert "found a mean weight of 0." in support(single(2_000, 0, unlogged)).refused
    assert "found 0.0 effective of 50 draws" in support(single(50, 0, np.zeros(4))).refused


def test_few_effective_draws_are_refused_and_it_is_said_how_many_might_do() -> None:
    found = support(single(300, 1, np.array([0.0, 0.0, 0.0, 1.0])))
    assert found.effective < 30
    assert "expected 100; " in found.refused
    assert "draws might do" in found.refused


def test_propensities_that_cannot_be_are_refused() -> None:
    one = np.ones((1, 1))
    with pytest.raises(ValueError, match=r"logged: found 0\.0 to 0\.0, expected above 0"):
        Draws(one, 0 * one, one, np.zeros(1, int))
    with pytest.raises(ValueError, match=r"target has shape \(1, 2\), expected \(1, 1\)"):
        Draws(one, one, np.ones((1, 2)), np.zeros(1, int))
    with pytest.raises(ValueError, match="expected both or none"):
        Draws(one, one, one, np.zeros(1, int), predicted=one)
