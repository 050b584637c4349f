"""The HTTP side: deployments, cache, keys, scaling, where nobody is profiled."""

import re
from dataclasses import dataclass, field
from enum import Enum

from reco_ray.config.checks import between, loopback
from reco_ray.errors import ConfigError

__all__ = ["Auth", "CacheConfig", "DeploymentConfig", "ServeConfig", "Topology", "UnprofiledConfig"]


class Topology(Enum):
    """``staged``: three deployments per release; ``fused``: the stages inside the gateway replica."""

    staged = "staged"
    fused = "fused"


class Auth(Enum):
    """``keys``: calls need an API key; ``off``: whoever reaches the port may call, which the loopback interface bounds."""

    off = "off"
    keys = "keys"


@dataclass(kw_only=True)
class DeploymentConfig:
    """Size of one Serve deployment. With ``min_replicas`` 0 a stage ends when idle, and starts with the next request."""

    min_replicas: int = 1
    max_replicas: int = 2
    num_cpus: float = 0.1
    max_ongoing_requests: int = 64

    def __post_init__(self) -> None:
        between("serve: min_replicas", self.min_replicas, 0, 10_000)
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
        between("serve.cache.jitter", self.jitter, 0, 0.5)
        if self.fallback_s < self.ttl_s * (1 + self.jitter) + self.stale_s:
            raise ConfigError(
                f"serve.cache.fallback_s: found {self.fallback_s}, expected at least ttl_s with its jitter and stale_s, "
                f"{self.ttl_s * (1 + self.jitter) + self.stale_s}; raise it"
            )


@dataclass(kw_only=True)
class ServedConfig:
    """Items that a user was served are not served again, whether anything came of it or not.

    Attributes:
        window_s: for so long after they were served; 0 lets them return.
        most: items remembered of a user, the newest; well below what the catalogue has for anybody, or slates become short.
    """

    window_s: float = 0.0
    most: int = 200

    def __post_init__(self) -> None:
        between("serve.served.window_s", self.window_s, 0, 90 * 86_400)
        between("serve.served.most", self.most, 1, 1_000)


@dataclass(kw_only=True)
class UnprofiledConfig:
    """Where nobody is profiled: requests from there are answered as if they came without consent, marked ``profiling_off``.

    Attributes:
        surfaces: of requests, or of their context.
        regions: codes of ISO 3166; a country holds all its regions. A request is from where its location says, or else its
            locale; one that says neither is from nowhere, and is profiled.
    """

    surfaces: list[str] = field(default_factory=list)
    regions: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if strange := [each for each in self.surfaces if not re.fullmatch(r"[a-z0-9_-]{1,32}", each)]:
            raise ConfigError(f"serve.unprofiled.surfaces: found {strange}, expected names such as home; no request has others")
        if strange := [each for each in self.regions if not re.fullmatch(r"[A-Z]{2}(-[A-Z0-9]{1,3})?", each)]:
            raise ConfigError(
                f"serve.unprofiled.regions: found {strange}, expected codes of ISO 3166 such as DE or DE-BY; "
                "in YAML Norway needs quotes"
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
        rollout_webhook: address that gets each decision of a rollout as JSON; empty: none.
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
    served: ServedConfig = field(default_factory=ServedConfig)
    unprofiled: UnprofiledConfig = field(default_factory=UnprofiledConfig)
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
    rollout_webhook: str = ""
    ready_timeout_s: int = 180
    label_selector: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.auth is Auth.off and not loopback(self.host):
            raise ConfigError(
                f"serve.auth: found off with serve.host={self.host}, expected keys where other machines reach the port; "
                "give serve.auth=keys, or serve.host=127.0.0.1"
            )
        between("serve.key_rate", self.key_rate, 1e-3, 1e6)
        between("serve.key_burst", self.key_burst, 1, 1_000_000)
        between("serve.gateway.min_replicas", self.gateway.min_replicas, 1, 10_000)  # nothing waits in front of it
        between("serve.queue_delay_ms", self.queue_delay_ms, 0.1, 10_000)
        between("serve.scale_up_s", self.scale_up_s, 0, 3_600)
        between("serve.scale_down_s", self.scale_down_s, 0, 86_400)
        between("serve.idle_to_zero_s", self.idle_to_zero_s, 5, 86_400)
