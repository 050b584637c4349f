"""What snapshots hold of some users' events, and what is computed from it: pure, a build runs it on one group after another.

All that a model learns from, or is judged by, passes through `held`; `leakage` checks what comes of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from reco_ray.config import FeaturesConfig
from reco_ray.features import transform
from reco_ray.features.splits import Split, assign_beside, assign_parts
from reco_ray.features.sums import US, item_sums, shown_sums
from reco_ray.features.views import SNAPSHOTS

__all__ = [
    "LABEL_PARTS",
    "Group",
    "as_of",
    "divided",
    "held",
    "labels",
    "part_sizes",
    "per_snapshot",
    "sequences",
    "sums_of_items",
]

LABEL_PARTS = {"rank": 1, "test": 2}
"""Labels -> the part of the split that they are of."""


@dataclass(frozen=True, slots=True)
class Group:
    """Events of some users, all of each.

    Attributes:
        events: from `transform.prepare`, with their ``part``. shown: impressions, with theirs.
    """

    events: pl.DataFrame
    shown: pl.DataFrame


def divided(raw: pl.DataFrame, split: Split, config: FeaturesConfig, extra: Sequence[str] = ()) -> Group:
    """Prepare events and give each its part.

    Args:
        raw: of the lake, all of each user that occurs; with ``event_id`` where the split is per user, and with ``context`` for
            `labels`.
    """
    events = transform.prepare(raw, config, [name for name in ("event_id", "context") if name in raw.columns])
    events, shown = events.with_columns(assign_parts(events, split).alias("part")), transform.shown(raw)
    return Group(events, shown.with_columns(assign_beside(shown, events, split).alias("part")))


def held(group: Group, snapshot: str) -> Group:
    """Keep what a snapshot knows."""
    known = pl.col("part") <= SNAPSHOTS[snapshot]
    return Group(group.events.filter(known), group.shown.filter(known))


def per_snapshot(group: Group, rows: Callable[[Group], pl.DataFrame]) -> pl.DataFrame:
    """Compute rows from what each snapshot knows, with a column ``snapshot``."""
    return pl.concat([rows(held(group, name)).with_columns(snapshot=pl.lit(name)) for name in SNAPSHOTS])


def sums_of_items(group: Group, config: FeaturesConfig) -> pl.DataFrame:
    """Sums of each item over events and over impressions, for `sums.added_up`: an item has up to two rows."""
    return pl.concat([item_sums(group.events, config), shown_sums(group.shown, config)])


def part_sizes(events: pl.DataFrame) -> pl.DataFrame:
    """Count the events of each part: columns part, n, last (time of the newest, microseconds)."""
    return events.group_by("part").agg(pl.len().cast(pl.Int64).alias("n"), US.max().alias("last"))


def as_of(parts: pl.DataFrame) -> Mapping[str, int]:
    """The time of each snapshot's last event, microseconds; 0 for one that holds none.

    Args:
        parts: of `part_sizes`; several rows of a part are those of different users.
    """
    return {name: max(parts.filter(pl.col("part") <= part)["last"].to_list(), default=0) for name, part in SNAPSHOTS.items()}


def labels(events: pl.DataFrame, items_return: bool) -> pl.DataFrame:
    """What users turned to in each later part, with a column ``part``.

    Args:
        events: with ``context``. items_return: whether an item that a user has had is a label again.
    """
    return pl.concat(
        [
            transform.label_rows(
                events.filter(part=part),
                None if items_return else events.filter(pl.col("part") < part).select("user_id", "item_id"),
            ).with_columns(part=pl.lit(name))
            for name, part in LABEL_PARTS.items()
        ]
    )


def sequences(group: Group) -> pl.DataFrame:
    """What the fit snapshot knows, in order, one row per user: user_id, item_ids, strengths."""
    ordered = held(group, "fit").events.group_by("user_id", maintain_order=True)
    return ordered.agg(pl.col("item_id").alias("item_ids"), pl.col("strength").cast(pl.Float32).alias("strengths"))
