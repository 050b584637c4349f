"""Build the features by Ray Data: one task per group of user buckets, so that no user's events are ever shuffled.

Each task reads its buckets by predicate, runs the pure transform for every snapshot, and returns rows; sums over users are
added up at the end.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import polars as pl
import pyarrow as pa
import ray

from reco_ray.config import FeaturesConfig
from reco_ray.features import pairs, transform
from reco_ray.features.items import ItemFacts
from reco_ray.features.views import SNAPSHOTS
from reco_ray.hashing import USER_BUCKETS
from reco_ray.lake import tables

__all__ = ["BuildPlan", "build_items", "build_labels", "build_pairs", "build_sequences", "build_users"]

log = logging.getLogger(__name__)

Assign = Callable[[pl.DataFrame], pl.Series]
_TASKS = 8
_LABEL_PARTS = {"rank": 1, "test": 2}


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """What a build works from.

    Attributes:
        root: where the lake lies.
        config: feature settings.
        assign: part of the split of each event of some users.
        items: columns item_id, year, categories; sorted by item_id.
        items_return: whether an item that a user has had is a label again.
        categories: vocabulary of the taste features.
        as_of: snapshot -> its instant, microseconds.
    """

    root: str
    config: FeaturesConfig
    assign: Assign
    items: pl.DataFrame
    items_return: bool
    categories: list[str]
    as_of: dict[str, int]


def build_users(plan: BuildPlan) -> pl.DataFrame:
    """The user view of every user in every snapshot, with a column ``snapshot``."""
    return _run(plan, _users, "users")


def build_items(plan: BuildPlan) -> pl.DataFrame:
    """The item view of every item in every snapshot, with a column ``snapshot``."""
    partials = _run(plan, _items, "items")
    rows = [
        transform.item_rows(
            partials.filter(snapshot=name).drop("snapshot"), plan.items, plan.as_of[name], plan.config
        ).with_columns(snapshot=pl.lit(name))
        for name in SNAPSHOTS
    ]
    return pl.concat(rows)


def build_pairs(plan: BuildPlan) -> pl.DataFrame:
    """The strongest neighbours of every item in every snapshot, with a column ``snapshot``."""
    item_ids, rows = plan.items["item_id"], []
    for name in SNAPSHOTS:  # one at a time: the pairs are the largest thing of a build
        partials = _run(plan, partial(_pairs, snapshot=name), f"pairs of {name}")
        rows.append(pairs.covisit_rows(partials, item_ids, plan.config).with_columns(snapshot=pl.lit(name)))
    return pl.concat(rows)


def build_labels(plan: BuildPlan) -> pl.DataFrame:
    """What users turned to in the rank and test parts, with a column ``part``."""
    return _run(plan, _labels, "labels")


def build_sequences(plan: BuildPlan) -> pl.DataFrame:
    """The events of the fit part in order, one row per user: user_id, item_ids, strengths; the embedding model's food."""
    return _run(plan, _sequences, "sequences").sort("user_id")


def _run(plan: BuildPlan, work: Callable[[pl.DataFrame, BuildPlan], pl.DataFrame], what: str) -> pl.DataFrame:
    groups = [{"group": g} for g in range(_TASKS)]
    dataset = ray.data.from_items(groups, override_num_blocks=_TASKS).map_batches(
        _task, batch_size=1, batch_format="pyarrow", fn_kwargs={"plan": plan, "work": work}, zero_copy_batch=True
    )
    blocks = [pl.DataFrame(batch) for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow") if batch.num_rows]
    # blocks arrive in any order; sums and hashes want one
    frame = pl.concat(sorted(blocks, key=lambda b: b["group"][0])).drop("group")
    log.info("%s: %d rows", what, frame.height)
    return frame


def _task(batch: pa.Table, plan: BuildPlan, work: Callable[[pl.DataFrame, BuildPlan], pl.DataFrame]) -> pa.Table:
    group = batch.column("group")[0].as_py()
    buckets = [b for b in range(USER_BUCKETS) if b % _TASKS == group]
    raw = tables.read(plan.root, "events", where=pl.col("user_bucket").is_in(buckets))
    events = transform.prepare(raw, plan.config)
    events = events.with_columns(plan.assign(events).alias("part"))
    return work(events, plan).with_columns(group=pl.lit(group)).to_arrow()


def _per_snapshot(events: pl.DataFrame, rows: Callable[[pl.DataFrame], pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(
        [rows(events.filter(pl.col("part") <= part)).with_columns(snapshot=pl.lit(name)) for name, part in SNAPSHOTS.items()]
    )


def _users(events: pl.DataFrame, plan: BuildPlan) -> pl.DataFrame:
    facts = ItemFacts.of(plan.items, plan.categories)
    return _per_snapshot(events, lambda e: transform.user_rows(e, facts, plan.config))


def _items(events: pl.DataFrame, plan: BuildPlan) -> pl.DataFrame:
    return _per_snapshot(events, lambda e: transform.item_partials(e, plan.config))


def _pairs(events: pl.DataFrame, plan: BuildPlan, snapshot: str) -> pl.DataFrame:
    seen = events.filter(pl.col("part") <= SNAPSHOTS[snapshot])
    return pairs.covisit_partials(seen, plan.items["item_id"], plan.config)


def _labels(events: pl.DataFrame, plan: BuildPlan) -> pl.DataFrame:
    return pl.concat(
        [
            transform.label_rows(
                events.filter(part=part),
                None if plan.items_return else events.filter(pl.col("part") < part).select("user_id", "item_id"),
            ).with_columns(part=pl.lit(name))
            for name, part in _LABEL_PARTS.items()
        ]
    )


def _sequences(events: pl.DataFrame, plan: BuildPlan) -> pl.DataFrame:
    ordered = events.filter(pl.col("part") == 0).group_by("user_id", maintain_order=True)
    return ordered.agg(pl.col("item_id").alias("item_ids"), pl.col("strength").cast(pl.Float32).alias("strengths"))
