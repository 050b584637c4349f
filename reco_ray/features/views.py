"""Feature views: what is computed per entity, defined once.

A view's version is a hash of its definition; a release names the versions that it was trained on.
"""

import math
from dataclasses import dataclass

from reco_ray.config import FeaturesConfig
from reco_ray.hashing import digest

__all__ = [
    "CONTEXT_COLUMNS",
    "ITEM_COLUMNS",
    "SNAPSHOTS",
    "STRENGTH",
    "USER_COLUMNS",
    "USER_TASTE",
    "VIEWS",
    "Column",
    "View",
    "user_view_version",
]

SNAPSHOTS = {"fit": 0, "eval": 1, "live": 2}
"""Snapshot -> the last part of the split that it holds."""

STRENGTH = {"click": 0.5, "view": 0.5, "add_to_cart": 0.7, "purchase": 1.0, "like": 1.0}
"""How much an event of this type says for an item. Ratings depend on their value; other types say nothing for it."""

LOW_RATING_STRENGTH = 0.25


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a view, float32.

    Attributes:
        default: stands in for an unknown entity, or value of a context.
        sensitive: whether it says something of a person that the law or good sense protects; training takes it only where
            ``rank.declared_sensitive`` names it.
        grows: whether it grows as time passes, whatever people do: that it has moved is no alarm.
    """

    name: str
    default: float
    description: str
    sensitive: bool = False
    grows: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """What is computed for each entity of one kind.

    Attributes:
        entity: ``user``, ``item`` or ``context``. sources: tables of the lake that it is computed from.
        owner: who answers for it. freshness_s: an event that is not in the features after so long is late, which alarms; 0
            where requests bring the features along.
        columns: in the order of the row.
        per_category: for each category of the release's catalogue one more column of each of these, behind the others.
    """

    name: str
    entity: str
    description: str
    owner: str
    freshness_s: float
    sources: tuple[str, ...]
    columns: tuple[Column, ...]
    per_category: tuple[Column, ...] = ()


USER_COLUMNS = (
    Column("user_events", 0.0, "log(1 + number of events)"),
    Column("user_decayed", 0.0, "log(1 + strength, decayed up to the newest event)"),
    Column("user_strength_mean", 0.5, "mean strength of the events"),
    Column("user_value_mean", 0.0, "mean value (rating); 0 without values"),
    Column("user_value_std", 0.0, "standard deviation of the values"),
    Column("user_span_days", 0.0, "log(1 + days between first and last event)", grows=True),
    Column("user_year_mean", 0.0, "mean year of the items, in decades since 2000; 0 without years"),
    Column("user_year_std", 0.0, "standard deviation of these years, in decades"),
    Column("user_views", 0.0, "log(1 + decayed number of views)"),
    Column("user_clicks", 0.0, "log(1 + decayed number of clicks)"),
    Column("user_purchases", 0.0, "log(1 + decayed number of purchases)"),
)
"""Then follow, per category, those of `USER_TASTE`."""

ITEM_COLUMNS = (
    Column("item_events", 0.0, "log(1 + number of events)"),
    Column("item_decayed", 0.0, "log(1 + decayed strength)"),
    Column("item_trending", 0.0, "log(1 + strength decayed by the trending half-life)"),
    Column("item_positive_share", 0.5, "share of positive events, shrunk towards the mean"),
    Column("item_value_mean", 0.0, "mean value, shrunk towards the mean of all"),
    Column("item_value_std", 0.0, "standard deviation of the values"),
    Column("item_age_days", 0.0, "log(1 + days since the item's first event)", grows=True),
    Column("item_year", 0.0, "year, in decades since 2000; 0 without a year"),
    Column("item_clicks", 0.0, "log(1 + decayed number of clicks)"),
    Column("item_purchases", 0.0, "log(1 + decayed number of purchases)"),
    Column("item_ctr", 0.0, "decayed clicks per impression, at most 1, shrunk towards that of all; 0 without impressions"),
    Column("item_people", 0.0, "log(1 + number of users who had it)"),
    Column("item_times", 0.0, "log of the mean number of events per user who had it, shrunk towards that of all"),
    Column("item_again", 0.0, "share of the decayed strength that is of users who had it before, shrunk towards that of all"),
)

CONTEXT_COLUMNS = (
    Column("context_hour", math.nan, "hour of the day, 0 to 23, UTC"),
    Column("context_weekday", math.nan, "day of the week, 0 (Monday) to 6, UTC"),
    Column("context_device", math.nan, "code of the device"),
    Column("context_locale", math.nan, "code of the locale"),
    Column("context_location", math.nan, "code of the country or region; a point has none"),
    Column("context_surface", math.nan, "code of the surface"),
)

USER_TASTE = (
    Column("user_share", 0.0, "share of the user's decayed strength that is of the category"),
    Column("user_lift", 0.0, "decayed mean of strength in the category, less the user's mean, shrunk"),
)

VIEWS = (
    View(
        "user",
        "user",
        "What a user has done, and of which categories.",
        "recommendation",
        60.0,
        ("events", "items"),
        USER_COLUMNS,
        USER_TASTE,
    ),
    View("item", "item", "What all users have done with an item.", "recommendation", 60.0, ("events", "items"), ITEM_COLUMNS),
    View(
        "context",
        "context",
        "When and where a slate is wanted: of the request itself, in training of the first event that its labels hold.",
        "recommendation",
        0.0,
        ("events",),
        CONTEXT_COLUMNS,
    ),
)


def user_view_version(config: FeaturesConfig, categories: list[str]) -> str:
    """Return the version of the user view: it changes when its meaning does."""
    names = [c.name for c in USER_COLUMNS]
    return digest("user_view/4", *names, *categories, repr(config), repr(sorted(STRENGTH.items())))
