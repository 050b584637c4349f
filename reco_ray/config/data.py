"""Data that come in, how they are divided in time, and what is computed from them."""

from dataclasses import dataclass, field
from enum import Enum

from reco_ray.config.checks import between
from reco_ray.errors import ConfigError

__all__ = [
    "ColumnsConfig",
    "DateUnit",
    "DriftConfig",
    "FeaturesConfig",
    "LakeConfig",
    "SkewConfig",
    "SourceConfig",
    "SourceKind",
    "SplitConfig",
    "SplitKind",
]


class SourceKind(Enum):
    """Where raw data come from."""

    movielens = "movielens"
    completejourney = "completejourney"
    files = "files"


class SplitKind(Enum):
    """How events are divided in time; ``auto`` takes the global cut when the data can carry it."""

    auto = "auto"
    global_time = "global_time"
    per_user = "per_user"


@dataclass(kw_only=True)
class ColumnsConfig:
    """Column names in the user's own files, for ``source.kind=files``; an empty name means the column is not there.

    With order_id, quantity, price and currency named, purchases must have them, as they must when applications send them.
    ``price`` is what a purchase cost, ``item_price`` a column of the items: what one costs now.
    """

    user_id: str = "user_id"
    item_id: str = "item_id"
    ts: str = "ts"
    type: str = ""
    value: str = ""
    event_id: str = ""
    session_id: str = ""
    order_id: str = ""
    quantity: str = ""
    price: str = ""
    currency: str = ""
    dwell_ms: str = ""
    request_id: str = ""
    position: str = ""
    consent: str = ""
    title: str = "title"
    categories: str = "categories"
    year: str = "year"
    text: str = ""
    item_price: str = "price"


@dataclass(kw_only=True)
class SourceConfig:
    """Raw data to import.

    Attributes:
        events, items: paths or URIs of CSV, Parquet or JSONL files; their endings decide the format.
        ts_unit: unit of a numeric ``ts`` column: s, ms or us.
        event_type: type of all events when the file has no type column.
        category_separator: splits a text column into categories.
        permute_ids: replace ids by a seeded permutation, for data whose ids leak time or popularity.
        refused_share: an import of which the contract refuses a larger share writes nothing.
    """

    kind: SourceKind = SourceKind.movielens
    events: str = ""
    items: str = ""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    ts_unit: str = "s"
    event_type: str = "view"
    category_separator: str = "|"
    permute_ids: bool = True
    refused_share: float = 0.01

    def __post_init__(self) -> None:
        if self.kind is SourceKind.files and not self.events:
            raise ConfigError("source.events: found nothing, expected a CSV, Parquet or JSONL file; give source.events=PATH")
        if self.ts_unit not in ("s", "ms", "us"):
            raise ConfigError(f"source.ts_unit: found {self.ts_unit!r}, expected 's', 'ms' or 'us'")
        between("source.refused_share", self.refused_share, 0, 1)


class DateUnit(Enum):
    """The partitions of the lake's tables of events."""

    day = "day"
    month = "month"


@dataclass(kw_only=True)
class LakeConfig:
    """The lake's tables. ``date_unit`` is fixed for the life of a root; months suit few events over many years."""

    date_unit: DateUnit = DateUnit.day


@dataclass(kw_only=True)
class SplitConfig:
    """Division of the events in time: ``fit`` trains recall, the next part up to ``rank`` labels the ranker, the rest tests.

    ``min_test_users``: a global cut needs so many test users with a history before it.
    """

    kind: SplitKind = SplitKind.auto
    fit: float = 0.64
    rank: float = 0.8
    min_test_users: int = 200

    def __post_init__(self) -> None:
        if not 0 < self.fit < self.rank < 1:
            raise ConfigError(f"split: found fit={self.fit}, rank={self.rank}, expected 0 < fit < rank < 1")


@dataclass(kw_only=True)
class FeaturesConfig:
    """What is computed from the events.

    Attributes:
        history: newest items kept per user, in order.
        seen_limit: newest items kept per user for the seen-item filter.
        half_life_days: of the decayed counters.
        trending_half_life_days: of the short counter behind the trending source.
        positive_rating: a rating of at least this counts as positive; lower ones only as seen.
        covisit_window: items of one user within so many positions of each other count as visited together.
        covisit_neighbours: kept per item.
    """

    history: int = 50
    seen_limit: int = 5000
    half_life_days: float = 180.0
    trending_half_life_days: float = 7.0
    positive_rating: float = 4.0
    covisit_window: int = 30
    covisit_shrinkage: float = 10.0
    covisit_neighbours: int = 100

    def __post_init__(self) -> None:
        between("features.history", self.history, 1, 1000)
        between("features.covisit_neighbours", self.covisit_neighbours, 1, 10_000)
        between("features.half_life_days", self.half_life_days, 1e-3, 1e6)


@dataclass(kw_only=True)
class SkewConfig:
    """Comparison of served features with the lake.

    Attributes:
        hours: of decisions that are looked at.
        rows: compared at most, a random sample.
        limit: share of the rows that may differ before the job fails.
    """

    hours: float = 24.0
    rows: int = 2_000
    limit: float = 0.001

    def __post_init__(self) -> None:
        between("skew.hours", self.hours, 0.01, 10_000)
        between("skew.rows", self.rows, 1, 1_000_000)
        between("skew.limit", self.limit, 0, 1)


@dataclass(kw_only=True)
class DriftConfig:
    """Comparison of served features with those that the release's ranker was trained on.

    Attributes:
        hours: of decisions that are looked at.
        rows: compared at most on either side, a random sample, one of each user.
        min_rows: with fewer rows on either side nothing drifts.
        psi: population stability index above which a column drifts; by custom 0.1 is a small shift, 0.25 one to act on.
    """

    hours: float = 24.0
    rows: int = 5_000
    min_rows: int = 500
    psi: float = 0.25

    def __post_init__(self) -> None:
        between("drift.hours", self.hours, 0.01, 10_000)
        between("drift.rows", self.rows, 1, 1_000_000)
        between("drift.min_rows", self.min_rows, 1, self.rows)
        between("drift.psi", self.psi, 0.01, 100)
