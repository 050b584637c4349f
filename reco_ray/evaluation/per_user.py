"""The served lists' metrics of each user, kept beside the report, so that two releases can be compared over the same users.

The file has a column ``user_id``: an erasure takes the user's row out, as from every Parquet file under ``root``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reco_ray.evaluation.lists import StageLists
from reco_ray.evaluation.metrics import hit_rate_at_k, ndcg_at_k, recall_at_k, reciprocal_rank_at_k

__all__ = ["HISTORY", "PER_USER", "per_user_metrics", "same_users", "write_per_user"]

PER_USER = "per_user.parquet"
HISTORY = "history"
"""How many items a user's request carried."""


def per_user_metrics(answered: StageLists, stage: str, k: int) -> dict[str, NDArray[np.float64]]:
    """ndcg, recall, mrr and hit_rate of a stage's lists, and `HISTORY` where it was counted, each of shape (U,)."""
    lists, relevant = answered.lists[stage], answered.relevant
    counted = {HISTORY: answered.history.astype(np.float64)} if answered.history.size == len(lists) else {}
    return counted | {
        "ndcg": ndcg_at_k(lists, relevant, k),
        "recall": recall_at_k(lists, relevant, k),
        "mrr": reciprocal_rank_at_k(lists, relevant, k),
        "hit_rate": hit_rate_at_k(lists, relevant, k),
    }


def write_per_user(folder: Path, users: Sequence[str], metrics: Mapping[str, NDArray[np.float64]]) -> None:
    """Write `PER_USER` into a folder.

    Raises: ValueError: another number of users than of values.
    """
    if any(len(values) != len(users) for values in metrics.values()):
        raise ValueError(f"per-user metrics: found {len(users)} users and {[len(v) for v in metrics.values()]} values")
    pl.DataFrame({"user_id": list(users), **metrics}, schema_overrides={"user_id": pl.String}).write_parquet(folder / PER_USER)


def same_users(
    one: pl.DataFrame, other: pl.DataFrame, metric: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None]:
    """A metric of the users that both hold, and the length of their histories in the first, in the same order, shape (U,) each.

    The histories are None where they were not kept.
    """
    kept = [name for name in (HISTORY,) if name in one.columns]
    both = one.select("user_id", metric, *kept).join(other.select("user_id", pl.col(metric).alias("other")), on="user_id")
    both = both.sort("user_id")
    ours, theirs, *history = (both[name].to_numpy().astype(np.float64) for name in (metric, "other", *kept))
    return ours, theirs, history[0] if history else None
