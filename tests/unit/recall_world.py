"""The checkerboard's events as training takes them, and factors that fit it."""

import polars as pl

from reco_ray.config import MfConfig
from reco_ray.features import Catalogue
from reco_ray.recall.training.chunks import Chunk, pack

__all__ = ["FACTORS", "packed"]

FACTORS = MfConfig(factors=2, regularization=1.0)  # one for each taste


def packed(events: pl.DataFrame, catalogue: Catalogue) -> Chunk:
    """Everybody's events in order."""
    ordered = events.group_by("user_id", maintain_order=True)
    lists = ordered.agg(pl.col("item_id").alias("item_ids"), pl.col("strength").cast(pl.Float32).alias("strengths"))
    return pack(lists, catalogue.keys, 0, 7)
