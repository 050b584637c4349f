"""Division of the events in time into three parts: fit (0), rank (1), test (2).

A snapshot of part p holds the parts up to p and nothing later, so that what is computed from it knows nothing of what it is
judged by. One global cut in time is the honest choice; where hardly a test user has a history before it (people who rate
everything in one sitting), the last part of each user's own events is taken instead, and reports say so.
"""

from dataclasses import dataclass

import polars as pl

from reco_ray.config import SplitConfig, SplitKind
from reco_ray.errors import DataError

__all__ = ["PARTS", "Split", "assign_beside", "assign_parts", "choose_split", "crossing", "cuts_of", "minutes_of"]

PARTS = ("fit", "rank", "test")

_MINUTE_US = 60_000_000


@dataclass(frozen=True, slots=True)
class Split:
    """A chosen division.

    Attributes:
        kind: global_time or per_user, never auto.
        fit, rank: shares of the events (global) or of each user's events (per user) up to the two cuts.
        fit_until, rank_until: the global cuts, microseconds since the epoch; 0 for per_user.
        warm_test_users: users after the global cut that have a history before it.
        cold_test_users: those that have none.
    """

    kind: SplitKind
    fit: float
    rank: float
    fit_until: int
    rank_until: int
    warm_test_users: int
    cold_test_users: int

    @property
    def sentence(self) -> str:
        """What was done and why, for a report."""
        cold = f"{self.cold_test_users} of the users after a global cut have no history before it"
        if self.kind is SplitKind.global_time:
            return f"One global cut in time: features and models see only events before it; {cold}, and are left out."
        return (
            f"The last {1 - self.rank:.0%} of each user's own events are the test, because a global cut would leave "
            f"{self.warm_test_users} test users with a history ({cold}). Within a user nothing later is seen; counts over all "
            "users may hold events of other people that are later in calendar time."
        )


def minutes_of(events: pl.DataFrame) -> pl.DataFrame:
    """Count events by minute: columns minute (since 1970) and n. Counts of different users add up."""
    return events.group_by((pl.col("ts").dt.epoch("us") // _MINUTE_US).alias("minute")).agg(pl.len().cast(pl.Int64).alias("n"))


def cuts_of(minutes: pl.DataFrame, config: SplitConfig) -> tuple[int, int]:
    """The global cuts, microseconds: starts of the minutes in which the shares ``fit`` and ``rank`` of all events are reached.

    Args:
        minutes: rows of `minutes_of` of all events.
    Raises: DataError: there are no events.
    """
    if minutes.is_empty():
        raise DataError("split: found no events, expected some; run import_dataset first")
    counted = (
        minutes.group_by("minute").agg(pl.col("n").sum()).sort("minute").with_columns(pl.col("n").cum_sum().alias("until"))
    )
    last = counted["until"][-1] - 1
    fit, rank = (counted.filter(pl.col("until") > share * last)["minute"][0] for share in (config.fit, config.rank))
    return int(fit) * _MINUTE_US, int(rank) * _MINUTE_US


def crossing(events: pl.DataFrame, cut_us: int) -> tuple[int, int]:
    """Users with events after a cut: those who have a history before it, and those who have none."""
    first, last = pl.col("ts").dt.epoch("us").min().alias("first"), pl.col("ts").dt.epoch("us").max().alias("last")
    after = events.group_by("user_id").agg(first, last).filter(pl.col("last") >= cut_us)
    warm = after.filter(pl.col("first") < cut_us).height
    return warm, after.height - warm


def choose_split(cuts: tuple[int, int], warm: int, cold: int, config: SplitConfig) -> Split:
    """Choose the kind of split.

    Args:
        cuts: of `cuts_of`. warm, cold: sums of `crossing` at the second of them, over all users.
    """
    kind = config.kind
    if kind is SplitKind.auto:
        kind = SplitKind.global_time if warm >= config.min_test_users else SplitKind.per_user
    fit_until, rank_until = cuts if kind is SplitKind.global_time else (0, 0)
    return Split(kind, config.fit, config.rank, fit_until, rank_until, warm, cold)


def assign_parts(events: pl.DataFrame, split: Split) -> pl.Series:
    """Return each event's part, int8.

    Args:
        events: columns user_id, ts, event_id; all events of each user that occurs.
    """
    if split.kind is SplitKind.global_time:
        time = pl.col("ts").dt.epoch("us")
        part = (time >= split.fit_until).cast(pl.Int8) + (time >= split.rank_until).cast(pl.Int8)
    else:
        # equal times are ordered by event id, a hash: neither file order nor item order decides
        position = pl.struct("ts", "event_id").rank("ordinal").over("user_id") - 1
        share = position / pl.len().over("user_id")
        part = (share >= split.fit).cast(pl.Int8) + (share >= split.rank).cast(pl.Int8)
    return events.select(part.alias("part"))["part"]


def assign_beside(others: pl.DataFrame, events: pl.DataFrame, split: Split) -> pl.Series:
    """Return the part, int8, of events that are not divided themselves: the part that its user has come to by then.

    Args:
        others: columns user_id, ts. events: columns user_id, ts and part, of `assign_parts`; all events of the same users.
    """
    if split.kind is SplitKind.global_time:
        return assign_parts(others, split)
    since = [pl.col("ts").filter(pl.col("part") >= part).min().alias(f"since_{part}") for part in (1, 2)]
    known = others.join(events.group_by("user_id").agg(since), on="user_id", how="left", maintain_order="left")
    part = pl.sum_horizontal((pl.col("ts") >= pl.col(f"since_{part}")).fill_null(False).cast(pl.Int8) for part in (1, 2))
    return known.select(part.cast(pl.Int8).alias("part"))["part"]
