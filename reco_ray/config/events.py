"""The feedback loop: the bus, what is admitted to it, the sink, exposures, and what becomes of old and unwanted data."""

from dataclasses import dataclass, field
from enum import Enum

from reco_ray.config.checks import between
from reco_ray.errors import ConfigError

__all__ = ["BusConfig", "BusKind", "EventsConfig", "ExposuresConfig", "FeedbackConfig", "PrivacyConfig"]


class BusKind(Enum):
    """What carries events from the gateway to the lake."""

    valkey = "valkey"
    kafka = "kafka"


@dataclass(kw_only=True)
class BusConfig:
    """The stream between gateway and lake.

    Attributes:
        partitions: of each topic; a user's records all go to one. Fixed for the life of a root.
        url: of a Valkey or Redis with ``appendfsync always``, where it is not the online store's; Kafka's bootstrap servers.
        keep_hours: Kafka's retention; a sink that is away for longer loses what it has not read.
        replication: Kafka's copies of each partition.
    """

    kind: BusKind = BusKind.valkey
    partitions: int = 2
    url: str = ""
    keep_hours: int = 168
    replication: int = 1

    def __post_init__(self) -> None:
        between("events.bus.partitions", self.partitions, 1, 1024)
        if self.kind is BusKind.kafka and not self.url:
            raise ConfigError("events.bus.url: found nothing, expected bootstrap servers; give events.bus.url=HOST:PORT")


@dataclass(kw_only=True)
class EventsConfig:
    """Events from applications.

    Attributes:
        dedup_window_s: an event_id accepted in the last so many seconds is answered as a duplicate and not sent on again.
            In the lake ids are unique whatever the window (see `events.sink`).
        max_future_s: an event later than this ahead of our clock goes to the dead letters.
        max_lag: records that may wait for the sink in one partition; above, events are refused with 503.
        sink_rows, sink_interval_s: a batch is written to the lake when it has so many rows or is so old.
        dead_letters_days: how long raw bytes of refused events are kept, on the bus and, those of imports, in the lake.
        compact_files: a (date) partition of the lake with more small files than this is compacted.
        sink_cpus: that Ray sets aside for the sink of one partition of the bus.
    """

    bus: BusConfig = field(default_factory=BusConfig)
    dedup_window_s: int = 600
    max_future_s: int = 300
    max_lag: int = 1_000_000
    sink_rows: int = 50_000
    sink_interval_s: float = 1.0
    dead_letters_days: int = 14
    compact_files: int = 32
    sink_cpus: float = 1.0

    def __post_init__(self) -> None:
        between("events.dedup_window_s", self.dedup_window_s, 1, 86_400)
        between("events.max_future_s", self.max_future_s, 0, 86_400)
        between("events.max_lag", self.max_lag, 1, 10**9)
        between("events.sink_rows", self.sink_rows, 1, 1_000_000)
        between("events.sink_interval_s", self.sink_interval_s, 0.01, 3_600)
        between("events.dead_letters_days", self.dead_letters_days, 1, 365)
        between("events.compact_files", self.compact_files, 2, 100_000)
        between("events.sink_cpus", self.sink_cpus, 0, 64)


@dataclass(kw_only=True)
class ExposuresConfig:
    """The record of each decision.

    Attributes:
        enabled: whether decisions are recorded.
        features_share: of the decisions that carry the user's served row as well.
        buffer: records that may wait in a gateway replica; what overflows is counted and lost.
        interval_s: between writes to the bus.
    """

    enabled: bool = True
    features_share: float = 0.1
    buffer: int = 10_000
    interval_s: float = 0.25

    def __post_init__(self) -> None:
        between("exposures.features_share", self.features_share, 0, 1)
        between("exposures.buffer", self.buffer, 1, 10_000_000)
        between("exposures.interval_s", self.interval_s, 0.01, 60)


@dataclass(kw_only=True)
class FeedbackConfig:
    """How events are joined to the decisions they follow.

    Attributes:
        delay_hours: an event counts for a decision for so long after it.
        grades: label of a slot by the strongest event that followed.
    """

    delay_hours: float = 72.0
    grades: dict[str, float] = field(
        default_factory=lambda: {"impression": 0.0, "click": 1.0, "view": 1.0, "like": 2.0, "add_to_cart": 2.0, "purchase": 3.0}
    )

    def __post_init__(self) -> None:
        between("feedback.delay_hours", self.delay_hours, 0.01, 24 * 365)


@dataclass(kw_only=True)
class PrivacyConfig:
    """What becomes of personal data.

    Attributes:
        events_days, exposures_days: raw rows older than this are deleted by `apply_retention`; 0 keeps them.
        fence_days: for so long after an erasure, late deliveries of what was erased are refused.
        pseudonym_key: environment variable that holds the secret with which logs name users.
        vacuum_hours: files that no version of a table since then needs are removed.
        user_ids: of the users that `erase_user` erases.
    """

    events_days: int = 0
    exposures_days: int = 365
    fence_days: int = 90
    pseudonym_key: str = "RECO_PSEUDONYM_KEY"
    vacuum_hours: int = 168
    user_ids: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        between("privacy.events_days", self.events_days, 0, 36_500)
        between("privacy.exposures_days", self.exposures_days, 0, 36_500)
        between("privacy.fence_days", self.fence_days, 1, 36_500)
        between("privacy.vacuum_hours", self.vacuum_hours, 1, 8_760)  # younger files may be those of a writer at work
