"""When visits come: Poisson arrivals whose rate follows a pattern."""

from enum import Enum

import numpy as np
from numpy.typing import NDArray

__all__ = ["Pattern", "arrival_times"]


class Pattern(Enum):
    """How the rate changes over a day or a run.

    ``steady``: not at all. ``daily``: a wave with its peak in the evening and a tenth of that at dawn. ``burst``: steady, but
    five times as much in the middle tenth of the run. ``sporadic``: nothing but short waves, an eighth of the time.
    """

    steady = "steady"
    daily = "daily"
    burst = "burst"
    sporadic = "sporadic"


def arrival_times(pattern: Pattern, rate: float, seconds: float, seed: int) -> NDArray[np.float64]:
    """Draw arrivals in [0, seconds), ascending; ``rate`` per second on average over whole periods of the pattern.

    Reference: Lewis and Shedler 1979, Simulation of nonhomogeneous Poisson processes by thinning.
    """
    if rate < 0 or seconds < 0:
        raise ValueError(f"found rate {rate} and {seconds} seconds, expected neither below 0")
    rng = np.random.default_rng(seed)
    peak = _PEAKS[pattern]
    times = np.sort(rng.random(rng.poisson(rate * peak * seconds)) * seconds)
    kept = rng.random(times.size) * peak < _shape(pattern, times, seconds)
    return np.asarray(times[kept])


_PEAKS = {Pattern.steady: 1.0, Pattern.daily: 20 / 11, Pattern.burst: 5 / 1.4, Pattern.sporadic: 8.0}


def _shape(pattern: Pattern, times: NDArray[np.float64], seconds: float) -> NDArray[np.float64]:
    """The rate at each time as a multiple of its mean, shape (n,)."""
    match pattern:
        case Pattern.steady:
            return np.ones(times.size)
        case Pattern.daily:  # peak at 20:00, a tenth of it twelve hours later
            return np.asarray(1 + 9 / 11 * np.cos(2 * np.pi * (times / 86_400 - 20 / 24)))
        case Pattern.burst:
            return np.where(np.abs(times / seconds - 0.5) < 0.05, 5.0, 1.0) / 1.4
        case Pattern.sporadic:
            return np.where(times % 7200 < 900, 8.0, 0.0)
