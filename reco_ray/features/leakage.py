"""Leaks: what a model learns from must not know what it is to foretell.

Exact rather than statistical: a column leaks when its values change once all events from the cut on are taken from the input.
An honest feature may go with the label as closely as it likes; a leak is found however little it goes with it, and the rank
correlations that are reported with and without the future only say how much it matters.

The cut is defined here a second time, and not by `snapshots`, whose mistakes are to be found.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import rankdata

from reco_ray.config import FeaturesConfig, SplitKind
from reco_ray.features import pairs, snapshots, transform
from reco_ray.features.items import ItemFacts
from reco_ray.features.skew import TOLERANCE, user_columns
from reco_ray.features.snapshots import Group
from reco_ray.features.splits import Split
from reco_ray.features.sums import US, added_up

__all__ = ["LABELLED", "Leak", "Learnt", "before", "leaks", "learnt", "message", "some_users"]

LABELLED = {"fit": "rank", "eval": "test"}
"""Snapshot -> the part that labels it: models are trained on the one pair, and judged by the other."""

_NAMED = 5
_UNIT = 1e-6  # float32's rounding, of large values


@dataclass(frozen=True, slots=True)
class Leak:
    """A column that knows the future.

    Attributes:
        snapshot, table: where it is found.
        rows: of the table. differ: of them, those with another value once the future is removed, or that are there only with
            or only without it.
        future, past: rank correlation of the column and the label, with the future and without; NaN for one that is no number.
    """

    snapshot: str
    table: str
    column: str
    rows: int
    differ: int
    future: float
    past: float

    def __str__(self) -> str:
        moved = "" if np.isnan(self.future) else f" (rank correlation with the label {self.future:.2f}, then {self.past:.2f})"
        return f"{self.column} for {self.differ:,} of {self.rows:,} {self.table} of snapshot {self.snapshot}{moved}"


@dataclass(frozen=True, slots=True)
class Learnt:
    """A table that models learn from, or are judged by.

    Attributes:
        name: what its rows are. keys: the columns that name a row.
        rows: makes it.
        label: how much there is of what is to be foretold in the group's events, for each row that has any: keys and ``label``.
    """

    name: str
    keys: tuple[str, ...]
    rows: Callable[[Group], pl.DataFrame]
    label: Callable[[pl.DataFrame], pl.DataFrame]


def leaks(raw: pl.DataFrame, split: Split, snapshot: str, tables: Sequence[Learnt], config: FeaturesConfig) -> list[Leak]:
    """Make each table from all events and from those before the snapshot's cut; return the columns that differ.

    Args:
        raw: events of the lake, all of each user that occurs; with ``event_id`` where the split is per user.
    """
    whole = snapshots.divided(raw, split, config)
    past = snapshots.divided(before(raw, split, snapshot, config), _undivided(split), config)
    found = []
    for table in tables:  # one after another: two of the largest are all that is held
        made, blind = table.rows(whole), table.rows(past)
        names = [name for name in made.columns if name not in table.keys]
        one, other = _aligned(made, blind, table.keys)
        differ = {name: n for name in names if (n := _differing(one[name], other[name]))}
        if differ:
            label = table.label(whole.events)
            moved = {name: [_correlation(each, name, table.keys, label) for each in (made, blind)] for name in differ}
            found += [Leak(snapshot, table.name, name, one.height, n, *moved[name]) for name, n in differ.items()]
    return found


def learnt(
    snapshot: str, items: pl.DataFrame, categories: list[str], items_return: bool, config: FeaturesConfig
) -> tuple[Learnt, ...]:
    """What a build makes of a snapshot's events. Of item pairs the sums suffice, as nothing but they make the neighbours.

    Args:
        items, categories, items_return: as in `flow.BuildPlan`.
    """
    facts, ids, columns = ItemFacts.of(items, categories), items["item_id"], user_columns(categories)

    def user_rows(group: Group) -> pl.DataFrame:
        rows = transform.user_rows(snapshots.held(group, snapshot).events, facts, config)
        features = rows["features"].list.to_array(len(columns)).to_numpy().reshape(-1, len(columns))
        return rows.drop("features").hstack(pl.DataFrame(features, schema=columns, orient="row"))

    def item_rows(group: Group) -> pl.DataFrame:
        total = added_up(snapshots.sums_of_items(snapshots.held(group, snapshot), config), ids, config)
        return transform.item_rows(total, items, snapshots.as_of(snapshots.part_sizes(group.events))[snapshot])

    def pair_sums(group: Group) -> pl.DataFrame:
        return pairs.covisit_partials(snapshots.held(group, snapshot).events, ids, config)

    later = partial(_later, snapshot=snapshot, items_return=items_return)

    def of_users(events: pl.DataFrame) -> pl.DataFrame:
        return later(events).group_by("user_id").agg(pl.col("grade").sum().alias("label"))

    def of_items(events: pl.DataFrame) -> pl.DataFrame:
        return later(events).group_by("item_id").agg(pl.col("grade").sum().alias("label"))

    def of_pairs(events: pl.DataFrame) -> pl.DataFrame:
        code = pl.int_range(len(ids), dtype=pl.UInt32, eager=True)
        coded = pl.col("item_id").replace_strict(ids, code, default=None, return_dtype=pl.UInt32)
        part = snapshots.LABEL_PARTS[LABELLED[snapshot]]
        had = (
            events.filter(pl.col("part") < part).group_by("user_id").agg(coded.tail(config.history).alias("had")).explode("had")
        )
        met = later(events).select("user_id", "grade", coded.alias("came")).join(had, on="user_id")
        low, high = pl.min_horizontal("had", "came").alias("a"), pl.max_horizontal("had", "came").alias("b")
        return met.group_by(low, high).agg(pl.col("grade").sum().alias("label"))

    tables = (
        Learnt("users", ("user_id",), user_rows, of_users),
        Learnt("items", ("item_id",), item_rows, of_items),
        Learnt("pairs", ("a", "b"), pair_sums, of_pairs),
    )
    return (*tables, Learnt("sequences", ("user_id",), snapshots.sequences, of_users)) if snapshot == "fit" else tables


def some_users(raw: pl.DataFrame, events: int) -> pl.DataFrame:
    """Keep all events of some users, the same ones each time: about so many events, and at least one user's.

    A transform that leaks does it for whomever it is computed, so that a part of a group finds it at a bounded price.
    """
    users = raw.group_by("user_id").len("n").sort("user_id").filter(pl.col("n").cum_sum() - pl.col("n") < events)
    return raw.join(users, on="user_id", how="semi", maintain_order="left")


def before(raw: pl.DataFrame, split: Split, snapshot: str, config: FeaturesConfig) -> pl.DataFrame:
    """Keep the events before the cut that ends a snapshot; of a split per user, before each user's own.

    Only usable events have a place among those of the same time; the others are before a cut when their time is.

    Args:
        raw: as in `leaks`.
    """
    if split.kind is SplitKind.global_time:
        return raw.filter(_end(split, snapshot) > US)
    share = pl.int_range(pl.len()).over("user_id") / pl.len().over("user_id")
    ordered = transform.usable(raw, config).sort("user_id", "ts", "event_id")
    later = ordered.filter(share >= _end(split, snapshot)).group_by("user_id", maintain_order=True)
    cuts = later.agg(pl.col("ts").first().alias("cut"), pl.col("event_id").first().alias("first_id"))
    tied = (pl.col("ts") == pl.col("cut")) & (pl.col("event_id") < pl.col("first_id"))
    early = (pl.col("ts") < pl.col("cut")) | (tied & pl.col("event_id").is_in(ordered["event_id"].implode()))
    return raw.join(cuts, on="user_id", how="left", maintain_order="left").filter(early.fill_null(True)).drop("cut", "first_id")


def message(found: Sequence[Leak], split: Split) -> str:
    """Say what leaks, most rows first, and what to do."""
    ordered = sorted(found, key=lambda leak: -leak.differ / leak.rows)
    more = f"; and {len(found) - _NAMED} more columns" if len(found) > _NAMED else ""
    removed = " and ".join(_removed(split, snapshot) for snapshot in dict.fromkeys(leak.snapshot for leak in ordered))
    return (
        f"features leak: once {removed} are removed, found other values of {'; '.join(map(str, ordered[:_NAMED]))}{more}; "
        "expected no difference; the transform must use only events before the snapshot's cut"
    )


def _removed(split: Split, snapshot: str) -> str:
    if split.kind is SplitKind.per_user:
        return f"the last {1 - _end(split, snapshot):.0%} of each user's events"
    return f"the events from {datetime.fromtimestamp(_end(split, snapshot) / 1e6, UTC):%Y-%m-%dT%H:%M:%SZ} on"


def _end(split: Split, snapshot: str) -> float:
    """Where a snapshot ends: microseconds since the epoch, or for a split per user a share of the user's events."""
    fit, rank = (split.fit, split.rank) if split.kind is SplitKind.per_user else (split.fit_until, split.rank_until)
    return {"fit": fit, "eval": rank}[snapshot]


def _undivided(split: Split) -> Split:
    """The split of events that have been cut already: shares are of what is left of a user, which all counts as before."""
    return replace(split, fit=1.0, rank=1.0)


def _later(events: pl.DataFrame, snapshot: str, items_return: bool) -> pl.DataFrame:
    """What is to be foretold: user_id, item_id, grade."""
    without = events.with_columns(pl.lit(None).alias("context"))  # no part of what is to be foretold, and long
    labels = snapshots.labels(without, items_return).filter(part=LABELLED[snapshot])
    return labels.select("user_id", pl.col("item_ids").alias("item_id"), pl.col("grades").alias("grade")).explode(
        "item_id", "grade"
    )


def _aligned(one: pl.DataFrame, other: pl.DataFrame, keys: Sequence[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Both with the same keys in the same order; null where one of them has no such row."""
    if one.select(keys).equals(other.select(keys)):
        return one, other
    every = pl.concat([one.select(keys), other.select(keys)]).unique(maintain_order=True)
    first, second = (every.join(each, on=keys, how="left", maintain_order="left") for each in (one, other))
    return first, second


def _differing(one: pl.Series, other: pl.Series) -> int:
    """In how many rows two columns differ by more than rounding."""
    if not one.dtype.is_float():
        return int(one.ne_missing(other).sum())
    a, b = (each.cast(pl.Float64).fill_nan(None) for each in (one, other))
    far = ((a - b).abs() > TOLERANCE + _UNIT * a.abs()).fill_null(False)
    return int((far | (a.is_null() != b.is_null())).sum())


def _correlation(rows: pl.DataFrame, column: str, keys: Sequence[str], label: pl.DataFrame) -> float:
    """Spearman's, over the rows that have a value; 0 where one side is constant, NaN for a column that is no number."""
    if not rows[column].dtype.is_numeric():
        return float("nan")
    both = rows.select(*keys, column).drop_nulls(column).join(label, on=keys, how="left", maintain_order="left")
    ranks = [_centred(side.to_numpy()) for side in (both[column], both["label"].fill_null(0))]
    scale = float(np.linalg.norm(ranks[0]) * np.linalg.norm(ranks[1]))
    return float(ranks[0] @ ranks[1]) / scale if scale else 0.0


def _centred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    ranks: NDArray[np.float64] = rankdata(values)
    return ranks - (values.size + 1) / 2
