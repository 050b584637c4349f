"""Assemble the three stages into one folder: for a release, and in just the same way for training and evaluation."""

from pathlib import Path

import polars as pl

from reco_ray import rank, recall, rerank
from reco_ray.config import RecallConfig, RerankConfig
from reco_ray.features import Catalogue

__all__ = ["assemble"]


def assemble(
    folder: Path,
    items: pl.DataFrame,
    item_rows: pl.DataFrame,
    users: pl.DataFrame,
    pairs: pl.DataFrame,
    recall_config: RecallConfig,
    rerank_config: RerankConfig,
    models: Path | None,
    ranker: Path | None,
    neural: Path | None = None,
    policy: rank.RankerPolicy | None = None,
) -> None:
    """Write all stages into an empty folder.

    Args:
        items: rows of `schema.ITEMS`.
        item_rows, users, pairs: of one snapshot; it decides what the stages know. Of users, a sample will do.
        models, ranker, neural: folders of the trained embedding models, the ranker and the heavy ranker; None where the release
            has none.
        policy: of a release with both rankers.
    """
    catalogue = Catalogue.build(items, item_rows)
    recall.build(folder, catalogue, items, users, pairs, models, recall_config, rerank_config.seen_items_return)
    rank.build(folder, ranker, neural, policy)
    rerank.build(folder, rerank_config)
    rerank.write_popular(folder, catalogue, rerank_config)
