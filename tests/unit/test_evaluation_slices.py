"""Slices say for whom a stage does worse, and AUC how well scores order candidates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reco_ray.evaluation import auc, by_category, by_cohort, by_history, by_popularity, unpaired_difference
from reco_ray.lake.cohorts import NOT_TOLD


def rows(*each: list[int]) -> list[np.ndarray]:  # type: ignore[type-arg]
    return [np.array(one, np.int32) for one in each]


def test_thirds_of_the_users_are_compared_with_the_others() -> None:
    history = np.arange(90)
    ndcg = np.where(history < 30, 0.1, 0.4)
    short, middle, long = by_history("recall", ndcg, history, 0, 200)
    assert [part.users for part in (short, middle, long)] == [30, 30, 30]
    assert short.value.mean == pytest.approx(0.1)
    assert short.delta.mean == pytest.approx(-0.3)
    assert short.delta.excludes_zero
    assert middle.delta.mean == pytest.approx(0.4 - 0.25)
    assert long.name == "more than 59 items"


def test_users_with_equal_histories_are_one_part_and_nobody_is_counted_twice() -> None:
    parts = by_history("recall", np.full(12, 0.2), np.full(12, 7), 0, 50)
    assert [(part.name, part.users) for part in parts] == [("up to 7 items", 12)]
    assert np.isnan(parts[0].delta.mean), "there are no others"


def test_items_are_divided_by_their_events_and_new_ones_stand_apart() -> None:
    events = np.array([100, 50, 5, 4, 3, 2, 1, 1, 1, 0])
    lists = rows([0, 1], [0, 5], [1, 3])
    relevant = rows([0, 2], [1, 9], [12, 3])
    head, rest, new = by_popularity("+rerank", lists, relevant, events, 2, 0, 50)
    assert (head.users, head.value.mean) == (2, 0.5)
    assert (rest.users, rest.value.mean) == (2, 0.5)
    assert (new.users, new.value.mean) == (2, 0.0), "an item past the catalogue is new"
    assert new.delta.mean == pytest.approx(-0.5)


def test_cohorts_are_compared_with_the_others_who_told_and_small_ones_are_not_shown() -> None:
    cohorts = ["old"] * 30 + ["young"] * 20 + ["few"] * 19 + [NOT_TOLD] * 40
    ndcg = np.array([0.1] * 30 + [0.5] * 20 + [0.8] * 19 + [0.0] * 40)
    silent, old, young = by_cohort("+rerank", ndcg, "age", cohorts, 0, 50)
    assert (old.of, old.name, old.users, young.name, young.users) == ("users by age", "old", 30, "young", 20)
    assert old.value.mean == pytest.approx(0.1)
    assert young.delta.mean == pytest.approx(0.5 - (30 * 0.1 + 19 * 0.8) / 49), "those who are not shown are among the others"
    assert (silent.name, silent.users) == (NOT_TOLD, 40)
    assert silent.delta.mean == pytest.approx(-(30 * 0.1 + 20 * 0.5 + 19 * 0.8) / 69)


def test_items_are_divided_by_category_and_one_may_be_in_two() -> None:
    in_category = np.array([[1, 0], [1, 1], [0, 1], [0, 0]], np.float32)
    lists, relevant = rows([0, 3], [2, 3]), rows([0, 2, 9], [1, 3])
    first, second = by_category("recall", lists, relevant, in_category, ["bread", "milk"], 2, 0, 50)
    assert (first.of, first.name, first.users, first.value.mean) == ("items by category", "bread", 2, 0.5)
    assert first.delta.mean == pytest.approx(0.5 - (0 + 1) / 2), "an item past the catalogue is in none"
    assert (second.name, second.users, second.value.mean) == ("milk", 2, 0.0)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=20))
def test_auc_is_the_share_of_pairs_in_order(candidates: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in candidates], np.float32)
    relevant = np.array([right for _, right in candidates])
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[relevant] for b in scores[~relevant]]
    assert auc(scores, relevant) == (pytest.approx(np.mean(pairs)) if pairs else pytest.approx(np.nan, nan_ok=True))


def test_the_interval_of_a_difference_covers_it_and_one_value_has_none() -> None:
    rng = np.random.default_rng(0)
    found = unpaired_difference(rng.normal(1, 1, 400), np.append(rng.normal(0, 1, 300), np.nan), 0, 300)
    assert found.low < 1 < found.high
    assert not unpaired_difference(np.array([1.0]), np.zeros(5), 0).known
