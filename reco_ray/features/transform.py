"""From events to rows: pure functions over polars frames, called by `flow` for bucket after bucket.

Events come as `prepare` leaves them. Sums run in a fixed order, so that the same events give the same bits.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from reco_ray.config import FeaturesConfig
from reco_ray.features.finish import item_features, user_features
from reco_ray.features.items import ItemFacts
from reco_ray.features.sums import DAY_US, ITEM_SUMS, US, Sums, user_sums
from reco_ray.features.views import ITEM_COLUMNS, LOW_RATING_STRENGTH, STRENGTH
from reco_ray.hashing import item_keys
from reco_ray.schema import LABELS

__all__ = ["EVENT_COLUMNS", "item_rows", "label_rows", "prepare", "shown", "usable", "user_rows"]

EVENT_COLUMNS = ("user_id", "item_id", "ts", "type", "value", "consent")


def usable(events: pl.DataFrame, config: FeaturesConfig) -> pl.DataFrame:
    """Keep the events that say something for an item; adds strength in (0, 1]. Without consent an event trains nothing.

    Args:
        events: columns type, value and consent, and others.
    """
    rating = pl.when(pl.col("value") >= config.positive_rating).then(1.0).otherwise(LOW_RATING_STRENGTH)
    known = pl.col("type").replace_strict(STRENGTH, default=0.0, return_dtype=pl.Float64)
    strength = pl.when(pl.col("type") == "rating").then(rating).otherwise(known)
    return events.filter("consent").with_columns(strength.alias("strength")).filter(pl.col("strength") > 0)


def prepare(events: pl.DataFrame, config: FeaturesConfig, extra: Sequence[str] = ()) -> pl.DataFrame:
    """Keep the usable events, ordered by user, time, item key and strength; adds positive (bool) and item_key.

    What is equal in all that the order looks at is equal in all that a feature sees, so that the online store keeps the same
    order without the ids.

    Args:
        extra: columns to keep beside those that features need.
    """
    items = events["item_id"].unique()
    key = pl.col("item_id").replace_strict(items, pl.Series(item_keys(items)), return_dtype=pl.UInt64)
    return (
        usable(events.select(*EVENT_COLUMNS, *extra), config)
        .with_columns((pl.col("strength") >= 0.5).alias("positive"), key.alias("item_key"))
        .sort("user_id", "ts", "item_key", "strength")
    )


def shown(events: pl.DataFrame) -> pl.DataFrame:
    """Keep the impressions: they say nothing for an item, but what its clicks are measured against. Without consent none count.

    Args:
        events: as for `prepare`.
    """
    return events.filter(pl.col("consent") & (pl.col("type") == "impression"))


def user_rows(events: pl.DataFrame, items: ItemFacts, config: FeaturesConfig) -> pl.DataFrame:
    """Compute the user view of every user in ``events``.

    Args:
        events: from `prepare`; all events of each user up to the snapshot.
    Returns: user_id, history and weights (newest ``config.history``, oldest first), seen, seen_days (days since the epoch,
        of the same events), as_of (the newest event), features.
    """
    _, sums = user_sums(items.describe(events), items.in_category, config)
    features = user_features(sums)
    lists = events.group_by("user_id", maintain_order=True).agg(
        pl.col("item_id").tail(config.history).alias("history"),
        pl.col("strength").tail(config.history).cast(pl.Float32).alias("weights"),
        pl.col("item_id").tail(config.seen_limit).alias("seen"),
        (US // DAY_US).cast(pl.Int32).tail(config.seen_limit).alias("seen_days"),
    )
    rows = lists.with_columns(pl.Series("as_of", sums.last))
    return rows.with_columns(pl.Series("features", features, dtype=pl.Array(pl.Float32, features.shape[1])).arr.to_list())


def item_rows(total: Sums, items: pl.DataFrame, as_of: int) -> pl.DataFrame:
    """Compute the item view, one row for each item of the catalogue.

    Args:
        total: with `sums.ITEM_SUMS`, of the items in their order.
        items: columns item_id, year. as_of: the snapshot's instant, microseconds.
    """
    features = item_features(total, items["year"].fill_null(0).to_numpy(), as_of)
    counts = total.values[:, [ITEM_SUMS.index("n"), ITEM_SUMS.index("n_positive")]].astype(np.int64)
    return pl.DataFrame(
        {
            "item_id": items["item_id"],
            "n": counts[:, 0],
            "n_positive": counts[:, 1],
            **{c.name: features[:, at] for at, c in enumerate(ITEM_COLUMNS)},
        }
    )


def label_rows(events: pl.DataFrame, already: pl.DataFrame | None) -> pl.DataFrame:
    """What users turned to in a later part: rows of `schema.LABELS`, one per user.

    Args:
        events: from `prepare` with ``context``, of the later part only.
        already: user_id, item_id of earlier parts; an item met before is no discovery and is left out. None where items return.
    """
    news = events if already is None else events.join(already, on=["user_id", "item_id"], how="anti", maintain_order="left")
    rows = (
        news.group_by("user_id", "item_id", maintain_order=True)
        .agg(pl.col("strength").max(), pl.col("ts", "context").first())
        .group_by("user_id", maintain_order=True)
        .agg(
            pl.col("item_id").alias("item_ids"),
            pl.col("strength").cast(pl.Float32).alias("grades"),
            pl.col("ts", "context").first(),
        )
    )
    return rows.select(LABELS.names)
