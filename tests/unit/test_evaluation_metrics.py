"""Metrics: hand-computed cases, and the laws that hold for any lists."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from reco_ray.evaluation.metrics import (
    catalogue_coverage,
    gini,
    hit_rate_at_k,
    intra_list_diversity,
    ndcg_at_k,
    novelty,
    recall_at_k,
    reciprocal_rank_at_k,
)

Lists = list[NDArray[np.int32]]

ACCURACY = (recall_at_k, ndcg_at_k, reciprocal_rank_at_k, hit_rate_at_k)
N_ITEMS = 30

_items = st.lists(st.integers(0, N_ITEMS - 1), unique=True, max_size=15)
_worlds = st.lists(st.tuples(_items, _items.filter(bool)), min_size=1, max_size=6)
_lengths = st.integers(1, 12)


def _ints(*lists: list[int]) -> Lists:
    return [np.array(items, np.int32) for items in lists]


def _split(world: list[tuple[list[int], list[int]]]) -> tuple[Lists, Lists]:
    return _ints(*(r for r, _ in world)), _ints(*(w for _, w in world))


def test_accuracy_metrics_agree_with_a_case_computed_by_hand() -> None:
    recommended, relevant = _ints([5, 1, 2, 9], [7, 8]), _ints([1, 9, 4], [3])
    np.testing.assert_allclose(recall_at_k(recommended, relevant, 4), [2 / 3, 0])
    np.testing.assert_allclose(recall_at_k(recommended, relevant, 2), [1 / 3, 0])
    np.testing.assert_allclose(reciprocal_rank_at_k(recommended, relevant, 4), [1 / 2, 0])
    np.testing.assert_allclose(hit_rate_at_k(recommended, relevant, 4), [1, 0])
    dcg = 1 / math.log2(3) + 1 / math.log2(5)
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    np.testing.assert_allclose(ndcg_at_k(recommended, relevant, 4), [dcg / ideal, 0])


def test_ndcg_measures_against_no_more_relevant_items_than_the_list_has_places() -> None:
    assert ndcg_at_k(_ints([1, 2]), _ints([1, 2, 3, 4, 5]), 2) == pytest.approx([1.0])


def test_graded_ndcg_weighs_items_by_their_gain() -> None:
    gains = [np.array([1.0, 3.0], np.float32)]
    found = ndcg_at_k(_ints([4, 9]), _ints([4, 9]), 2, gains)
    expected = (1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3))
    np.testing.assert_allclose(found, [expected])
    np.testing.assert_allclose(ndcg_at_k(_ints([9, 4]), _ints([4, 9]), 2, gains), [1.0])


def test_graded_ndcg_is_undefined_for_a_user_without_any_gain() -> None:
    gains = [np.zeros(1, np.float32), np.ones(1, np.float32)]
    found = ndcg_at_k(_ints([4], [4]), _ints([4], [4]), 2, gains)
    np.testing.assert_array_equal(found, [np.nan, 1.0])


@given(_worlds, _lengths)
def test_accuracy_metrics_lie_between_0_and_1(world: list[tuple[list[int], list[int]]], k: int) -> None:
    recommended, relevant = _split(world)
    for metric in ACCURACY:
        values = metric(recommended, relevant, k)
        assert values.shape == (len(world),)
        assert (values >= 0).all()
        assert (values <= 1).all()


@given(_worlds)
def test_accuracy_metrics_are_1_on_the_ideal_order(world: list[tuple[list[int], list[int]]]) -> None:
    _, relevant = _split(world)
    for metric in ACCURACY:
        np.testing.assert_array_equal(metric(relevant, relevant, 15), np.ones(len(world)))


@given(_worlds, st.data())
def test_graded_ndcg_is_1_when_items_are_sorted_by_gain(world: list[tuple[list[int], list[int]]], data: st.DataObject) -> None:
    _, relevant = _split(world)
    gains = [np.array(data.draw(st.lists(st.integers(1, 5), min_size=r.size, max_size=r.size)), np.float32) for r in relevant]
    ideal = [r[np.argsort(-g, kind="stable")] for r, g in zip(relevant, gains, strict=True)]
    k = data.draw(_lengths)
    np.testing.assert_allclose(ndcg_at_k(ideal, relevant, k, gains), 1.0)


@given(_worlds, _lengths)
def test_items_beyond_k_change_nothing(world: list[tuple[list[int], list[int]]], k: int) -> None:
    recommended, relevant = _split(world)
    cut = [items[:k] for items in recommended]
    counts, categories = np.arange(N_ITEMS), np.eye(N_ITEMS, 4, dtype=np.float32)
    for metric in ACCURACY:
        np.testing.assert_array_equal(metric(recommended, relevant, k), metric(cut, relevant, k))
    np.testing.assert_array_equal(novelty(recommended, counts, k), novelty(cut, counts, k))
    np.testing.assert_array_equal(intra_list_diversity(recommended, categories, k), intra_list_diversity(cut, categories, k))
    assert catalogue_coverage(recommended, N_ITEMS, k) == catalogue_coverage(cut, N_ITEMS, k)


@given(_worlds, _lengths, st.integers(0, 999))
def test_permuting_the_users_permutes_their_values(world: list[tuple[list[int], list[int]]], k: int, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(world))
    recommended, relevant = _split(world)
    moved, wanted = [recommended[i] for i in order], [relevant[i] for i in order]
    for metric in ACCURACY:
        np.testing.assert_array_equal(metric(moved, wanted, k), metric(recommended, relevant, k)[order])
    np.testing.assert_equal(gini(moved, N_ITEMS, k), gini(recommended, N_ITEMS, k))


@given(_worlds, _lengths)
def test_vectorised_ndcg_agrees_with_a_loop(world: list[tuple[list[int], list[int]]], k: int) -> None:
    recommended, relevant = _split(world)
    expected = [
        sum(1 / math.log2(place + 2) for place, item in enumerate(items[:k]) if item in wanted)
        / sum(1 / math.log2(place + 2) for place in range(min(k, len(wanted))))
        for items, wanted in world
    ]
    np.testing.assert_allclose(ndcg_at_k(recommended, relevant, k), expected, rtol=1e-12)


def test_metrics_of_no_users_are_empty() -> None:
    assert [metric([], [], 5).shape for metric in ACCURACY] == [(0,)] * 4


def test_novelty_is_the_mean_self_information_and_undefined_for_an_empty_list() -> None:
    counts = np.array([3, 0, 1])  # with one added each: 4/7, 1/7, 2/7
    found = novelty(_ints([1, 2], [0], []), counts, 10)
    np.testing.assert_allclose(found, [(math.log2(7) + math.log2(7 / 2)) / 2, math.log2(7 / 4), np.nan])


def test_diversity_is_0_for_equal_items_1_for_unrelated_ones_and_undefined_below_two() -> None:
    categories = np.array([[2, 0], [1, 0], [0, 3], [1, 1], [0, 0]], np.float32)
    found = intra_list_diversity(_ints([0, 1], [0, 2], [0, 3], [0, 4], [0], []), categories, 5)
    np.testing.assert_allclose(found, [0, 1, 1 - math.sqrt(0.5), 1, np.nan, np.nan], atol=1e-12)


@given(st.lists(_items, min_size=1, max_size=5), _lengths, st.integers(0, 99))
def test_diversity_is_one_minus_the_mean_cosine_of_all_pairs(lists: list[list[int]], k: int, seed: int) -> None:
    categories = np.random.default_rng(seed).random((N_ITEMS, 3)).astype(np.float32)
    unit = categories.astype(float) / np.linalg.norm(categories.astype(float), axis=1, keepdims=True)
    for items, found in zip(lists, intra_list_diversity(_ints(*lists), categories, k), strict=True):
        head = items[:k]
        pairs = [unit[a] @ unit[b] for a in head for b in head if a != b]
        np.testing.assert_allclose(found, 1 - np.mean(pairs) if pairs else np.nan, atol=1e-6)


def test_coverage_counts_distinct_items_over_all_lists() -> None:
    assert catalogue_coverage(_ints([0, 1, 2], [1, 3]), 10, 2) == pytest.approx(0.3)


def test_gini_is_0_for_equal_exposure_and_near_1_when_one_item_has_all() -> None:
    assert gini(_ints([0, 1], [2, 3]), 4, 2) == pytest.approx(0.0)
    assert gini(_ints([0], [0], [0]), 100, 1) == pytest.approx(0.99)
    assert gini(_ints([0, 1], [0]), 2, 2) == pytest.approx(1 / 6)
    assert math.isnan(gini(_ints([]), 4, 2))


def test_wrong_input_is_refused_with_a_reason() -> None:
    one = _ints([1])
    with pytest.raises(ValueError, match="k is 0"):
        recall_at_k(one, one, 0)
    with pytest.raises(ValueError, match="1 lists and 2 users"):
        recall_at_k(one, _ints([1], [2]), 5)
    with pytest.raises(ValueError, match="user 1 has no relevant item"):
        recall_at_k(_ints([1], [1]), _ints([1], []), 5)
    with pytest.raises(ValueError, match="recommended: found an item twice"):
        recall_at_k(_ints([1, 1]), one, 5)
    with pytest.raises(ValueError, match="relevant: found an item twice"):
        recall_at_k(one, _ints([1, 1]), 5)
    with pytest.raises(ValueError, match="recommended: found row -1"):
        recall_at_k(_ints([2, -1]), one, 5)
    with pytest.raises(ValueError, match="relevant: found row -1"):
        recall_at_k(one, _ints([-1]), 5)
    with pytest.raises(ValueError, match="one gain for each relevant item"):
        ndcg_at_k(one, one, 5, [np.ones(2, np.float32)])
    with pytest.raises(ValueError, match="negative or non-finite"):
        ndcg_at_k(one, one, 5, [np.array([-1.0], np.float32)])
