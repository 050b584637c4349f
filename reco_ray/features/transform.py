"""The one definition of every feature: pure functions over polars frames, called by `flow` for bucket after bucket.

Events come as `prepare` leaves them. Sums run in a fixed order, so that the same events give the same bits.
"""

import math

import numpy as np
import polars as pl

from reco_ray.config import FeaturesConfig
from reco_ray.features.views import LOW_RATING_STRENGTH, STRENGTH
from reco_ray.schema import LABELS

__all__ = ["item_partials", "item_rows", "label_rows", "prepare", "user_rows"]

_DAY_US = 86_400_000_000
_EVENT_COLUMNS = ("user_id", "item_id", "ts", "type", "value", "event_id", "consent")


def prepare(events: pl.DataFrame, config: FeaturesConfig) -> pl.DataFrame:
    """Keep the events that say something for an item, with their strength, ordered by user and time.

    Without consent an event trains nothing. Adds strength in (0, 1] and positive (bool).
    """
    rating = pl.when(pl.col("value") >= config.positive_rating).then(1.0).otherwise(LOW_RATING_STRENGTH)
    known = pl.col("type").replace_strict(STRENGTH, default=0.0, return_dtype=pl.Float64)
    return (
        events.select(_EVENT_COLUMNS)
        .filter("consent")
        .with_columns(pl.when(pl.col("type") == "rating").then(rating).otherwise(known).alias("strength"))
        .filter(pl.col("strength") > 0)
        .with_columns((pl.col("strength") >= 0.5).alias("positive"))
        .sort("user_id", "ts", "event_id")
    )


def user_rows(
    events: pl.DataFrame, items: pl.DataFrame, categories: list[str], as_of: int, config: FeaturesConfig
) -> pl.DataFrame:
    """Compute the user view of every user in ``events``.

    Args:
        events: from `prepare`; all events of each user up to the snapshot.
        items: columns item_id, year, categories.
        as_of: the snapshot's instant, microseconds; counters decay up to it.
    Returns: user_id, history and weights (newest ``config.history``, oldest first), seen, features, as_of.
    """
    events = events.join(items, on="item_id", how="left", maintain_order="left").with_columns(
        decay=_decay(as_of, config.half_life_days), decade=(pl.col("year") - 2000) / 10
    )
    users = events.group_by("user_id", maintain_order=True).agg(
        pl.col("item_id").tail(config.history).alias("history"),
        pl.col("strength").tail(config.history).cast(pl.Float32).alias("weights"),
        pl.col("item_id").tail(config.seen_limit).alias("seen"),
        pl.col("ts").last().dt.epoch("us").alias("as_of"),
        pl.len().cast(pl.Float64).log1p().alias("user_events"),
        (pl.col("decay") * pl.col("strength")).sum().log1p().alias("user_decayed"),
        pl.col("strength").mean().alias("user_strength_mean"),
        pl.col("value").mean().fill_null(0.0).cast(pl.Float64).alias("user_value_mean"),
        pl.col("value").std(ddof=0).fill_null(0.0).cast(pl.Float64).alias("user_value_std"),
        ((pl.col("ts").last() - pl.col("ts").first()).dt.total_seconds() / 86_400).log1p().alias("user_span_days"),
        pl.col("decade").mean().fill_null(0.0).alias("user_year_mean"),
        pl.col("decade").std(ddof=0).fill_null(0.0).alias("user_year_std"),
    )
    taste = _taste(events, users["user_id"], categories)
    scalars = users.select(pl.col("^user_.*$").exclude("user_id")).to_numpy()
    features = np.round(np.concatenate([scalars, taste], axis=1), 5).astype(np.float32)
    return users.select("user_id", "history", "weights", "seen", "as_of").with_columns(
        pl.Series("features", features, dtype=pl.Array(pl.Float32, features.shape[1])).arr.to_list()
    )


def item_partials(events: pl.DataFrame, as_of: int, config: FeaturesConfig) -> pl.DataFrame:
    """Sums per item over some users' events; partial sums of different users add up (`item_rows`)."""
    long, short = _decay(as_of, config.half_life_days), _decay(as_of, config.trending_half_life_days)
    return events.group_by("item_id", maintain_order=True).agg(
        pl.len().cast(pl.Int64).alias("n"),
        pl.col("positive").sum().cast(pl.Int64).alias("n_positive"),
        (long * pl.col("strength")).sum().alias("decayed"),
        (short * pl.col("strength")).sum().alias("trending"),
        pl.col("value").count().cast(pl.Int64).alias("n_value"),
        pl.col("value").cast(pl.Float64).sum().alias("value_sum"),
        (pl.col("value").cast(pl.Float64) ** 2).sum().alias("value_squares"),
        pl.col("ts").min().dt.epoch("us").alias("first_ts"),
    )


def item_rows(partials: pl.DataFrame, items: pl.DataFrame, as_of: int) -> pl.DataFrame:
    """Add up partial sums into the item view, one row for each item of the catalogue.

    Args:
        partials: rows of `item_partials` of all buckets, in a fixed order.
        items: columns item_id, year.
    """
    sums = partials.group_by("item_id", maintain_order=True).agg(
        pl.col("^n.*$").sum(), pl.col("decayed", "trending", "value_sum", "value_squares").sum(), pl.col("first_ts").min()
    )
    total = sums.select(pl.col("n", "n_positive", "n_value", "value_sum").sum()).row(0, named=True)
    positive_share = (total["n_positive"] or 0) / max(1, total["n"] or 0)
    value_mean = (total["value_sum"] or 0.0) / max(1, total["n_value"] or 0)
    prior = 5.0
    mean = (pl.col("value_sum") + prior * value_mean) / (pl.col("n_value") + prior)
    raw_mean = pl.col("value_sum") / pl.col("n_value").clip(1)
    columns = {
        "item_events": pl.col("n").log1p(),
        "item_decayed": pl.col("decayed").log1p(),
        "item_trending": pl.col("trending").log1p(),
        "item_positive_share": (pl.col("n_positive") + prior * positive_share) / (pl.col("n") + prior),
        "item_value_mean": mean,
        "item_value_std": (pl.col("value_squares") / pl.col("n_value").clip(1) - raw_mean**2).clip(0).sqrt(),
        "item_age_days": ((as_of - pl.col("first_ts")) / _DAY_US).clip(0).log1p().fill_null(0.0),
        "item_year": ((pl.col("year") - 2000) / 10).fill_null(0.0),
    }
    joined = items.select("item_id", "year").join(sums, on="item_id", how="left", maintain_order="left")
    zero = [c for c in sums.columns if c not in ("item_id", "first_ts")]
    return joined.with_columns(pl.col(zero).fill_null(0)).select(
        "item_id", "n", "n_positive", *(e.cast(pl.Float64).round(5).cast(pl.Float32).alias(n) for n, e in columns.items())
    )


def label_rows(events: pl.DataFrame, already: pl.DataFrame | None) -> pl.DataFrame:
    """What users turned to in a later part: rows of `schema.LABELS`, one per user.

    Args:
        events: from `prepare`, of the later part only.
        already: user_id, item_id of earlier parts; an item met before is no discovery and is left out. None where items return.
    """
    news = events if already is None else events.join(already, on=["user_id", "item_id"], how="anti", maintain_order="left")
    rows = (
        news.group_by("user_id", "item_id", maintain_order=True)
        .agg(pl.col("strength").max())
        .group_by("user_id", maintain_order=True)
        .agg(pl.col("item_id").alias("item_ids"), pl.col("strength").cast(pl.Float32).alias("grades"))
    )
    return rows.select(LABELS.names)


def _decay(as_of: int, half_life_days: float) -> pl.Expr:
    age_days = (as_of - pl.col("ts").dt.epoch("us")) / _DAY_US
    return (age_days.clip(0) * (-math.log(2) / half_life_days)).exp()


def _taste(events: pl.DataFrame, user_ids: pl.Series, categories: list[str]) -> np.ndarray:
    """Per user and category: share of decayed strength, and decayed mean lift of strength; shape (n_users, 2 C)."""
    if not categories:
        return np.zeros((len(user_ids), 0))
    per_category = (
        events.select("user_id", "categories", "decay", "strength")
        .with_columns(lift=pl.col("strength") - pl.col("strength").mean().over("user_id"))
        .explode("categories")
        .filter(pl.col("categories").is_in(categories))
        .group_by("user_id", "categories", maintain_order=True)
        .agg(
            (pl.col("decay") * pl.col("strength")).sum().alias("mass"),
            ((pl.col("decay") * pl.col("lift")).sum() / (pl.col("decay").sum() + 1e-9)).alias("lift"),
            pl.len().alias("n"),
        )
        .with_columns(
            share=pl.col("mass") / pl.col("mass").sum().over("user_id"), lift=pl.col("lift") * pl.col("n") / (pl.col("n") + 3)
        )
    )
    row = {user: i for i, user in enumerate(user_ids)}
    column = {name: i for i, name in enumerate(categories)}
    taste = np.zeros((len(row), 2 * len(categories)))
    at = per_category["user_id"].replace_strict(row, return_dtype=pl.Int64).to_numpy()
    to = per_category["categories"].replace_strict(column, return_dtype=pl.Int64).to_numpy()
    taste[at, to] = per_category["share"].to_numpy()
    taste[at, to + len(categories)] = per_category["lift"].to_numpy()
    return taste
