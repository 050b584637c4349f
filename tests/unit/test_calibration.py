"""Calibration: chances that come true, in the order of the scores, kept without pickle."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st

from reco_ray.errors import ArtifactError
from reco_ray.rank.calibration import CALIBRATION_FILE, Calibration, expected_error, fit_calibration, reliability
from reco_ray.rank.trainer import calibrate


def world(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, what came, and its true chance."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=n).astype(np.float32)
    chance = 0.3 / (1 + np.exp(-3 * scores.astype(np.float64)))
    return scores, rng.random(n) < chance, chance


def test_chances_come_true_on_what_was_not_fitted() -> None:
    scores, taken, _ = world(20_000, 0)
    fresh, came, truth = world(20_000, 1)
    found = fit_calibration(scores, taken).probabilities(fresh)
    before = expected_error(1 / (1 + np.exp(-fresh.astype(np.float64))), came)
    assert expected_error(found, came) < 0.02 < 0.2 < before
    assert np.abs(found - truth).mean() < 0.02
    said, came_true, n = reliability(found, came)
    assert n.sum() == 20_000
    np.testing.assert_allclose(said, came_true, atol=0.04)


@given(st.lists(st.tuples(st.floats(-10, 10, width=32), st.booleans()), min_size=1, max_size=40))
def test_chances_rise_with_the_scores_and_keep_their_mean(pairs: list[tuple[float, bool]]) -> None:
    scores, taken = np.array([s for s, _ in pairs], np.float32), np.array([t for _, t in pairs])
    found = fit_calibration(scores, taken)
    chances = found.probabilities(np.sort(scores))
    assert (np.diff(chances) >= 0).all()
    assert ((chances >= 0) & (chances <= 1)).all()
    if found.scores.size == 1:
        np.testing.assert_allclose(chances, taken.mean())


def test_what_is_saved_is_loaded_and_what_is_broken_is_refused(tmp_path: Path) -> None:
    assert Calibration.load(tmp_path) is None
    scores, taken, _ = world(500, 2)
    kept = fit_calibration(scores, taken)
    kept.save(tmp_path)
    found = Calibration.load(tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found.probabilities(scores), kept.probabilities(scores))
    assert np.isnan(found.probabilities(np.array([np.nan], np.float32))).all()
    for content, said in (
        ({"format": 2}, "found format 2, expected 1; train the ranker anew"),
        ({"format": 1, "scores": [1, 0], "chances": [0, 1]}, "knots that do not rise"),
        ({"format": 1, "scores": [0, 1], "chances": [0, 2]}, "expected 0 to 1"),
        ({"format": 1, "scores": [0]}, "chances"),
        ({"format": 1, "scores": [0], "chances": []}, "expected as many"),
    ):
        (tmp_path / CALIBRATION_FILE).write_text(json.dumps(content))
        with pytest.raises(ArtifactError, match=said):
            Calibration.load(tmp_path)


def test_a_ranker_is_calibrated_on_held_out_users(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    x = rng.random((6_000, 2), np.float32)
    label = (rng.random(6_000) < 0.3 * x[:, 0]).astype(np.int32)
    matrix = xgboost.DMatrix(x[:3_000], label=label[:3_000], qid=np.repeat(np.arange(100), 30))
    xgboost.train({"objective": "rank:ndcg", "max_depth": 2}, matrix, 20).save_model(str(tmp_path / "ranker.ubj"))
    users = [f"u{i // 30}" for i in range(3_000, 6_000)]
    held_out = pl.DataFrame({"user_id": users, "label": label[3_000:], "features": x[3_000:].tolist()})
    before, after = calibrate(held_out, 0, tmp_path)
    assert after < 0.05 < before
    assert Calibration.load(tmp_path) is not None
    assert np.isnan(calibrate(held_out.head(30), 0, tmp_path)).all(), "one user cannot be halved"
