"""What a release is judged by, and slates made in batches."""

from dataclasses import dataclass, field

from reco_ray.config.checks import between
from reco_ray.errors import ConfigError

__all__ = [
    "BatchConfig",
    "EvaluationConfig",
    "PolicyConfig",
    "ReplayConfig",
]


@dataclass(kw_only=True)
class EvaluationConfig:
    """Offline evaluation of every stage; ``cohorts`` names attributes of users by which the report divides them."""

    k: int = 10
    bootstrap: int = 1000
    confidence: float = 0.95
    cohorts: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class PolicyConfig:
    """``evaluate_policy``: what another policy would have earned, from what was logged.

    Without a ``table`` the logs are this system's exposures of the last ``hours`` and what followed them, and the policy in
    question is the configured ``release``. A table of one's own has a row per place.

    Attributes:
        table: URI of a CSV or Parquet file.
        action, reward, propensity, target: its columns: what was done, what came of it, with which odds it was done, and with
            which odds the policy in question would have done it.
        draw, position: rows of one draw, and their places from 1, where several things are done at once; odds are then those
            given the places before. Empty where each row is a draw.
        unit: what is independent of what, such as a user; empty where each draw is.
        context: columns that a model of rewards may use. With it, and columns ``target_prefix`` + action for the odds of every
            action under the policy in question, estimates are doubly robust too.
        outcome: of exposures: clicks, purchases, revenue or grade.
        min_effective: fewer effective draws are refused.
        draws: of exposures that are used at most.
    """

    table: str = ""
    action: str = "action"
    reward: str = "reward"
    propensity: str = "propensity"
    target: str = "target"
    draw: str = ""
    position: str = ""
    unit: str = ""
    context: list[str] = field(default_factory=list)
    target_prefix: str = "target:"
    outcome: str = "clicks"
    hours: float = 168.0
    min_effective: float = 100.0
    confidence: float = 0.95
    draws: int = 20_000

    def __post_init__(self) -> None:
        between("policy.confidence", self.confidence, 0.5, 0.999)
        between("policy.min_effective", self.min_effective, 2, 1e9)
        if self.outcome not in (allowed := ("clicks", "purchases", "revenue", "grade")):
            raise ConfigError(f"policy.outcome: found {self.outcome!r}, expected one of {list(allowed)}")
        if bool(self.draw) != bool(self.position):
            raise ConfigError(f"policy: found draw={self.draw!r} and position={self.position!r}, expected both or none")


@dataclass(kw_only=True)
class ReplayConfig:
    """Logged requests through two releases.

    Attributes:
        against: release that ``release`` is compared with; empty: the same one.
        requests: the newest ones that are taken.
    """

    against: str = ""
    requests: int = 1_000

    def __post_init__(self) -> None:
        between("replay.requests", self.requests, 1, 1_000_000)


@dataclass(kw_only=True)
class BatchConfig:
    """``recommend_batch``: slates for ``users`` (all when empty), ``k`` items each."""

    users: list[str] = field(default_factory=list)
    k: int = 20
    users_per_task: int = 256
