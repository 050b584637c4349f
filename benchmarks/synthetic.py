"""The synthetic case of the benchmarks: a release and users of a given size, without training data.

100,000 items with vectors of 64 dimensions, 500 candidates with 34 features, 200 trees of depth 6: the weights are random, the
formats, stages and costs are those of any release.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
import torch
import xgboost
from numpy.typing import NDArray

from reco_ray.config import FeaturesConfig, RecallConfig, RerankConfig, SourceName, TwoTowerConfig
from reco_ray.features import ITEM_COLUMNS, USER_COLUMNS, Catalogue
from reco_ray.hashing import item_keys
from reco_ray.rank.stage import COLUMNS_FILE, MODEL_FILE, VOCABULARY_FILE, rank_features
from reco_ray.recall.sources.segments import NOBODY
from reco_ray.recall.sources.two_tower import item_inputs, save_weights
from reco_ray.recall.training.tower import TwoTower
from reco_ray.release import assemble, release_uri, seal
from reco_ray.types import UserRow

__all__ = ["USER_VIEW", "publish", "publish_items", "seal_release", "users"]

USER_VIEW = "bench"
_CATEGORIES = 10


def publish(
    root: str,
    release_id: str,
    items: int = 100_000,
    candidates: int = 500,
    trees: int = 200,
    depth: int = 6,
    quotas: Mapping[SourceName, int] | None = None,
) -> Path:
    """Publish a release of this size under ``root``.

    Args:
        quotas: of the recall sources; by default all candidates come from the two towers.
    """
    rng = np.random.default_rng(0)
    ids = [f"item-{i}" for i in range(items)]
    table = pl.DataFrame(
        {
            "item_id": ids,
            "title": [f"Title {i}" for i in range(items)],
            "categories": [[f"c{j}" for j in row] for row in rng.integers(0, _CATEGORIES, (items, 2)).tolist()],
            "year": rng.integers(1980, 2026, items).astype(np.int32),
            "available": np.ones(items, bool),
        }
    )
    counts = rng.zipf(1.3, items).clip(1, 10_000)
    rows = pl.DataFrame({"item_id": ids, "n": counts, "n_positive": counts}).with_columns(
        pl.Series(c.name, rng.random(items, np.float32)) for c in ITEM_COLUMNS
    )
    recall = RecallConfig(quotas=dict(quotas or {SourceName.two_tower: candidates}), candidates=candidates)
    made_ts = "2026-01-01T00:00:00+00:00"
    return publish_items(root, release_id, table, rows, recall, RerankConfig(), _any_label, trees, depth, made_ts)


def publish_items(
    root: str,
    release_id: str,
    table: pl.DataFrame,
    rows: pl.DataFrame,
    recall: RecallConfig,
    rerank: RerankConfig,
    label: Callable[[NDArray[np.float32], list[str], np.random.Generator], NDArray[np.int64]],
    trees: int,
    depth: int,
    made_ts: str,
) -> Path:
    """Publish a release of these items, with towers at random and a ranker trained on rows at random.

    Args:
        table, rows: as `release.assemble` takes them.
        label: grades 0 to 3 of the ranker's rows, from their features, shape (n, F) in [0, 1), and the names of these.
    """
    rng = np.random.default_rng(0)
    target = Path(release_uri(root, release_id))
    parts = target.parent.parent / "parts" / release_id
    for folder in (target, parts):
        folder.mkdir(parents=True)
    catalogue = Catalogue.build(table, rows)
    torch.manual_seed(0)
    id_rows, content = item_inputs(catalogue, catalogue.keys)
    towers = TwoTower(TwoTowerConfig(), int(id_rows.max()), content.shape[1], 50)
    save_weights(parts, {name: tensor.numpy() for name, tensor in towers.state_dict().items()}, catalogue.keys)
    pairs = pl.DataFrame(schema={"a": pl.String, "b": pl.String, "score": pl.Float32})
    assemble(target, table, rows, NOBODY, pairs, recall, rerank, parts, None)
    columns = rank_features(target).columns
    x = rng.random((20_000, len(columns)), np.float32)
    matrix = xgboost.DMatrix(x, label=label(x, columns, rng), qid=np.repeat(np.arange(len(x) // 100), 100))
    model = xgboost.train({"objective": "rank:ndcg", "max_depth": depth, "min_child_weight": 0, "seed": 0}, matrix, trees)
    model.save_model(str(target / MODEL_FILE))
    (target / COLUMNS_FILE).write_text(json.dumps(columns))
    (target / VOCABULARY_FILE).write_text("{}")
    seal_release(target, release_id, made_ts)
    return target


def seal_release(folder: Path, release_id: str, made_ts: str) -> None:
    """Write the manifest of a synthetic release."""
    seal(folder, release_id, USER_VIEW, {"made_ts": made_ts, "synthetic": True, "features": asdict(FeaturesConfig())})


def _any_label(x: NDArray[np.float32], columns: list[str], rng: np.random.Generator) -> NDArray[np.int64]:
    return rng.integers(0, 4, len(x))


def users(n: int, items: int, history: int = 50) -> Iterator[tuple[str, UserRow]]:
    """Users with random histories, and the features that belong to them."""
    rng = np.random.default_rng(1)
    for i in range(n):
        keys = item_keys([f"item-{j}" for j in rng.integers(0, items, history)])
        features = rng.random(len(USER_COLUMNS) + 2 * _CATEGORIES, np.float32)
        yield f"user-{i}", UserRow(keys, np.ones(history, np.float32), np.sort(keys), features, 1)
