"""What gates judge by, and what one says."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reco_ray.evaluation.policy_report import PolicyReport
from reco_ray.evaluation.smoke import Answers
from reco_ray.features.drift import Drift
from reco_ray.features.skew import SkewReport

__all__ = ["Facts", "GateResult", "Values"]

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """What the gates judge by.

    Attributes:
        champion: has the traffic now; empty where nobody has.
        damage: what is wrong with the bundle; empty where it is whole. Then nothing else was looked at.
        answers: of the release and of the champion, to the same requests; None where there is no such release.
        metric: of the users that both were evaluated on, ours and the champion's, shapes (U,); None: not kept for one of them.
        history: length of these users' histories, shape (U,); None: not kept.
        sizes: bytes, ours and the champion's.
        train_s: seconds that training took, ours and the champion's; NaN where that is not on record.
        parity: of rows that the streams' code makes; None where there are no events to make them of.
        drifts: of our and of the champion's training from what requests carry now; None where there is nothing to compare.
        policy: what we would have earned where something was left to chance; None: ``policy_missing`` says why.
        approvals: who approved of the release.
    """

    release: str
    champion: str = ""
    damage: str = ""
    answers: tuple[Answers | None, Answers | None] = (None, None)
    metric: tuple[Values, Values] | None = None
    sizes: tuple[int, int] = (0, 0)
    history: Values | None = None
    train_s: tuple[float, float] = (math.nan, math.nan)
    parity: SkewReport | None = None
    drifts: tuple[Sequence[Drift], Sequence[Drift]] | None = None
    policy: PolicyReport | None = None
    policy_missing: str = ""
    approvals: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class GateResult:
    """What one gate says; ``remedy`` only where it did not pass."""

    name: str
    passed: bool
    found: str
    expected: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain values; what is not finite becomes null."""
        numbers = {name: value if math.isfinite(value) else None for name, value in self.numbers.items()}
        return {
            "name": self.name,
            "passed": self.passed,
            "found": self.found,
            "expected": self.expected,
            "numbers": numbers,
            "remedy": self.remedy,
        }
