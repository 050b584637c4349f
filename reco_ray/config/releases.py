"""Releases: how many stay, and what one must show before it takes traffic, and when the next is made."""

from dataclasses import dataclass, field
from enum import Enum

from reco_ray.config.checks import between
from reco_ray.errors import ConfigError

__all__ = ["GateName", "GatesConfig", "ReleasesConfig", "RetrainConfig", "RetrainMode"]

_METRICS = ("ndcg", "recall", "mrr", "hit_rate")


class GateName(Enum):
    """What there is to pass."""

    integrity = "integrity"
    smoke = "smoke"
    metrics = "metrics"
    slices = "slices"
    latency = "latency"
    size = "size"
    cost = "cost"
    parity = "parity"
    drift = "drift"
    off_policy = "off_policy"
    approval = "approval"


@dataclass(kw_only=True)
class GatesConfig:
    """What a release must pass before it takes traffic, against the release that has it.

    Attributes:
        wanted: the gates, in order.
        requests: asked of both releases, in process.
        metric: ndcg, recall, mrr or hit_rate of the served lists.
        metric_margin: share of the champion's metric that the release may be worse by; the lower end of the interval of the
            paired difference, at ``confidence``, may not be below.
        slice_margin: share of the champion's metric that a third of the users, by the length of their histories, may be worse
            off by; the upper end of the interval of the paired difference may not be below.
        latency_ratio, latency_slack_ms: its p95 may be the champion's times the one and the other on top.
        size_ratio: of the bundles' bytes.
        cost_ratio, cost_slack_s: its CPU for 1,000 requests may be the champion's times the one and the other on top.
        parity_users, parity_limit: users whose rows are made by both codes, and share of them that may differ.
        drift_ratio: of the distance of a feature that drifts (PSI) to that of the champion's training.
        off_policy_margin: share of what was earned that the estimate may be below; its interval's upper end may not be.
        approvals: people who must have approved of it by name. approvers: who may; empty: anybody.
    """

    wanted: list[GateName] = field(default_factory=lambda: list(GateName))
    requests: int = 100
    metric: str = "ndcg"
    metric_margin: float = 0.1
    slice_margin: float = 0.1
    confidence: float = 0.95
    latency_ratio: float = 2.0
    latency_slack_ms: float = 5.0
    size_ratio: float = 2.0
    cost_ratio: float = 2.0
    cost_slack_s: float = 2.0
    parity_users: int = 200
    parity_limit: float = 0.0
    drift_ratio: float = 1.5
    off_policy_margin: float = 0.1
    approvals: int = 0
    approvers: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        between("gates.requests", self.requests, 1, 100_000)
        between("gates.metric_margin", self.metric_margin, 0, 1)
        between("gates.slice_margin", self.slice_margin, 0, 1)
        between("gates.confidence", self.confidence, 0.5, 0.999)
        between("gates.latency_ratio", self.latency_ratio, 0.1, 1000)
        between("gates.latency_slack_ms", self.latency_slack_ms, 0, 60_000)
        between("gates.size_ratio", self.size_ratio, 0.1, 1000)
        between("gates.cost_ratio", self.cost_ratio, 0.1, 1000)
        between("gates.cost_slack_s", self.cost_slack_s, 0, 60_000)
        between("gates.parity_users", self.parity_users, 1, 100_000)
        between("gates.parity_limit", self.parity_limit, 0, 1)
        between("gates.drift_ratio", self.drift_ratio, 1, 1000)
        between("gates.off_policy_margin", self.off_policy_margin, 0, 1)
        between("gates.approvals", self.approvals, 0, 20)
        if self.approvers and len(set(self.approvers)) < self.approvals:
            raise ConfigError(
                f"gates.approvals: found {self.approvals}, expected at most the {len(set(self.approvers))} of gates.approvers"
            )
        if self.metric not in _METRICS:
            raise ConfigError(f"gates.metric: found {self.metric!r}, expected one of {list(_METRICS)}")


@dataclass(kw_only=True)
class ReleasesConfig:
    """``keep``: of the releases published last, how many `reco releases prune` leaves whether they are used or not."""

    keep: int = 5

    def __post_init__(self) -> None:
        between("releases.keep", self.keep, 1, 100_000)


class RetrainMode(Enum):
    """What training starts from: nothing, or the champion's models."""

    full = "full"
    incremental = "incremental"


@dataclass(kw_only=True)
class RetrainConfig:
    """``retrain``: when to train, from what, and for how long and how much at most.

    Attributes:
        max_age_h: of the release published last; 0: age is no reason.
        new_events: that came in since; 0: their number is no reason.
        on_drift: whether drifting features are one; see ``drift``.
        mode: what training starts from.
        max_wall_s: it ends itself after so long; 0: never.
        cpu_hour_price: of one CPU reserved for an hour, in any currency.
        max_cost: it ends itself when CPU-hours times their price come to so much; 0: never.
    """

    max_age_h: float = 24.0
    new_events: int = 100_000
    on_drift: bool = True
    mode: RetrainMode = RetrainMode.full
    max_wall_s: float = 6 * 3600.0
    cpu_hour_price: float = 0.0
    max_cost: float = 0.0

    def __post_init__(self) -> None:
        between("retrain.max_age_h", self.max_age_h, 0, 100_000)
        between("retrain.new_events", self.new_events, 0, 10**15)
        between("retrain.max_wall_s", self.max_wall_s, 0, 10**7)
        between("retrain.cpu_hour_price", self.cpu_hour_price, 0, 10**6)
        between("retrain.max_cost", self.max_cost, 0, 10**9)
        if self.max_cost and not self.cpu_hour_price:
            raise ConfigError(
                f"retrain.max_cost: found {self.max_cost:g} without a price, expected retrain.cpu_hour_price above 0; "
                "give the price of one CPU for an hour"
            )
