"""Skew: whether the rows that requests read are what the lake gives for the same events.

A row names the last record of the bus that it holds (`types.UserRow.position`). Offline it is computed anew from the events
of the lake up to that record, by the functions that the training uses; columns that differ are named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from reco_ray.config import FeaturesConfig
from reco_ray.events.bus import partition_of
from reco_ray.features import transform
from reco_ray.features.items import ItemFacts
from reco_ray.features.online import UserState, add_user_events, unknown
from reco_ray.features.rows import user_row
from reco_ray.features.views import USER_COLUMNS, USER_TASTE
from reco_ray.hashing import hash64_many, user_bucket
from reco_ray.lake import tables
from reco_ray.types import UserRow

__all__ = ["TOLERANCE", "SkewReport", "compare", "streamed", "user_columns"]

TOLERANCE = 2e-5
"""Features are rounded to five digits; sums in another order may round the other way."""

Served = tuple[str, UserRow]
_BATCHES = 3


@dataclass(frozen=True, slots=True)
class SkewReport:
    """What a comparison found.

    Attributes:
        rows: compared. skewed: of them, with a difference. ahead: left out, as the lake does not hold their last record yet.
        columns: in how many rows each column differs, of those that do, the most frequent first; ``history``, ``weights`` and
            ``seen`` are columns too.
        largest: largest difference of each of these columns; 0 for those that are no numbers.
    """

    rows: int = 0
    skewed: int = 0
    ahead: int = 0
    columns: Mapping[str, int] = field(default_factory=dict)
    largest: Mapping[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Share of the rows that differ; 0 without rows."""
        return self.skewed / self.rows if self.rows else 0.0


def user_columns(categories: Sequence[str]) -> list[str]:
    """Names of the user view's columns, in order."""
    return [
        *(column.name for column in USER_COLUMNS),
        *(f"{column.name}:{category}" for column in USER_TASTE for category in categories),
    ]


def compare(
    root: str, served: Sequence[Served], stands: Sequence[int], items: ItemFacts, categories: list[str], config: FeaturesConfig
) -> SkewReport:
    """Compute served rows anew from the lake.

    Args:
        served: user ids and rows as read; a user may come more than once.
        stands: position that the lake holds of each partition of the bus.
        items, categories: of the release that the rows are for.
    """
    usable = [
        (user, row) for user, row in served if row.features.size and row.position <= stands[partition_of(user, len(stands))]
    ]
    if not usable:
        return SkewReport(ahead=len(served))
    offline = _offline(root, usable, items, config)
    names, counts, largest = user_columns(categories), dict[str, int](), dict[str, float]()
    skewed = 0
    for at, (_, row) in enumerate(usable):
        found = _differences(row, offline.get(str(at)), names)
        skewed += bool(found)
        for name, size in found.items():
            counts[name] = counts.get(name, 0) + 1
            largest[name] = max(largest.get(name, 0.0), size)
    order = sorted(counts, key=lambda name: (-counts[name], name))
    return SkewReport(
        len(usable), skewed, len(served) - len(usable), {n: counts[n] for n in order}, {n: largest[n] for n in order}
    )


def streamed(root: str, users: Sequence[str], items: ItemFacts, config: FeaturesConfig) -> list[Served]:
    """Rows that the streams' code makes of users' events in the lake: in three batches, each with events of all times."""
    events = _events(root, users, config, "event_id")
    batch = hash64_many(events["event_id"], "parity") % _BATCHES
    states, rows = dict[str, UserState](), dict[str, UserRow]()
    for at in range(_BATCHES):
        fresh = unknown(events.filter(pl.Series(batch == at, dtype=pl.Boolean)), states)
        for user, (state, row) in add_user_events(fresh, states, items, config).items():
            states[user], rows[user] = UserState.unpack(state.pack()), row
    return list(rows.items())


def _events(root: str, users: Sequence[str], config: FeaturesConfig, *extra: str) -> pl.DataFrame:
    """Events of users as `transform.prepare` leaves them, with their positions; -1 where they came by no bus."""
    buckets = sorted({user_bucket(user) for user in users})
    where = pl.col("user_bucket").is_in(buckets) & pl.col("user_id").is_in(users)
    columns = [*transform.EVENT_COLUMNS, "bus_position", *extra]
    events = transform.prepare(tables.read(root, "events", columns, where), config, ("bus_position", *extra))
    return events.with_columns(pl.col("bus_position").cast(pl.Int64).fill_null(-1))


def _offline(root: str, served: Sequence[Served], items: ItemFacts, config: FeaturesConfig) -> dict[str, UserRow]:
    """Rows by place in ``served``."""
    events = _events(root, sorted({user for user, _ in served}), config)
    wanted = pl.DataFrame(
        {
            "user_id": [user for user, _ in served],
            "upto": [row.position for _, row in served],
            "place": [str(at) for at in range(len(served))],
        }
    )
    each = events.join(wanted, on="user_id", how="inner").filter(pl.col("bus_position") <= pl.col("upto"))
    each = each.drop("user_id", "upto").rename({"place": "user_id"}).sort("user_id", "ts", "item_key", "strength")
    rows = transform.user_rows(each, items, config)
    return {row["user_id"]: user_row(row) for row in rows.iter_rows(named=True)}


def _differences(served: UserRow, offline: UserRow | None, names: Sequence[str]) -> dict[str, float]:
    if offline is None or served.features.shape != offline.features.shape:
        return {"row": 0.0}
    gaps = np.abs(served.features.astype(np.float64) - offline.features)
    found = {name: float(gap) for name, gap in zip(names, gaps, strict=True) if not gap <= TOLERANCE}
    for name in ("history", "weights", "seen", "had"):
        if not np.array_equal(getattr(served, name), getattr(offline, name)):
            found[name] = 0.0
    return found
