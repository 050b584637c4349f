"""Say what the data justify: the guide's maturity ladder, read off the lake."""

from dataclasses import dataclass

import polars as pl

from reco_ray.errors import DataError

__all__ = ["Assessment", "assess"]

_MIN_ITEMS = 100
_MIN_USERS = 200
_MIN_EVENTS_PER_USER = 5.0
_MIN_EVENTS = 5_000


@dataclass(frozen=True, slots=True)
class Assessment:
    """Size and shape of the events.

    Attributes:
        density: share of user-item pairs that occur.
        repeat_rate: share of events whose user had the item before.
        warm_share: share of users with at least five events.
    """

    users: int
    items: int
    events: int
    density: float
    repeat_rate: float
    warm_share: float
    events_per_user: float
    days: float

    @property
    def rung(self) -> str:
        """``starter``: lists and rules; ``trained``: recall models and a ranker."""
        enough = self.items >= _MIN_ITEMS and self.users >= _MIN_USERS and self.events >= _MIN_EVENTS
        return "trained" if enough and self.events_per_user >= _MIN_EVENTS_PER_USER else "starter"

    @property
    def advice(self) -> str:
        """What to do, in words, with the limits that decided."""
        if self.rung == "trained":
            again = "; items return often, so use rerank=repeat" if self.repeat_rate > 0.2 else ""
            return f"The data justify trained models: python jobs/run_pipeline.py{again}."
        return (
            f"Stay with lists and rules for now: python jobs/run_pipeline.py profile=starter. Trained models want at least "
            f"{_MIN_ITEMS} items, {_MIN_USERS} users, {_MIN_EVENTS} events and {_MIN_EVENTS_PER_USER:.0f} events a user."
        )

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of each number, for a table."""
        return [
            ("users", f"{self.users:,}"),
            ("items with events", f"{self.items:,}"),
            ("events", f"{self.events:,}"),
            ("events per user", f"{self.events_per_user:.1f}"),
            ("users with 5 events or more", f"{self.warm_share:.1%}"),
            ("density", f"{self.density:.3%}"),
            ("repeat rate", f"{self.repeat_rate:.1%}"),
            ("days covered", f"{self.days:,.0f}"),
            ("rung", self.rung),
        ]


def assess(events: pl.DataFrame) -> Assessment:
    """Measure the events.

    Args:
        events: columns user_id, item_id, ts, type; impressions do not count.
    Raises: DataError: there are none.
    """
    events = events.filter(pl.col("type") != "impression")
    if events.is_empty():
        raise DataError("assess: found no events, expected some; run import_dataset first")
    users, items = events["user_id"].n_unique(), events["item_id"].n_unique()
    pairs = events.select("user_id", "item_id").n_unique()
    per_user = events.group_by("user_id").len()["len"]
    first, last = events.select(pl.col("ts").min().alias("a"), pl.col("ts").max().alias("b")).row(0)
    return Assessment(
        users=users,
        items=items,
        events=events.height,
        density=pairs / (users * items),
        repeat_rate=1 - pairs / events.height,
        warm_share=float((per_user >= 5).sum()) / users,
        events_per_user=events.height / users,
        days=(last - first).total_seconds() / 86_400,
    )
