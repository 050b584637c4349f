"""Which groups a training set has, which of them are held out, and what each weighs."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from reco_ray.errors import DataError
from reco_ray.hashing import unit_interval
from reco_ray.lake.cohorts import NOT_TOLD
from reco_ray.types import MAX_OWN_ITEMS

__all__ = ["balanced", "groups_of_exposures", "groups_of_users"]

_LEAST_SHOWN = 2
_MOST = 5.0


def groups_of_users(labels: pl.DataFrame, share: float, seed: int) -> pl.DataFrame:
    """One group per user; users are held out by a hash of their id, so that no model has seen them.

    Args:
        labels: rows of `schema.LABELS` of the rank part. share: to hold out.
    """
    held_out = [unit_interval(user, f"validation:{seed}") < share for user in labels["user_id"]]
    return labels.with_columns(
        pl.col("user_id").alias("group_id"), pl.Series("held_out", held_out, pl.Boolean), shown=pl.lit(False), weight=1.0
    )


def groups_of_exposures(feedback: pl.DataFrame, exposures: pl.DataFrame, share: float) -> pl.DataFrame:
    """One group per exposure that something followed, in displayed order; the latest of them are held out.

    Args:
        feedback: rows of `schema.FEEDBACK` after the fit part: request_id, user_id, ts, item_id, position, grade, consent.
        exposures: of the same time: request_id, context.
        share: of the exposures to hold out: all from an instant on.
    Raises: DataError: no exposure is of use.
    """
    usable = feedback.filter(pl.col("consent") & (pl.col("user_id") != "") & (pl.col("position") <= MAX_OWN_ITEMS))
    slots = usable.sort("request_id", "position").unique(["request_id", "item_id"], keep="first", maintain_order=True)
    lists = slots.group_by("request_id", maintain_order=True).agg(
        pl.col("user_id", "ts").first(), pl.col("item_id").alias("item_ids"), pl.col("grade").alias("grades")
    )
    of_use = (pl.col("grades").list.max() >= 0.5) & (pl.col("item_ids").list.len() >= _LEAST_SHOWN)
    groups = lists.filter(of_use).join(
        exposures.unique("request_id", keep="first").select("request_id", "context"), on="request_id", how="left"
    )
    if groups.is_empty():
        raise DataError(
            f"rank.groups=exposures: found {lists.height} exposures between the fit and the test part, none of which anything "
            "followed, expected some; run join_feedback, import later events, or use rank.groups=users"
        )
    times = groups["ts"].sort()
    cut = times[min(int(np.ceil(times.len() * (1 - share))), times.len() - 1)]
    return groups.rename({"request_id": "group_id"}).with_columns(held_out=pl.col("ts") >= cut, shown=pl.lit(True), weight=1.0)


def balanced(groups: pl.DataFrame, cohorts: Sequence[str]) -> pl.DataFrame:
    """Weigh groups so that all cohorts of those who told count alike; a small one's groups count five times at most.

    Those who told nothing keep the weight 1: to the others they are no cohort that has more than its share.

    Args:
        cohorts: of the user of each group, or `NOT_TOLD`; only the weights stay.
    """
    named = groups.with_columns(pl.Series("_cohort", cohorts, pl.String))
    told = pl.col("_cohort") != NOT_TOLD
    alike = told.sum() / pl.col("_cohort").filter(told).n_unique() / pl.len().over("_cohort")
    return named.with_columns(weight=pl.when(told).then(alike.clip(upper_bound=_MOST)).otherwise(1.0)).drop("_cohort")
