"""Tests that stay valid however often somebody looks: a harmless release is stopped with chance alpha in all looks together.

The package `confseq` has such tests, but as C++ that has to be compiled (see decision 25); these are closed forms over scipy.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaln, gammaln

__all__ = ["Difference", "Stratum", "compare_rates", "excess", "mismatch"]

Stratum = tuple[NDArray[np.float64], NDArray[np.float64]]
_LEAST = 25  # successes, and failures, that each side should have before its rate is anything like normal


@dataclass(frozen=True, slots=True)
class Difference:
    """Candidate less champion, with an interval that covers the truth at all looks at once. NaN where nothing is known yet."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def worse(self) -> bool:
        """The candidate's rate is lower."""
        return self.high < 0

    @property
    def better(self) -> bool:
        """The candidate's rate is higher."""
        return self.low > 0


def compare_rates(strata: Sequence[Stratum], alpha: float, effect: float) -> Difference:
    """Compare two rates, as of clicks, while they are being counted.

    Users are the unit of assignment and one user's answers are alike, so the variance is that between buckets of users, and
    never less than that of single answers. Periods with other shares are strata: their differences are weighted by precision,
    so that a rate which changes over time together with the shares does not look like a difference.

    Args:
        strata: for each period candidate and champion, each shape (B, 2): decisions and successes per bucket of users.
        alpha: chance of an interval that ever misses the truth.
        effect: relative difference that the test is tuned to.
    Reference: Johari et al. 2017, Peeking at A/B tests (mixture SPRT with a normal mixture).
    """
    score = information = 0.0
    n, successes, decisions = 0, 0.0, 0.0
    for candidate, champion in strata:
        sizes = candidate[:, 0].sum(), champion[:, 0].sum()
        n += int(sizes[0])
        pooled = (candidate[:, 1].sum() + champion[:, 1].sum()) / max(1.0, sum(sizes))
        if min(sizes) * min(pooled, 1 - pooled) < _LEAST:
            continue
        (a, va), (b, vb) = _rate(candidate), _rate(champion)
        score += (a - b) / (va + vb)
        information += 1 / (va + vb)
        successes, decisions = successes + champion[:, 1].sum(), decisions + sizes[1]
    if not information:
        return Difference(math.nan, math.nan, math.nan, n)
    mean, variance = score / information, 1 / information
    mixture = (effect * (successes + 0.5) / (decisions + 1)) ** 2
    half = math.sqrt(variance) * boundary(variance, mixture, alpha)
    return Difference(mean, mean - half, mean + half, n)


def boundary(variance: float, mixture: float, alpha: float) -> float:
    """Standard errors from zero at which a difference of this variance counts."""
    return math.sqrt((variance + mixture) / mixture * (2 * math.log(1 / alpha) + math.log1p(mixture / variance)))


def excess(n: int, k: int, allowed: float) -> float:
    """Evidence that more than an ``allowed`` share fails, of ``n`` of which ``k`` did; it may be looked at any time.

    Under a share of ``allowed`` or less it ever exceeds 1/alpha with chance alpha at most: it is the likelihood of all higher
    shares, weighted by a beta(1/2, 1/2), over that of ``allowed``.
    Reference: Ville 1939; Robbins 1970, Statistical methods related to the law of the iterated logarithm.
    """
    if n <= 0:
        return 1.0
    above = [1 - float(betainc(a, b, allowed)) for a, b in ((k + 0.5, n - k + 0.5), (0.5, 0.5))]
    if above[0] <= 0:
        return 0.0
    likelihood = float(betaln(k + 0.5, n - k + 0.5) - betaln(0.5, 0.5)) + math.log(above[0]) - math.log(above[1])
    return math.exp(min(700.0, likelihood - k * math.log(allowed) - (n - k) * math.log1p(-allowed)))


def mismatch(users: int, others: int, share: float) -> float:
    """Evidence that users do not fall to the candidate with chance ``share``; above 1/alpha with chance alpha when they do.

    Reference: Lindon and Malek 2022, Anytime-valid inference for multinomial count data.
    """
    a, b = 100 * share, 100 * (1 - share)  # a prior as strong as 100 users around what is declared
    if min(a, b) <= 0 or users + others == 0:
        return 1.0
    seen = float(gammaln(a + users) + gammaln(b + others) - gammaln(a + b + users + others))
    before = float(gammaln(a) + gammaln(b) - gammaln(a + b))
    return math.exp(min(700.0, seen - before - users * math.log(share) - others * math.log1p(-share)))


def _rate(counts: NDArray[np.float64]) -> tuple[float, float]:
    """A rate and its variance."""
    n, k = counts.sum(axis=0)
    rate, smooth, size = k / n, (k + 0.5) / (n + 1), len(counts)
    between = ((counts[:, 1] - rate * counts[:, 0]) ** 2).sum() * size / max(1, size - 1) / n**2
    return float(rate), float(max(between, smooth * (1 - smooth) / n))
