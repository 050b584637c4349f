"""What another policy would have earned, from the logs of one that left something to chance.

A draw fills k places one after another, and each place has its odds given those before it, under the policy that was logged and
under the one in question. C_j, the product of their ratios up to place j, turns what was logged into what would have been.

- ``ips``: mean of C_k times the draw's reward. Unbiased, wide.
- ``snips``: the same over the sum of C_k instead of their number. Slightly biased, mostly narrower.
- ``sequential``: each place's reward with its own C_j, normalised place by place. Holds where what happens in a place depends
  on the places before it, never on those behind.
- ``dr``: doubly robust, place by place: a model's expectation, corrected by what was logged. Right where either is; the better
  the model, the narrower.

References: Horvitz and Thompson 1952; Swaminathan and Joachims 2015; McInerney et al. 2020, Counterfactual Evaluation of Slate
Recommendations with Sequential Reward Interactions; Dudik et al. 2011; Kiyohara et al. 2022, Doubly Robust Off-Policy
Evaluation for Ranking Policies under the Cascade Behavior Model.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reco_ray.evaluation.bootstrap import Interval

__all__ = ["Draws", "Estimate", "Support", "estimate", "mean_interval", "support"]

_SURE = 0.999  # of the mean weight's interval: one in a thousand sound estimates is refused


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """Logged draws; a decision without places is a draw of one.

    Attributes:
        rewards: of each place, 0 behind the end of a short slate, shape (n, k).
        logged: odds of each place under the policy that drew it, 1 behind the end, shape (n, k).
        target: the same under the policy in question.
        units: what is independent of what, such as users: numbers from 0, shape (n,).
        predicted: a model's reward of what was shown, shape (n, k); None where there is no model.
        expected: that of what the target would show in this place behind the logged ones, shape (n, k).
    """

    rewards: NDArray[np.float64]
    logged: NDArray[np.float64]
    target: NDArray[np.float64]
    units: NDArray[np.int64]
    predicted: NDArray[np.float64] | None = None
    expected: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        shape = self.rewards.shape
        for name in ("logged", "target", "predicted", "expected"):
            found = getattr(self, name)
            if found is not None and found.shape != shape:
                raise ValueError(f"draws.{name} has shape {found.shape}, expected {shape} like rewards")
        if len(shape) != 2 or self.units.shape != shape[:1]:
            raise ValueError(f"draws have rewards of {shape} and units of {self.units.shape}, expected (n, k) and (n,)")
        if (self.predicted is None) != (self.expected is None):
            raise ValueError("draws have one of predicted and expected, expected both or none")
        if not ((self.logged > 0) & (self.logged <= 1)).all():
            raise ValueError(f"draws.logged: found {self.logged.min()} to {self.logged.max()}, expected above 0 and at most 1")
        if not ((self.target >= 0) & (self.target <= 1)).all():
            raise ValueError(f"draws.target: found {self.target.min()} to {self.target.max()}, expected 0 to 1")

    @property
    def weights(self) -> NDArray[np.float64]:
        """C_j, shape (n, k)."""
        return np.asarray(np.cumprod(self.target / self.logged, axis=1))


@dataclass(frozen=True, slots=True)
class Support:
    """Whether logs can say anything about a policy.

    Attributes:
        draws: how many there are. effective: so many draws of the policy itself would say as much.
        mean_weight: must be 1, within chance.
        refused: why nothing is estimated; empty where something is.
    """

    draws: int
    effective: float
    mean_weight: Interval
    refused: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """Reward per draw, by one estimator."""

    estimator: str
    value: Interval


def support(draws: Draws, min_effective: float = 100.0) -> Support:
    """Judge the overlap of two policies.

    The weights of a policy that does what was never logged average less than 1, and those of wrong propensities anything; one
    that rarely does what was logged rests on few draws.

    Reference: Kong 1992, A note on importance sampling using standardized weights.
    """
    weights = draws.weights[:, -1]
    n, total = weights.size, float(weights.sum())
    effective = total**2 / float(weights @ weights) if total else 0.0
    mean = mean_interval(weights, draws.units, _SURE)
    refused = ""
    if effective < min_effective:
        need = f"; {n * min_effective / effective:,.0f} draws might do" if effective >= 1 else ""
        refused = f"found {effective:.1f} effective of {n:,} draws, expected {min_effective:g}{need}; log more, or explore more"
    elif mean.low > 1 or mean.high < 1:
        refused = (
            f"found a mean weight of {mean.mean:.3f} ({mean.low:.3f} to {mean.high:.3f}), expected 1; the policy does what the "
            "logged one never did, or the propensities are not those that were drawn with"
        )
    return Support(n, effective, mean, refused)


def estimate(draws: Draws, confidence: float = 0.95) -> list[Estimate]:
    """Estimate the reward per draw by all estimators that apply: ``sequential`` to slates, ``dr`` with a model."""
    weights, rewards = draws.weights, draws.rewards
    last, whole = weights[:, -1], rewards.sum(axis=1)
    found = [Estimate("ips", mean_interval(last * whole, draws.units, confidence))]
    value = float(last @ whole / max(last.sum(), 1e-300))
    found.append(Estimate("snips", _around(value, last * (whole - value) / max(last.mean(), 1e-300), draws.units, confidence)))
    if rewards.shape[1] > 1:
        sums = np.maximum(weights.sum(axis=0), 1e-300)
        each = (weights * rewards).sum(axis=0) / sums
        influence = (weights * (rewards - each) / (sums / len(weights))).sum(axis=1)
        found.append(Estimate("sequential", _around(float(each.sum()), influence, draws.units, confidence)))
    if draws.predicted is not None and draws.expected is not None:
        before = np.concatenate([np.ones((len(weights), 1)), weights[:, :-1]], axis=1)
        values = (weights * (rewards - draws.predicted) + before * draws.expected).sum(axis=1)
        found.append(Estimate("dr", mean_interval(values, draws.units, confidence)))
    return found


def mean_interval(values: NDArray[np.float64], units: NDArray[np.int64], confidence: float = 0.95) -> Interval:
    """The mean of values and its interval, corrected for their skewness: importance weights have a long tail to one side.

    Args:
        values: shape (n,). units: values of one unit are not independent, shape (n,).
    Reference: Hall 1992, On the removal of skewness by transformation.
    """
    value = float(values.mean())
    return _around(value, values - value, units, confidence)


def _around(value: float, influence: NDArray[np.float64], units: NDArray[np.int64], confidence: float) -> Interval:
    """Interval of an estimate whose error is the mean of ``influence``, shape (n,)."""
    from scipy.stats import t

    totals = np.bincount(units, influence)[np.bincount(units) > 0]
    n = totals.size
    if n < 2:
        return Interval.point(value)
    sums = totals * (n / influence.size)  # so that their mean is the error
    centred = sums - sums.mean()
    deviation = float(np.sqrt(centred @ centred / (n - 1)))
    if deviation == 0:
        return Interval(value, value, value)
    skewness = float((centred**3).mean()) / deviation**3
    ends = t.ppf([0.5 - confidence / 2, 0.5 + confidence / 2], n - 1)
    low, high = (_inverse(float(x), skewness / np.sqrt(n)) * deviation / np.sqrt(n) for x in ends)
    return Interval(value, value - high, value - low)


def _inverse(x: float, skew: float) -> float:
    """Inverse of Hall's transformation g(T) = T + skew (T^2 / 3 + 1 / 6) + skew^2 T^3 / 27."""
    if abs(skew) < 1e-8:
        return x
    return float((np.cbrt(1 + skew * (x - skew / 6)) - 1) * 3 / skew)
