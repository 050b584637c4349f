"""Determinantal point processes and calibration: what they maximise, that the knob turns, and that bounds and caps hold."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from reco_ray.config import Diversify, RerankConfig
from reco_ray.rerank.greedy import Calibrated, Dpp, greedy
from reco_ray.rerank.policy import Scored, make_policy
from reco_ray.rules import Bounds
from reco_ray.rules.bounds import Terms

NONE = np.full(12, -1)
SCORES = np.linspace(1.5, -1.5, 12).astype(np.float32)
KINDS = np.eye(3, dtype=np.float32)[[0, 0, 0, 0, 0, 1, 0, 1, 2, 1, 2, 2]]


def log_det(items: tuple[int, ...], diversity: float) -> float:
    quality = np.exp(SCORES[list(items)].astype(float) / 2)
    alike = diversity * KINDS[list(items)] @ KINDS[list(items)].T
    np.fill_diagonal(alike, 1.0)
    return float(np.linalg.slogdet(quality[:, None] * alike * quality)[1])


def test_each_pick_is_the_one_with_the_largest_determinant() -> None:
    picked = greedy(Dpp(SCORES, KINDS, 0.9, 12), NONE, 5, 0, None).tolist()
    for place in range(5):
        before = tuple(picked[:place])
        best = max((log_det((*before, i), 0.9), -i) for i in range(12) if i not in before)
        assert log_det(tuple(picked[: place + 1]), 0.9) == pytest.approx(best[0], abs=1e-5)


def test_greedy_picks_come_near_the_best_set() -> None:
    picked = tuple(greedy(Dpp(SCORES, KINDS, 0.9, 12), NONE, 3, 0, None).tolist())
    best = max(log_det(items, 0.9) for items in itertools.combinations(range(12), 3))
    assert log_det(picked, 0.9) > best - 0.2


def kl(picked: NDArray[np.int64], mix: NDArray[np.float32]) -> float:
    shares = KINDS[picked].mean(axis=0) * 0.99 + 0.01 * mix
    return float(mix @ np.log(mix / shares))


def test_a_calibrated_slate_has_the_shares_of_the_history() -> None:
    mix = np.array([0.5, 0.25, 0.25], np.float32)
    plain, calibrated = (greedy(Calibrated(SCORES, KINDS, mix, d, 12), NONE, 8, 0, None) for d in (0.0, 0.98))
    assert plain.tolist() == list(range(8))
    assert KINDS[calibrated].mean(axis=0).tolist() == [0.5, 0.25, 0.25]
    assert kl(calibrated, mix) < kl(plain, mix)
    unknown = greedy(Calibrated(SCORES, KINDS, np.zeros(3, np.float32), 0.9, 12), NONE, 8, 0, None)
    assert unknown.tolist() == list(range(8))


@pytest.mark.parametrize("kind", list(Diversify))
def test_the_knob_trades_score_for_variety(kind: Diversify) -> None:
    def slate(diversity: float) -> NDArray[np.int64]:
        config = RerankConfig(diversify=kind, diversity=diversity)
        mix, keys = np.full(3, 1 / 3, np.float32), np.arange(12, dtype=np.uint64)
        scored = Scored(SCORES, keys, np.ones(12, int), KINDS, np.arange(12))
        return make_policy(config, scored, 4, explores=False, mix=mix)[1].arranged

    slates = [slate(d) for d in (0.0, 0.3, 0.9)]
    scores = [float(SCORES[s].sum()) for s in slates]
    variety = [int(KINDS[s].any(axis=0).sum()) for s in slates]
    assert slates[0].tolist() == [0, 1, 2, 3]
    assert scores == sorted(scores, reverse=True)
    assert variety == sorted(variety)
    assert variety[-1] == 3


@given(
    st.sampled_from(["dpp", "calibrated"]),
    st.floats(0, 1),
    st.integers(1, 14),
    st.integers(0, 2),
    st.integers(1, 12),
    st.booleans(),
)
def test_picks_are_distinct_and_keep_to_caps_and_bounds(
    kind: str, diversity: float, k: int, cap: int, window: int, bound: bool
) -> None:
    scores = SCORES.copy()
    scores[3] = np.nan
    mix = np.array([0.2, 0.2, 0.6], np.float32)
    gains = Dpp(scores, KINDS, diversity, window) if kind == "dpp" else Calibrated(scores, KINDS, mix, diversity, window)
    bounds = Bounds(np.zeros((12, 0), np.uint8), np.zeros(12, bool), None, None, Terms(), [(1, 7, "pin")], k) if bound else None
    main = KINDS.argmax(axis=1)
    picked = greedy(gains, main, k, cap, bounds)
    assert picked.size == min(k, 12) == len(set(picked.tolist()))
    if bound and k > 1:
        assert picked[1] == 7
    elif cap:
        assert np.bincount(main[picked[: 3 * cap]]).max() <= cap
