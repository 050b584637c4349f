"""Percentile bootstrap over users: how far a mean would move had other users of the same kind been drawn.

Users are the unit that is drawn again, since the items of one list are not independent. The same seed draws the same
users for every metric of a run, as long as none of its users is undefined.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interval", "confidence_interval", "paired_difference", "unpaired_difference"]

_CELLS = 4_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its confidence interval; ``low`` and ``high`` are NaN where there is none."""

    mean: float
    low: float
    high: float

    @classmethod
    def point(cls, value: float) -> "Interval":
        """Wrap a number that has no interval, such as the coverage of the whole catalogue."""
        return cls(value, float("nan"), float("nan"))

    @property
    def known(self) -> bool:
        """Whether there is an interval around the mean."""
        return bool(np.isfinite(self.low) and np.isfinite(self.high))

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies wholly on one side of zero; False without an interval."""
        return self.known and (self.low > 0 or self.high < 0)


def confidence_interval(values: NDArray[np.float64], seed: int, n: int = 1000, confidence: float = 0.95) -> Interval:
    """Bootstrap the mean over users.

    Args:
        values: a metric per user, shape (U,); NaN entries are left out.
        n: number of resamples, >= 1.
        confidence: in (0, 1).
    Returns: without any value all NaN; with a single one its mean, and no interval.
    Reference: Efron 1979, Bootstrap methods: another look at the jackknife.
    """
    # scipy.stats takes 0.8 s to import; those who only want the metrics do not pay for it
    from scipy.stats import bootstrap

    if n < 1 or not 0 < confidence < 1:
        raise ValueError(f"found n={n}, confidence={confidence}, expected n >= 1 and 0 < confidence < 1")
    kept = np.asarray(values, np.float64)
    kept = kept[~np.isnan(kept)]
    if kept.size < 2:
        return Interval.point(float(kept[0]) if kept.size else float("nan"))
    result = bootstrap(
        (kept,),
        np.mean,
        n_resamples=n,
        confidence_level=confidence,
        method="percentile",
        batch=max(1, _CELLS // kept.size),
        rng=np.random.default_rng(seed),
    )
    return Interval(float(kept.mean()), float(result.confidence_interval.low), float(result.confidence_interval.high))


def paired_difference(
    a: NDArray[np.float64], b: NDArray[np.float64], seed: int, n: int = 1000, confidence: float = 0.95
) -> Interval:
    """Bootstrap mean(a) - mean(b) of two stages over the same users, each resample drawing the same users for both.

    What makes a user easy or hard for both stages cancels out, so that this sees smaller differences than two separate
    intervals would. Users undefined in either stage are left out of both.

    Args:
        a, b: the same metric of two stages, in the same order of users, shape (U,).
    """
    if a.shape != b.shape:
        raise ValueError(f"a has shape {a.shape}, b {b.shape}: a paired difference needs the same users in both")
    return confidence_interval(np.asarray(a, np.float64) - np.asarray(b, np.float64), seed, n, confidence)


def unpaired_difference(
    a: NDArray[np.float64], b: NDArray[np.float64], seed: int, n: int = 1000, confidence: float = 0.95
) -> Interval:
    """Bootstrap mean(a) - mean(b) of two groups of users, each drawn again by itself.

    Args:
        a, b: a metric of each, shape (U,) and (V,); NaN entries are left out.
    Returns: all NaN where a group is empty, no interval where one has a single value.
    """
    from scipy.stats import bootstrap

    one, two = (np.asarray(each, np.float64)[~np.isnan(each)] for each in (a, b))
    mean = float(one.mean() - two.mean()) if one.size and two.size else float("nan")
    if min(one.size, two.size) < 2:
        return Interval.point(mean)

    def difference(x: NDArray[np.float64], y: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        return np.asarray(x.mean(axis=axis) - y.mean(axis=axis))

    result = bootstrap(
        (one, two),
        difference,
        n_resamples=n,
        confidence_level=confidence,
        method="percentile",
        batch=max(1, _CELLS // (one.size + two.size)),
        rng=np.random.default_rng(seed),
    )
    return Interval(mean, float(result.confidence_interval.low), float(result.confidence_interval.high))
