"""How many decisions a test needs, and how much of the error budget is left."""

import math

from reco_ray.errors import ConfigError
from reco_ray.rollout.statistics import boundary

__all__ = ["budget_left", "sample_size"]

_LEAST = 1_000


def sample_size(
    rate: float, effect: float, share: float, *, alpha: float = 0.05, power: float = 0.8, clustering: float = 1.0
) -> int:
    """Decisions of both sides together until `compare_rates` has found a difference with chance ``power``.

    At that size the expected difference lies beyond the boundary by the normal quantile of ``power``; that a test may end
    earlier comes on top, so the true power is higher.

    Args:
        rate: of the champion. effect: relative difference, as -0.2. share: of the candidate, in (0, 1).
        clustering: variance of users' rates over that of single answers; 1 where answers are independent.
    Raises: ConfigError: a number out of range.
    """
    from scipy.stats import norm

    if not (0 < rate < 1 and 0 < share < 1 and 0 < rate * (1 + effect) < 1 and effect and clustering >= 1):
        raise ConfigError(
            f"plan: found rate {rate}, effect {effect}, share {share}, clustering {clustering}; "
            "expected rates and share in (0, 1), an effect other than 0, clustering >= 1"
        )
    other = rate * (1 + effect)
    per_decision = clustering * (other * (1 - other) / share + rate * (1 - rate) / (1 - share))
    gap, mixture, beyond = abs(other - rate), (effect * rate) ** 2, float(norm.ppf(power))

    def enough(n: int) -> bool:
        variance = per_decision / n
        return gap / math.sqrt(variance) >= boundary(variance, mixture, alpha) + beyond

    low, high = 1, 2
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def budget_left(good: int, total: int, slo: float) -> float:
    """Share of the failures that ``slo`` allows which have not happened; negative when there were more.

    The first 1,000 answers have their budget from the beginning, or a single failure among the first few would spend it.
    """
    return 1 - (total - good) / (max(total, _LEAST) * (1 - slo))
