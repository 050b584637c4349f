"""What somebody would write who has one machine and polars: the user and item views of all snapshots in one process.

It shares no code with the product; the formulas are written down once more.
"""

import math
from pathlib import Path

import numpy as np
import polars as pl

__all__ = ["compute"]

_DAY_US = 86_400_000_000
_LONG, _SHORT, _HISTORY = 180.0, 7.0, 50
_TYPES = ("view", "click", "purchase")
_F = 8 + len(_TYPES)


def compute(lake: str, target: str, seen: int) -> None:
    """Read ``lake``'s events and items, write ``users.parquet`` and ``items.parquet``."""
    Path(target).mkdir(parents=True)
    items = pl.read_delta(f"{lake}/items").select(pl.col("item_id").cast(pl.Categorical), "year", "categories")
    counts = items["categories"].explode().value_counts().sort("count", "categories", descending=[True, False])
    categories = counts["categories"].head(64).to_list()
    events = (
        pl.scan_delta(f"{lake}/events")
        .select("user_id", "item_id", "ts", "type", "value", "consent")
        .filter("consent")
        .with_columns(
            strength=pl.when(pl.col("type") == "rating")
            .then(pl.when(pl.col("value") >= 4).then(1.0).otherwise(0.25))
            .otherwise(0.5)
        )
        .drop("consent")
        .with_columns(pl.col("user_id", "item_id").cast(pl.Categorical))
        .sort("user_id", "ts")
        .collect()
    )
    us = events["ts"].dt.epoch("us").sort()
    minute = 60_000_000
    cuts = [int(us[int(share * (us.len() - 1))]) // minute * minute for share in (0.64, 0.8)]
    users, made = [], []
    for name, until in (("fit", cuts[0]), ("eval", cuts[1]), ("live", None)):
        part = events if until is None else events.filter(pl.col("ts").dt.epoch("us") < until)
        users.append(_users(part, items, categories, seen).with_columns(snapshot=pl.lit(name)))
        made.append(_items(part, items).with_columns(snapshot=pl.lit(name)))
    pl.concat(users).write_parquet(f"{target}/users.parquet", compression="lz4")
    pl.concat(made).write_parquet(f"{target}/items.parquet", compression="lz4")


def _decay(age_us: pl.Expr, half_life: float) -> pl.Expr:
    return (age_us * (-math.log(2) / half_life / _DAY_US)).exp()


def _users(events: pl.DataFrame, items: pl.DataFrame, categories: list[str], seen: int) -> pl.DataFrame:
    us = pl.col("ts").dt.epoch("us")
    events = events.join(items, on="item_id", how="left", maintain_order="left").with_columns(
        decade=(pl.col("year") - 2000) / 10, decay=_decay(us.max().over("user_id") - us, _LONG)
    )
    users = events.group_by("user_id", maintain_order=True).agg(
        pl.col("item_id").tail(_HISTORY).alias("history"),
        pl.col("strength").tail(_HISTORY).cast(pl.Float32).alias("weights"),
        pl.col("item_id").tail(seen).alias("seen"),
        pl.len().cast(pl.Float64).log1p().alias("f0"),
        (pl.col("decay") * pl.col("strength")).sum().log1p().alias("f1"),
        pl.col("strength").mean().alias("f2"),
        pl.col("value").cast(pl.Float64).mean().fill_null(0).alias("f3"),
        pl.col("value").cast(pl.Float64).std(ddof=0).fill_null(0).alias("f4"),
        ((us.max() - us.min()) / _DAY_US).log1p().alias("f5"),
        pl.col("decade").mean().fill_null(0).alias("f6"),
        pl.col("decade").std(ddof=0).fill_null(0).alias("f7"),
        *(pl.col("decay").filter(pl.col("type") == kind).sum().log1p().alias(f"f{8 + i}") for i, kind in enumerate(_TYPES)),
    )
    taste = (
        events.with_columns(lift=pl.col("strength") - pl.col("strength").mean().over("user_id"))
        .select("user_id", pl.col("categories").cast(pl.List(pl.Categorical)), "decay", "strength", "lift")
        .explode("categories")
        .group_by("user_id", "categories")
        .agg(
            (pl.col("decay") * pl.col("strength")).sum().alias("mass"),
            ((pl.col("decay") * pl.col("lift")).sum() / pl.col("decay").sum()).alias("lift"),
            pl.len().alias("n"),
        )
        .with_columns(
            share=pl.col("mass") / pl.col("mass").sum().over("user_id"), lift=pl.col("lift") * pl.col("n") / (pl.col("n") + 3)
        )
    )
    columns = {name: i for i, name in enumerate(categories)}
    rows = taste["user_id"].replace_strict(users["user_id"], pl.int_range(users.height, eager=True)).to_numpy()
    at = taste["categories"].replace_strict(columns).to_numpy()
    matrix = np.zeros((users.height, _F + 2 * len(categories)))
    matrix[:, :_F] = users.select(f"f{i}" for i in range(_F)).to_numpy()
    matrix[rows, _F + at] = taste["share"].to_numpy()
    matrix[rows, _F + len(categories) + at] = taste["lift"].to_numpy()
    features = pl.Series("features", matrix.round(5).astype(np.float32), dtype=pl.Array(pl.Float32, matrix.shape[1]))
    lists = pl.col("history", "seen").cast(pl.List(pl.String))
    return users.select(pl.col("user_id").cast(pl.String), lists, "weights").with_columns(features.arr.to_list())


def _items(events: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    us, value = pl.col("ts").dt.epoch("us"), pl.col("value").cast(pl.Float64)
    now = int(events["ts"].dt.epoch("us").max())  # type: ignore[arg-type]
    events = events.with_columns(again=~pl.struct("user_id", "item_id").is_first_distinct())
    sums = events.group_by("item_id").agg(
        pl.len().alias("n"),
        (pl.col("strength") >= 0.5).sum().alias("positive"),
        (_decay(now - us, _LONG) * pl.col("strength")).sum().alias("decayed"),
        (_decay(now - us, _SHORT) * pl.col("strength")).sum().alias("trending"),
        value.count().alias("n_value"),
        value.sum().alias("value"),
        value.std(ddof=0).fill_null(0).alias("std"),
        us.min().alias("first"),
        (~pl.col("again")).sum().alias("people"),
        (_decay(now - us, _LONG) * pl.col("strength")).filter("again").sum().alias("again"),
        *(
            _decay(now - us, _LONG).filter(pl.col("type") == kind).sum().alias(kind)
            for kind in ("click", "purchase", "impression")
        ),
    )
    shown = sums["impression"].sum()
    ctr = min(1.0, sums["click"].sum() / shown) if shown else 0.0
    share = sums["positive"].sum() / sums["n"].sum()
    mean = sums["value"].sum() / max(1, sums["n_value"].sum())
    times, again = sums["n"].sum() / sums["people"].sum(), sums["again"].sum() / sums["decayed"].sum()
    joined = items.select("item_id", "year").join(sums, on="item_id", how="left")
    filled = joined.with_columns(pl.exclude("item_id", "year", "first").fill_null(0))
    return filled.select(
        pl.col("item_id").cast(pl.String),
        *(
            each.cast(pl.Float64).round(5).cast(pl.Float32).alias(name)
            for name, each in {
                "item_events": pl.col("n").log1p(),
                "item_decayed": pl.col("decayed").log1p(),
                "item_trending": pl.col("trending").log1p(),
                "item_positive_share": (pl.col("positive") + 5 * share) / (pl.col("n") + 5),
                "item_value_mean": (pl.col("value") + 5 * mean) / (pl.col("n_value") + 5),
                "item_value_std": pl.col("std"),
                "item_age_days": ((now - pl.col("first")) / _DAY_US).log1p().fill_null(0.0),
                "item_year": ((pl.col("year") - 2000) / 10).fill_null(0.0),
                "item_clicks": pl.col("click").log1p(),
                "item_purchases": pl.col("purchase").log1p(),
                "item_ctr": ((pl.col("click") if shown else 0) + 20 * ctr) / (pl.col("impression") + 20),
                "item_people": pl.col("people").log1p(),
                "item_times": ((pl.col("n") + 5 * times) / (pl.col("people") + 5)).log(),
                "item_again": (pl.col("again") + 5 * again) / (pl.col("decayed") + 5),
            }.items()
        ),
    )
