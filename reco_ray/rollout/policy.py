"""The declared policy of a rollout: its steps, and what ends it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from reco_ray.errors import ConfigError
from reco_ray.store import Holdout

__all__ = ["DEFAULT_POLICY", "Guards", "Policy", "Step"]


@dataclass(frozen=True, slots=True)
class Step:
    """One share of the users, and what it takes to leave it for the next one.

    Attributes:
        share: of the users, in (0, 1]. Of a shadow: of the requests.
        min_s: seconds that it lasts at least.
        min_decisions: answers of the candidate that are seen at least.
        shadow: the candidate gets copies of requests, and answers nobody; errors, empty answers and latency may end it.
    """

    share: float
    min_s: float = 600.0
    min_decisions: int = 1_000
    shadow: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.min_s < 0 or self.min_decisions < 1:
            raise ConfigError(
                f"step: found share {self.share}, min_s {self.min_s}, min_decisions {self.min_decisions}, "
                "expected a share in (0, 1], no negative time and at least one decision"
            )


@dataclass(frozen=True, slots=True)
class Guards:
    """What a candidate may do worse than the champion before it leaves. All tests are valid at every look.

    Attributes:
        alpha: chance that a harmless release breaks one of the guards on health, in a whole rollout, for each guard.
        error_margin, degraded_margin, empty_margin: share of its answers by which it may have more of them.
        p95_ratio: its latency at 95% over the champion's.
        ctr_alpha: chance that a release with the same click rate is taken for a different one.
        ctr_effect: relative change of the click rate that the test is tuned to; others are found too, later.
        mismatch_alpha: chance that shares which are as declared are taken for others.
        quiet_s: seconds without any record, or without one of the candidate, after which the rollout waits.
        slo: share of good answers; below half of the budget left a step takes twice as long, without any there is none.
    """

    alpha: float = 0.01
    error_margin: float = 0.005
    degraded_margin: float = 0.02
    empty_margin: float = 0.005
    p95_ratio: float = 1.5
    ctr_alpha: float = 0.05
    ctr_effect: float = 0.2
    mismatch_alpha: float = 0.001
    quiet_s: float = 60.0
    slo: float = 0.99

    def __post_init__(self) -> None:
        shares = {k: v for k, v in asdict(self).items() if k not in ("p95_ratio", "quiet_s")}
        if wrong := {k: v for k, v in shares.items() if not 0 < v < 1}:
            raise ConfigError(f"guards: found {wrong}, expected numbers in (0, 1)")
        if self.p95_ratio <= 1 or self.quiet_s <= 0:
            raise ConfigError(f"guards: found p95_ratio {self.p95_ratio}, quiet_s {self.quiet_s}, expected > 1 and > 0")


@dataclass(frozen=True, slots=True)
class Policy:
    """Steps in order, a shadow first if at all, then shares growing to 1; and the guards over all of them.

    Attributes:
        holdout: users who stay with the champion, or the popular list; None: those of the rollout before, if any.
    """

    steps: tuple[Step, ...]
    guards: Guards = field(default_factory=Guards)
    holdout: Holdout | None = None

    def __post_init__(self) -> None:
        if self.holdout is not None and self.holdout.release:
            raise ConfigError(f"holdout: found release {self.holdout.release!r}, expected none; it is the champion's")
        if any(step.shadow for step in self.steps[1:]):
            raise ConfigError("policy: found a shadow behind another step, expected it as the first one")
        shares = [step.share for step in self.steps if not step.shadow]
        if not shares or shares[-1] != 1 or any(a >= b for a, b in pairwise(shares)):
            raise ConfigError(f"policy: found shares {shares}, expected them to grow to 1, as in 0.01, 0.05, 0.25, 1")

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        found = {"steps": [asdict(step) for step in self.steps], "guards": asdict(self.guards)}
        return found if self.holdout is None else {**found, "holdout": asdict(self.holdout)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Policy":
        """Read `to_json`, or what a person wrote like it; guards that are not named take their defaults.

        Raises: ConfigError: an unknown field, or a value out of range.
        """
        try:
            if unknown := set(found) - {"steps", "guards", "holdout"}:
                raise TypeError(f"unknown fields {sorted(unknown)}")
            holdout = None if found.get("holdout") is None else Holdout(**found["holdout"])
            return cls(tuple(Step(**each) for each in found["steps"]), Guards(**found.get("guards", {})), holdout)
        except (TypeError, KeyError, AttributeError) as exc:
            raise ConfigError(
                f"policy: found {exc}, expected steps with share, min_s, min_decisions, and guards, holdout"
            ) from exc


DEFAULT_POLICY = Policy(
    (
        Step(0.1, shadow=True),
        *(Step(0.01), Step(0.05)),
        *(Step(0.25, min_decisions=5_000), Step(1.0, min_decisions=5_000)),
    )
)
