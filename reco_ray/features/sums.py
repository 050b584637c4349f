"""What the features are made of: sums over a user's or an item's events that can be added up.

The sums of some events and the sums of others give, `merged`, the sums of both. One definition therefore serves both ways: a
build adds up an entity's whole history, and the stream adds each micro-batch to what is stored. Decayed sums hold what they are
worth at the newest event (``last``), and lose worth when a newer one comes: exponential decay is the one kind that allows it
exactly (Cormode et al., Forward Decay, ICDE 2009).

Order does not matter but for rounding: sums of floating-point numbers in another order differ in their last bits. One sum minds
it: ``again`` leaves out the first event of each user and item, and the stream takes for the first what comes first.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reco_ray.config import FeaturesConfig

__all__ = [
    "DAY_US",
    "ITEM_SUMS",
    "TASTE_SUMS",
    "US",
    "USER_SUMS",
    "Sums",
    "added_up",
    "decay",
    "half_lives",
    "item_sums",
    "item_sums_of",
    "merged",
    "shown_sums",
    "user_sums",
]

DAY_US = 86_400_000_000
US = pl.col("ts").dt.epoch("us")

USER_SUMS = (
    *("n", "strength", "n_value", "value", "value_squares", "n_year", "year", "year_squares", "decayed"),
    *("views", "clicks", "purchases"),
)
"""Per user; years in decades since 2000; ``decayed`` is strength that fades, the last three are numbers
of events that do."""

ITEM_SUMS = (
    *("n", "n_positive", "n_value", "value", "value_squares", "decayed", "trending"),
    *("clicks", "purchases", "impressions", "people", "again"),
)
"""Per item; ``decayed`` and ``trending`` are strength that fades by the long and by the short half-life; clicks, purchases and
impressions are numbers of events that fade by the long one; ``people`` is the number of users who had it, ``again`` the part of
``decayed`` that is of events whose user had it before."""

TASTE_SUMS = ("taste_n", "taste_mass", "taste_weight")
"""Per user and category: events, strength that fades, and what each event counts for once faded."""


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Sums of entities, one row each.

    Attributes:
        first, last: times of the oldest and the newest event, microseconds, int64, shape (n,); an entity without events has
            ``first`` at the largest int64 and ``last`` at 0.
        values: float64, shape (n, K).
        half_lives: of each column in days, infinite where a sum does not fade, shape (K,).
    """

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    values: NDArray[np.float64]
    half_lives: NDArray[np.float64]

    def at(self, now: NDArray[np.int64] | int) -> NDArray[np.float64]:
        """What the sums are worth at ``now``, or at ``last`` where that is later; shape (n, K)."""
        age_days = np.maximum(now - self.last, 0) / DAY_US
        return np.asarray(self.values * np.exp2(-age_days[:, None] / self.half_lives))

    @classmethod
    def none(cls, n: int, half_lives: NDArray[np.float64]) -> "Sums":
        """Sums over no events."""
        first = np.full(n, np.iinfo(np.int64).max)
        return cls(first, np.zeros(n, np.int64), np.zeros((n, half_lives.size)), half_lives)


def merged(one: Sums, other: Sums) -> Sums:
    """Sums over the events of both, row by row."""
    last = np.maximum(one.last, other.last)
    return Sums(np.minimum(one.first, other.first), last, one.at(last) + other.at(last), one.half_lives)


def half_lives(columns: tuple[str, ...], config: FeaturesConfig, categories: int = 0) -> NDArray[np.float64]:
    """Half-life in days of each of the columns, then of `TASTE_SUMS` of each category."""
    long = config.half_life_days
    fading = dict.fromkeys(("decayed", "again", "views", "clicks", "purchases", "impressions"), long)
    fading |= dict.fromkeys(("taste_mass", "taste_weight"), long)
    fading["trending"] = config.trending_half_life_days
    of = [fading.get(name, math.inf) for name in columns]
    return np.array(of + [fading.get(name, math.inf) for name in TASTE_SUMS for _ in range(categories)])


def decay(age_us: pl.Expr, half_life_days: float) -> pl.Expr:
    """What is left of 1 after an age in microseconds."""
    return (age_us * (-math.log(2) / half_life_days / DAY_US)).exp()


def user_sums(events: pl.DataFrame, in_category: NDArray[np.float32], config: FeaturesConfig) -> tuple[pl.Series, Sums]:
    """Sums of each user, in the order in which they come: their ids, and `USER_SUMS` followed by `TASTE_SUMS` of each category.

    Args:
        events: from `items.ItemFacts.describe`. in_category: of the same items, shape (n_items, C).
    """
    value, year = pl.col("value").cast(pl.Float64), pl.col("decade")
    faded = decay(US.max() - US, config.half_life_days)
    rows = events.group_by("user_id", maintain_order=True).agg(
        US.min().alias("first"),
        US.max().alias("last"),
        pl.len().cast(pl.Float64).alias("n"),
        pl.col("strength").sum().alias("strength"),
        value.count().cast(pl.Float64).alias("n_value"),
        value.sum().alias("value"),
        (value * value).sum().alias("value_squares"),
        year.count().cast(pl.Float64).alias("n_year"),
        year.sum().alias("year"),
        (year * year).sum().alias("year_squares"),
        (faded * pl.col("strength")).sum().alias("decayed"),
        *_faded_numbers(faded, {"view": "views", "click": "clicks", "purchase": "purchases"}),
    )
    taste = _taste(events, rows, in_category, config)
    values = np.concatenate([rows.select(USER_SUMS).to_numpy(), taste.reshape(rows.height, 3 * in_category.shape[1])], axis=1)
    lives = half_lives(USER_SUMS, config, in_category.shape[1])
    return rows["user_id"], Sums(rows["first"].to_numpy(), rows["last"].to_numpy(), values, lives)


def item_sums(events: pl.DataFrame, config: FeaturesConfig, had: NDArray[np.bool_] | None = None) -> pl.DataFrame:
    """Sums of each item over some users' events, for `item_sums_of`: item_id, first, last (microseconds) and `ITEM_SUMS`.

    Args:
        events: from `transform.prepare`; all of each user, but for what ``had`` tells.
        had: of each event, whether its user had the item before all of them, shape (n,); None where nobody had any.
    """
    value, age = pl.col("value").cast(pl.Float64), US.max() - US
    faded = decay(age, config.half_life_days)
    again = ~pl.struct("user_id", "item_id").is_first_distinct()
    marked = events.with_columns((again if had is None else again | pl.Series(had, dtype=pl.Boolean)).alias("again"))
    return marked.group_by("item_id", maintain_order=True).agg(
        US.min().alias("first"),
        US.max().alias("last"),
        pl.len().cast(pl.Float64).alias("n"),
        pl.col("positive").sum().cast(pl.Float64).alias("n_positive"),
        value.count().cast(pl.Float64).alias("n_value"),
        value.sum().alias("value"),
        (value * value).sum().alias("value_squares"),
        (faded * pl.col("strength")).sum().alias("decayed"),
        (decay(age, config.trending_half_life_days) * pl.col("strength")).sum().alias("trending"),
        *_faded_numbers(faded, {"click": "clicks", "purchase": "purchases"}),
        pl.lit(0.0).alias("impressions"),
        (~pl.col("again")).sum().cast(pl.Float64).alias("people"),
        (faded * pl.col("strength")).filter("again").sum().alias("again"),
    )


def shown_sums(shown: pl.DataFrame, config: FeaturesConfig) -> pl.DataFrame:
    """What impressions add to the sums of each item: rows like those of `item_sums`.

    Args:
        shown: from `transform.shown`.
    """
    faded = decay(US.max() - US, config.half_life_days)
    never = pl.lit(np.iinfo(np.int64).max, pl.Int64)  # an item is as old as its first event, not as the first time it was shown
    sums = {**dict.fromkeys(ITEM_SUMS, pl.lit(0.0)), "impressions": faded.sum()}
    return shown.group_by("item_id", maintain_order=True).agg(
        never.alias("first"), US.max().alias("last"), *(each.alias(name) for name, each in sums.items())
    )


def _faded_numbers(faded: pl.Expr, names: Mapping[str, str]) -> list[pl.Expr]:
    """How many events of a type there are, once faded: type -> name of the sum."""
    return [faded.filter(pl.col("type") == kind).sum().alias(name) for kind, name in names.items()]


def item_sums_of(rows: pl.DataFrame, config: FeaturesConfig) -> Sums:
    """Take the sums out of rows of `item_sums`."""
    values = rows.select(ITEM_SUMS).to_numpy().astype(np.float64, copy=False)
    return Sums(rows["first"].to_numpy(), rows["last"].to_numpy(), values, half_lives(ITEM_SUMS, config))


def added_up(partials: pl.DataFrame, item_ids: pl.Series, config: FeaturesConfig) -> Sums:
    """Sums of some items over all parts, in the order of ``item_ids``; other items are left out.

    Args:
        partials: rows of `item_sums` over different users, in a fixed order.
    """
    code = pl.int_range(len(item_ids), eager=True)
    at = partials["item_id"].replace_strict(item_ids, code, default=None, return_dtype=pl.Int64)
    parts, rows = item_sums_of(partials.filter(at.is_not_null()), config), at.drop_nulls().to_numpy()
    total = Sums.none(len(item_ids), parts.half_lives)
    np.maximum.at(total.last, rows, parts.last)
    np.minimum.at(total.first, rows, parts.first)
    np.add.at(total.values, rows, parts.at(total.last[rows]))
    return total


def _taste(
    events: pl.DataFrame, users: pl.DataFrame, in_category: NDArray[np.float32], config: FeaturesConfig
) -> NDArray[np.float64]:
    """Sums of each user and category, shape (n_users, 3, C)."""
    n, c = users.height, in_category.shape[1]
    taste = np.zeros((n, 3, c))
    if not (n and c):
        return taste
    coded = events.select(
        pl.col("user_id").replace_strict(users["user_id"], pl.int_range(n, eager=True), return_dtype=pl.UInt32).alias("user"),
        "item",
        US.alias("us"),
        "strength",
    ).drop_nulls("item")
    user, item = coded["user"].to_numpy(), coded["item"].to_numpy()
    age_days = (users["last"].to_numpy()[user] - coded["us"].to_numpy()) / DAY_US
    faded = np.exp2(age_days / -config.half_life_days)
    mass = faded * coded["strength"].to_numpy()
    rows, columns = np.nonzero(in_category)  # items' categories as a list of pairs, by item
    first = np.searchsorted(rows, np.arange(in_category.shape[0] + 1))
    per_event = np.diff(first)[item]
    event = np.repeat(np.arange(item.size), per_event)
    within = np.arange(event.size) - np.repeat(np.cumsum(per_event) - per_event, per_event)
    cell = user[event].astype(np.int64) * c + columns[first[item][event] + within]
    for at, weights in enumerate((None, mass, faded)):
        counted = np.bincount(cell, None if weights is None else weights[event], n * c)
        taste[:, at] = counted.reshape(n, c)
    return taste
