"""What was counted of the two releases of a rollout, step by step."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LATENCY_MS", "N_BUCKETS", "Arm", "Evidence"]

N_BUCKETS = 64
LATENCY_MS: NDArray[np.float64] = np.geomspace(0.1, 60_000, 120)  # bounds of the bins: 12% apart


@dataclass(slots=True, eq=False)
class Arm:
    """One release during one step.

    Attributes:
        rates: decisions and those with a click, per bucket of users, shape (64, 2).
        made: decisions whose slate was made for them; the next three are of these.
        errors, degraded, empty: a stage failed or was late; less than full; without items.
        latency: made decisions per bin of `LATENCY_MS`, shape (121,).
        users: distinct users.
    """

    rates: NDArray[np.float64] = field(default_factory=lambda: np.zeros((N_BUCKETS, 2)))
    made: int = 0
    errors: int = 0
    degraded: int = 0
    empty: int = 0
    latency: NDArray[np.int64] = field(default_factory=lambda: np.zeros(LATENCY_MS.size + 1, np.int64))
    users: int = 0

    @property
    def decisions(self) -> int:
        """All of its answers, from the cache too."""
        return int(self.rates[:, 0].sum())

    def took(self, ms: float) -> None:
        """Count a latency."""
        self.latency[int(np.searchsorted(LATENCY_MS, ms))] += 1

    def quantile_ms(self, q: float) -> float:
        """Upper bound of the bin that holds a quantile; NaN without any latency."""
        total = int(self.latency.sum())
        if not total:
            return float("nan")
        at = int(np.searchsorted(np.cumsum(self.latency), q * total))
        return float(LATENCY_MS[min(at, LATENCY_MS.size - 1)])

    def slower_than(self, ms: float) -> int:
        """Latencies in bins that lie wholly above ``ms``."""
        return int(self.latency[int(np.searchsorted(LATENCY_MS, ms)) + 1 :].sum())

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        counts = {name: getattr(self, name) for name in ("made", "errors", "degraded", "empty", "users")}
        return {**counts, "rates": self.rates.astype(int).tolist(), "latency": self.latency.tolist()}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Arm":
        """Read `to_json`."""
        arrays = {"rates": np.array(found["rates"], np.float64), "latency": np.array(found["latency"], np.int64)}
        return cls(**{**found, **arrays})


@dataclass(slots=True, eq=False)
class Evidence:
    """Both releases in each step up to now.

    Attributes:
        steps: candidate and champion, one pair per step; the last one is the current step.
        heard_ts: when a record of any release was last seen. candidate_ts: one of the candidate. Seconds since 1970.
        good, total: answers of all releases since the rollout began, for the error budget.
        held: users who are held out, one per step; they are judged by nothing here.
    """

    steps: list[tuple[Arm, Arm]] = field(default_factory=lambda: [(Arm(), Arm())])
    heard_ts: float = 0.0
    candidate_ts: float = 0.0
    good: int = 0
    total: int = 0
    held: list[Arm] = field(default_factory=lambda: [Arm()])

    @property
    def now(self) -> tuple[Arm, Arm]:
        """Candidate and champion in the current step."""
        return self.steps[-1]

    def next_step(self) -> None:
        """Count anew."""
        self.steps.append((Arm(), Arm()))
        self.held.append(Arm())

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        rest = {name: getattr(self, name) for name in ("heard_ts", "candidate_ts", "good", "total")}
        steps = [[arm.to_json() for arm in pair] for pair in self.steps]
        return {**rest, "steps": steps, "held": [arm.to_json() for arm in self.held]}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Evidence":
        """Read `to_json`."""
        steps = [(Arm.from_json(a), Arm.from_json(b)) for a, b in found["steps"]]
        held = [Arm.from_json(each) for each in found.get("held", ())] or [Arm() for _ in steps]  # of before there is none
        return cls(**{**found, "steps": steps, "held": held})
