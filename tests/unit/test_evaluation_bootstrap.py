"""Bootstrap intervals: they cover, they pair, they are reproducible."""

import math

import numpy as np
import pytest

from reco_ray.evaluation.bootstrap import Interval, confidence_interval, paired_difference


def test_an_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        found = confidence_interval(rng.exponential(1.0, 150), seed=trial, n=300, confidence=0.9)
        covered += found.low <= 1.0 <= found.high
    # 90 % of 200 with a standard error of 2 %, less the percentile method's slight optimism on skewed data
    assert 0.82 <= covered / 200 <= 0.97


def test_an_interval_agrees_with_the_normal_one_on_many_users() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 4000)
    found = confidence_interval(values, seed=1, n=2000)
    half = 1.96 * values.std() / math.sqrt(4000)
    assert found.mean == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    values = np.random.default_rng(2).random(50)
    assert confidence_interval(values, seed=3) == confidence_interval(values, seed=3)
    assert confidence_interval(values, seed=3) != confidence_interval(values, seed=4)


def test_undefined_users_are_left_out() -> None:
    values = np.array([1.0, np.nan, 2.0, 4.0, np.nan])
    assert confidence_interval(values, seed=5) == confidence_interval(np.array([1.0, 2.0, 4.0]), seed=5)


def test_too_few_users_give_a_mean_without_an_interval() -> None:
    single, none = confidence_interval(np.array([0.5]), seed=0), confidence_interval(np.array([np.nan]), seed=0)
    assert single.mean == 0.5
    assert not single.known
    assert math.isnan(none.mean)
    assert not none.excludes_zero


def test_equal_users_give_an_interval_of_no_width() -> None:
    assert confidence_interval(np.full(20, 0.25), seed=0) == Interval(0.25, 0.25, 0.25)


def test_a_paired_difference_is_narrower_than_the_unpaired_one_on_correlated_data() -> None:
    rng = np.random.default_rng(6)
    ease = rng.normal(0.0, 1.0, 400)
    a, b = ease + rng.normal(0.1, 0.1, 400), ease + rng.normal(0.0, 0.1, 400)
    paired = paired_difference(a, b, seed=6)
    one, other = confidence_interval(a, seed=6), confidence_interval(b, seed=7)
    unpaired = math.hypot(one.high - one.low, other.high - other.low)
    assert paired.mean == pytest.approx(a.mean() - b.mean())
    assert paired.high - paired.low < 0.25 * unpaired
    assert paired.excludes_zero


def test_a_difference_of_stages_that_are_alike_does_not_exclude_zero() -> None:
    rng = np.random.default_rng(8)
    a = rng.random(300)
    assert paired_difference(a, a, seed=8) == Interval(0.0, 0.0, 0.0)
    assert not paired_difference(a, a + rng.permutation(np.tile([-0.1, 0.1], 150)), seed=8).excludes_zero


def test_a_loss_excludes_zero_as_well_as_a_gain() -> None:
    assert Interval(-2.0, -3.0, -1.0).excludes_zero
    assert Interval(2.0, 1.0, 3.0).excludes_zero
    assert not Interval(1.0, 0.0, 2.0).excludes_zero


def test_wrong_arguments_are_refused_with_a_reason() -> None:
    with pytest.raises(ValueError, match="same users in both"):
        paired_difference(np.zeros(3), np.zeros(4), seed=0)
    with pytest.raises(ValueError, match=r"confidence=1\.5"):
        confidence_interval(np.zeros(3), seed=0, confidence=1.5)
    with pytest.raises(ValueError, match="n=0"):
        confidence_interval(np.zeros(3), seed=0, n=0)
