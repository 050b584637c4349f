"""The heavy ranker on Ray Train: two workers, histories from the lake, and what it leaves for a release."""

from pathlib import Path

import numpy as np
import polars as pl
from rank_world import stored, training_rows
from safetensors.numpy import load_file

from reco_ray.config import ClusterConfig, NeuralConfig
from reco_ray.hashing import item_keys
from reco_ray.lake import tables
from reco_ray.rank.neural.stage import CALIBRATION_FILE, MODEL_FILE, About
from reco_ray.rank.neural.trainer import Items, train_neural_ranker


def test_two_workers_train_one_model_and_write_what_a_release_takes(ray_cluster: str, tmp_path: Path) -> None:
    rows = training_rows(120)
    given = stored(tmp_path, rows)
    users = rows.group_by("user_id", maintain_order=True).agg(pl.col("item_id").head(4).alias("history"))
    users = users.with_columns(weights=pl.Series([[1.0, 0.5, 0.5, 1.0]] * users.height), snapshot=pl.lit("made-fit"))
    tables.replace(str(tmp_path), "features_users", users.to_arrow().to_reader(), "snapshot IN ('made-fit')")
    keys = np.sort(item_keys(rows["item_id"].unique()))
    vectors = np.random.default_rng(0).normal(size=(keys.size, 6)).astype(np.float32)
    epochs: list[dict[str, float]] = []
    config = NeuralConfig(embedding_size=4, history=3, cross_rank=4, hidden_size=8, dropout=0, learning_rate=1e-2, epochs=4)
    result = train_neural_ranker(
        given,
        Items(keys, vectors, ["mf"], "made-fit"),
        config,
        ClusterConfig(train_workers=2),
        *(3, "made", str(tmp_path / "train"), tmp_path, epochs.append),
    )
    assert result.epochs == len(epochs) == 4
    assert epochs[-1]["loss"] < epochs[0]["loss"]
    assert result.valid_ndcg10 == epochs[-1]["valid_ndcg10"] > 0.6
    assert result.ece_after < result.ece_before
    assert load_file(tmp_path / MODEL_FILE)["item.weight"].shape == (4, 6)
    assert About.load(tmp_path).vectors == ["mf"]
    assert (tmp_path / CALIBRATION_FILE).is_file()
