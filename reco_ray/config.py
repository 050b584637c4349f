"""The schemas of the configuration: one dataclass per group of ``conf/``.

Defaults live here; YAML under ``conf/`` holds only what differs. A field without a default is required. `compose.to_config`
turns a composed Hydra configuration into these classes once, at the door of a job; from there on they travel as they are.
The classes check themselves and do nothing else.
"""

import ipaddress
from dataclasses import dataclass, field
from enum import Enum

from reco_ray.errors import ConfigError

__all__ = [
    "Auth",
    "BatchConfig",
    "CacheConfig",
    "ClusterConfig",
    "ColumnsConfig",
    "DeploymentConfig",
    "EvaluationConfig",
    "FeaturesConfig",
    "PipelineConfig",
    "RankConfig",
    "RankKind",
    "RecallConfig",
    "RerankConfig",
    "ServeConfig",
    "SourceConfig",
    "SourceKind",
    "SourceName",
    "SplitConfig",
    "SplitKind",
    "StoreConfig",
    "Topology",
    "TrackingConfig",
    "TwoTowerConfig",
]


class SourceKind(Enum):
    """Where raw data come from."""

    movielens = "movielens"
    files = "files"


class SplitKind(Enum):
    """How events are divided in time; ``auto`` takes the global cut when the data can carry it."""

    auto = "auto"
    global_time = "global_time"
    per_user = "per_user"


class SourceName(Enum):
    """Recall sources. Those that a release has a quota for are the columns of `types.Candidates`, in this order."""

    two_tower = "two_tower"
    covisit = "covisit"
    popular = "popular"
    trending = "trending"
    fresh = "fresh"


class RankKind(Enum):
    """Which ranker a release carries; ``none`` keeps recall's order (starter rung)."""

    xgboost = "xgboost"
    none = "none"


class Topology(Enum):
    """``staged``: three deployments per release; ``fused``: the stages inside the gateway replica."""

    staged = "staged"
    fused = "fused"


class Auth(Enum):
    """``keys``: calls need an API key; ``off``: whoever reaches the port may call, which the loopback interface bounds."""

    off = "off"
    keys = "keys"


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name}: found {value}, expected {low} to {high}")


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(kw_only=True)
class ClusterConfig:
    """The Ray cluster a job runs on. A job submitted to a cluster, or given an address, attaches; otherwise it starts one.

    ``num_cpus`` counts logical CPUs of a cluster started here; Serve replicas and training workers share them. The label
    selectors name the nodes that training workers and Ray Data's tasks ask for, so that the autoscaler adds the right kind.
    """

    address: str = ""
    num_cpus: int = 4
    object_store_mb: int = 512
    dashboard_port: int = 8265
    auth_mode: str = "token"
    train_workers: int = 1
    train_cpus_per_worker: float = 0.5
    train_label_selector: dict[str, str] = field(default_factory=dict)
    data_label_selector: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.auth_mode not in ("token", "disabled"):
            raise ConfigError(f"cluster.auth_mode: found {self.auth_mode!r}, expected 'token' or 'disabled'")
        _between("cluster.train_workers", self.train_workers, 1, 1024)


@dataclass(kw_only=True)
class StoreConfig:
    """The online store. Without a ``url`` a Valkey server is started beside the job, under ``root``.

    Attributes:
        ttl_days: life of a user's row that is not written again.
        precomputed_ttl_days: age at which a precomputed slate is no answer any more.
    """

    url: str = ""
    port: int = 6390
    namespace: str = "reco"
    ttl_days: int = 30
    precomputed_ttl_days: int = 7
    timeout_ms: int = 50


@dataclass(kw_only=True)
class TrackingConfig:
    """MLflow. Without a ``uri``, runs go to an SQLite file under ``root``; a remote root needs a tracking server."""

    uri: str = ""
    experiment: str = "reco_ray"


@dataclass(kw_only=True)
class ColumnsConfig:
    """Column names in the user's own files, for ``source.kind=files``; an empty name means the column is not there."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    ts: str = "ts"
    type: str = ""
    value: str = ""
    event_id: str = ""
    session_id: str = ""
    title: str = "title"
    categories: str = "categories"
    year: str = "year"
    text: str = ""


@dataclass(kw_only=True)
class SourceConfig:
    """Raw data to import.

    Attributes:
        events, items: paths or URIs of CSV, Parquet or JSONL files; their endings decide the format.
        ts_unit: unit of a numeric ``ts`` column: s, ms or us.
        event_type: type of all events when the file has no type column.
        category_separator: splits a text column into categories.
        permute_ids: replace ids by a seeded permutation, for data whose ids leak time or popularity.
    """

    kind: SourceKind = SourceKind.movielens
    events: str = ""
    items: str = ""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    ts_unit: str = "s"
    event_type: str = "view"
    category_separator: str = "|"
    permute_ids: bool = True

    def __post_init__(self) -> None:
        if self.kind is SourceKind.files and not self.events:
            raise ConfigError("source.events: found nothing, expected a CSV, Parquet or JSONL file; give source.events=PATH")
        if self.ts_unit not in ("s", "ms", "us"):
            raise ConfigError(f"source.ts_unit: found {self.ts_unit!r}, expected 's', 'ms' or 'us'")


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
        _between("features.history", self.history, 1, 1000)
        _between("features.covisit_neighbours", self.covisit_neighbours, 1, 10_000)
        _between("features.half_life_days", self.half_life_days, 1e-3, 1e6)


@dataclass(kw_only=True)
class TwoTowerConfig:
    """The embedding model and its training."""

    embedding_size: int = 64
    hidden_size: int = 128
    dropout: float = 0.5
    batch_size: int = 512
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    temperature: float = 0.07
    epochs: int = 30
    patience: int = 4

    def __post_init__(self) -> None:
        _between("recall.two_tower.temperature", self.temperature, 1e-3, 10)
        _between("recall.two_tower.dropout", self.dropout, 0, 0.9)


@dataclass(kw_only=True)
class RecallConfig:
    """Sources and how many items each may bring; ``candidates`` caps their union.

    A catalogue below ``exact_below`` items is searched by brute force, which is exact; above, by a quantized tree.
    """

    quotas: dict[SourceName, int] = field(
        default_factory=lambda: {
            SourceName.two_tower: 200,
            SourceName.covisit: 200,
            SourceName.popular: 100,
            SourceName.fresh: 20,
        }
    )
    candidates: int = 300
    two_tower: TwoTowerConfig = field(default_factory=TwoTowerConfig)
    exact_below: int = 20_000

    def __post_init__(self) -> None:
        if not self.quotas:
            raise ConfigError(f"recall.quotas: found none, expected at least one of {[s.value for s in SourceName]}")
        _between("recall.candidates", self.candidates, 1, 5_000)


@dataclass(kw_only=True)
class RankConfig:
    """The ranker.

    The number of rounds is fixed: on a hundred validation users the best round is noise (8 to 297 over reruns, decision 0007).
    ``validation_share`` of the users are held out to report how it does.
    """

    kind: RankKind = RankKind.xgboost
    rounds: int = 150
    max_depth: int = 4
    learning_rate: float = 0.03
    min_child_weight: float = 10.0
    subsample: float = 0.8
    colsample: float = 0.6
    reg_lambda: float = 5.0
    validation_share: float = 0.1

    def __post_init__(self) -> None:
        _between("rank.max_depth", self.max_depth, 1, 16)
        _between("rank.validation_share", self.validation_share, 0.01, 0.5)


@dataclass(kw_only=True)
class RerankConfig:
    """Rules and diversity of the last stage.

    Attributes:
        seen_items_return: whether an item the user has had may come back; a property of the data (groceries yes, films no).
        diversity: MMR's weight of novelty against score; 0 keeps the ranker's order.
        diversity_pool: how many of the best items diversity may choose from.
        category_cap: at most so many items of one main category; 0 means no cap.
        blocked: item ids never shown.
        boosts: category -> number added to the standardised score.
    """

    seen_items_return: bool = False
    diversity: float = 0.05
    diversity_pool: int = 50
    category_cap: int = 0
    blocked: list[str] = field(default_factory=list)
    boosts: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _between("rerank.diversity", self.diversity, 0, 1)


@dataclass(kw_only=True)
class EvaluationConfig:
    """Offline evaluation of every stage."""

    k: int = 10
    bootstrap: int = 1000
    confidence: float = 0.95


@dataclass(kw_only=True)
class DeploymentConfig:
    """Size of one Serve deployment. With ``min_replicas`` 0 a stage ends when idle, and starts with the next request."""

    min_replicas: int = 1
    max_replicas: int = 2
    num_cpus: float = 0.1
    max_ongoing_requests: int = 64

    def __post_init__(self) -> None:
        _between("serve: min_replicas", self.min_replicas, 0, 10_000)
        if self.max_replicas < max(1, self.min_replicas):
            raise ConfigError(f"serve: found max_replicas={self.max_replicas} below min_replicas={self.min_replicas}; raise it")


@dataclass(kw_only=True)
class CacheConfig:
    """The slate cache of each gateway replica.

    Attributes:
        ttl_s: a slate is fresh for so long, give or take ``jitter`` of it.
        stale_s: for so long after that it is still answered, while one request makes it anew.
        fallback_s: until this age it may stand in where nothing can be made; at least ttl and stale together.
        max_entries, max_mb: the slates not used for longest leave first.
        max_refreshes: slates made anew at one time.
        refresh_precomputed_s: age at which a full answer replaces its user's precomputed slate.
    """

    ttl_s: float = 60.0
    jitter: float = 0.1
    stale_s: float = 240.0
    fallback_s: float = 3600.0
    max_entries: int = 20_000
    max_mb: int = 64
    max_refreshes: int = 16
    refresh_precomputed_s: float = 86_400.0

    def __post_init__(self) -> None:
        _between("serve.cache.jitter", self.jitter, 0, 0.5)
        if self.fallback_s < self.ttl_s * (1 + self.jitter) + self.stale_s:
            raise ConfigError(
                f"serve.cache.fallback_s: found {self.fallback_s}, expected at least ttl_s with its jitter and stale_s, "
                f"{self.ttl_s * (1 + self.jitter) + self.stale_s}; raise it"
            )


@dataclass(kw_only=True)
class ServeConfig:
    """The HTTP side.

    Attributes:
        key_rate, key_burst: requests per second, and at once, of an API key that names none, in each gateway replica.
        request_log: whether each request leaves a line, without users and items, in requests.jsonl beside the replica's log.
        trace_share: of the requests whose spans are written; ``trace_endpoint`` is where OTLP over HTTP goes, and without one
            they go to spans.jsonl beside the replica's log.
        queue_delay_ms: a stage gets replicas when rows wait longer than this for it in the gateway.
        scale_up_s, scale_down_s: a need for more, or fewer, replicas must last so long before the number changes.
        idle_to_zero_s: a stage with ``min_replicas`` 0 ends when nothing came for so long.
        keep_releases: the newest release and those before it that stay loaded, for a quick way back.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    topology: Topology = Topology.staged
    deadline_ms: int = 150
    auth: Auth = Auth.off
    key_rate: float = 100.0
    key_burst: int = 200
    request_log: bool = True
    trace_share: float = 0.0
    trace_endpoint: str = ""
    cache: CacheConfig = field(default_factory=CacheConfig)
    gateway: DeploymentConfig = field(
        default_factory=lambda: DeploymentConfig(min_replicas=2, max_replicas=2, max_ongoing_requests=256)
    )
    recall: DeploymentConfig = field(default_factory=DeploymentConfig)
    ranker: DeploymentConfig = field(default_factory=DeploymentConfig)
    reranker: DeploymentConfig = field(default_factory=DeploymentConfig)
    queue_delay_ms: float = 20.0
    scale_up_s: float = 2.0
    scale_down_s: float = 60.0
    idle_to_zero_s: float = 600.0
    keep_releases: int = 2
    ready_timeout_s: int = 180
    label_selector: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.auth is Auth.off and not _loopback(self.host):
            raise ConfigError(
                f"serve.auth: found off with serve.host={self.host}, expected keys where other machines reach the port; "
                "give serve.auth=keys, or serve.host=127.0.0.1"
            )
        _between("serve.key_rate", self.key_rate, 1e-3, 1e6)
        _between("serve.key_burst", self.key_burst, 1, 1_000_000)
        _between("serve.gateway.min_replicas", self.gateway.min_replicas, 1, 10_000)  # nothing waits in front of it
        _between("serve.queue_delay_ms", self.queue_delay_ms, 0.1, 10_000)
        _between("serve.scale_up_s", self.scale_up_s, 0, 3_600)
        _between("serve.scale_down_s", self.scale_down_s, 0, 86_400)
        _between("serve.idle_to_zero_s", self.idle_to_zero_s, 5, 86_400)


@dataclass(kw_only=True)
class BatchConfig:
    """``recommend_batch``: slates for ``users`` (all when empty), ``k`` items each."""

    users: list[str] = field(default_factory=list)
    k: int = 20
    users_per_task: int = 256


@dataclass(kw_only=True)
class PipelineConfig:
    """Everything a job may need; each job reads its groups and those of the steps before it.

    Attributes:
        root: the one URI under which all data lie: a folder, ``s3://`` or ``gs://``.
        seed: of every random choice.
        release: id of the release to deploy or score with; empty means the newest one published.
        only: ``run_pipeline`` stops after this step; empty runs all of them.
    """

    root: str = "~/.reco_ray"
    seed: int = 7
    release: str = ""
    only: str = ""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    source: SourceConfig = field(default_factory=SourceConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    recall: RecallConfig = field(default_factory=RecallConfig)
    rank: RankConfig = field(default_factory=RankConfig)
    rerank: RerankConfig = field(default_factory=RerankConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    serve: ServeConfig = field(default_factory=ServeConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)

    def __post_init__(self) -> None:
        if not self.root:
            raise ConfigError("root: found nothing, expected a URI that every node reaches; give root=s3://bucket/reco")
        if "://" in self.root and not (self.store.url and self.tracking.uri):
            raise ConfigError(
                f"root={self.root} is remote: found store.url={self.store.url!r} and tracking.uri={self.tracking.uri!r}, "
                "expected both, as nothing beside a job outlives it; give store.url=redis://HOST:PORT tracking.uri=URI"
            )
