"""A search over the ranker's settings keeps the trials that ended, and its best is judged by groups that did not choose it."""

from pathlib import Path

import numpy as np
import pytest
import xgboost
from rank_world import stored, training_rows

from reco_ray.config import ClusterConfig, RankConfig, TuneConfig
from reco_ray.errors import DataError
from reco_ray.rank.tuner import ndcg, search


def test_a_search_that_runs_again_makes_no_trial_twice(ray_cluster: str, tmp_path: Path) -> None:
    given = stored(tmp_path, training_rows(400))

    def found():  # type: ignore[no-untyped-def]
        storage = str(tmp_path / "train")
        # settings that learn next to nothing, so that any draw is better
        config = RankConfig(rounds=50, learning_rate=1e-6, max_depth=1)
        return search(given, config, TuneConfig(trials=2), ClusterConfig(), 3, "tuned", storage)

    first = found()
    logs = {path: path.read_text() for path in (tmp_path / "train" / "tuned").glob("*/result.json")}
    assert len(logs) == first.trials == 2
    assert set(first.best) == {"max_depth", "learning_rate", "min_child_weight", "colsample"}
    assert 20 < len(first.tuned) == len(first.configured) < given.held_out_groups
    assert first.tuned.mean() > first.configured.mean()
    again = found()
    assert {path: path.read_text() for path in logs} == logs
    assert again.best == first.best
    np.testing.assert_array_equal(again.tuned, first.tuned)


def test_too_few_held_out_groups_tell_nothing_apart(tmp_path: Path) -> None:
    given = stored(tmp_path, training_rows(30))
    with pytest.raises(DataError, match=r"found \d held-out groups, expected at least 40"):
        search(given, RankConfig(), TuneConfig(), ClusterConfig(), 3, "few", str(tmp_path))


def test_ndcg_is_that_of_xgboost() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 4, 30), rng.normal(size=30).astype(np.float32)
    matrix = xgboost.DMatrix(np.zeros((30, 1)), label=labels, qid=np.zeros(30, np.int32), base_margin=scores)
    said = str(xgboost.Booster({"objective": "rank:ndcg", "eval_metric": "ndcg@10"}, [matrix]).eval(matrix))
    assert ndcg(labels, scores) == pytest.approx(float(said.rsplit(":", 1)[1]), abs=1e-6)
