"""Score arrays: order, ties, lookups, ragged gathers."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from reco_ray.arrays import best_first, gather_rows, lookup
from reco_ray.hashing import item_keys

floats = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(st.lists(floats, min_size=1, max_size=60), st.integers(1, 70))
def test_top_k_is_the_head_of_the_full_order(values: list[float], k: int) -> None:
    scores = np.array(values, np.float32)
    keys = item_keys([str(i) for i in range(len(values))])
    assert best_first(scores, keys, k).tolist() == best_first(scores, keys)[:k].tolist()


@given(st.lists(floats, min_size=1, max_size=60))
def test_non_finite_scores_sort_last(values: list[float]) -> None:
    scores = np.array(values, np.float32)
    order = best_first(scores, item_keys([str(i) for i in range(len(values))]))
    finite = np.isfinite(scores[order])
    assert finite.tolist() == sorted(finite.tolist(), reverse=True)


def test_ties_break_by_key_and_not_by_position() -> None:
    keys = np.array([30, 10, 20], np.uint64)
    assert best_first(np.zeros(3, np.float32), keys).tolist() == [1, 2, 0]


def test_lookup_finds_what_is_there_and_marks_what_is_not() -> None:
    assert lookup(np.array([2, 5, 9], np.uint64), np.array([9, 1, 2, 99], np.uint64)).tolist() == [2, -1, 0, -1]
    assert lookup(np.empty(0, np.uint64), np.array([1], np.uint64)).tolist() == [-1]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.data())
def test_gather_rows_equals_the_loop(lengths: list[int], data: st.DataObject) -> None:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=10)), np.int64)
    entries, owner = gather_rows(offsets, rows)
    expected = [(e, i) for i, r in enumerate(rows) for e in range(offsets[r], offsets[r + 1])]
    assert list(zip(entries.tolist(), owner.tolist(), strict=True)) == expected
