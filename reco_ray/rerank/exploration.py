"""Exploration: a policy that fills places one after another, partly by chance, and knows the odds of all that it does.

Each place is the arranged list's next item with probability 1 - rate; otherwise it is drawn from a proposal over the items that
are left and allowed. So P(item in place j | places before j) = (1 - rate) * [item is the next] + rate * proposal(item), which
is exact for every proposal: a draw is made from the very probabilities that are logged. Thompson sampling too is drawn from its
probabilities of being best, computed by quadrature, instead of from samples whose odds could only be estimated afterwards.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reco_ray.rules import Bounds

__all__ = ["Drawn", "Proposal", "SlatePolicy", "Thompson", "Weighted", "filled", "softmax_weights"]

_REACH = 6.0  # deviations to either side that the quadrature spans
_STEP = 0.6  # of the smallest deviation
_MOST_POINTS = 1_000


class Proposal(Protocol):
    """A distribution over the items that are left."""

    def of_all(self, left: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Probabilities, 0 for what is not left, shape (n,)."""

    def of_one(self, left: NDArray[np.bool_], at: int) -> float:
        """That of one item that is left."""


@dataclass(frozen=True, slots=True, eq=False)
class Weighted:
    """In proportion to weights: uniform where they are equal, a Plackett-Luce model where they are `softmax_weights`.

    Args:
        weights: positive, shape (n,).
    Reference: Luce 1959; Plackett 1975, The analysis of permutations.
    """

    weights: NDArray[np.float64]

    def of_all(self, left: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Contract of `Proposal`."""
        kept = np.where(left, self.weights, 0.0)
        return np.asarray(kept / kept.sum())

    def of_one(self, left: NDArray[np.bool_], at: int) -> float:
        """Contract of `Proposal`."""
        return float(self.weights[at] / self.weights[left].sum())


def softmax_weights(scores: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """Weights of a Plackett-Luce model over scores, shape (n,); the least is e**-30, as without weight there is no support."""
    values = filled(scores)
    return np.asarray(np.exp(np.maximum((values - values.max()) / temperature, -30.0)))


def filled(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Scores with the lowest finite one, or 0, where there is none; shape (n,)."""
    known = np.isfinite(scores)
    return np.where(known, scores, scores[known].min() if known.any() else 0.0).astype(np.float64)


class Thompson:
    """The probability that an item's value is the largest of those left, where each is known as a normal distribution.

    P(i is best) = integral of f_i(x) * product of F_l(x) over the others; one grid serves all subsets. The
    trapezoid rule converges faster than any power of its step on smooth functions that vanish at both ends: the error is below
    1e-6 against adaptive quadrature (tested).

    Args:
        means, deviations: of the values, deviations above 0, shape (n,).
    Reference: Thompson 1933; Trefethen and Weideman 2014, The exponentially convergent trapezoidal rule.
    """

    def __init__(self, means: NDArray[np.float64], deviations: NDArray[np.float64]) -> None:
        from scipy.special import log_ndtr

        low, high = float((means - _REACH * deviations).min()), float((means + _REACH * deviations).max())
        points = min(int((high - low) / (_STEP * deviations.min())) + 2, _MOST_POINTS)
        grid, step = np.linspace(low, high, points, retstep=True)
        z = (grid[None, :] - means[:, None]) / deviations[:, None]
        self._below = log_ndtr(z)
        self._ratio = np.log(step / np.sqrt(2 * np.pi) / deviations)[:, None] - 0.5 * z * z - self._below

    def of_all(self, left: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Contract of `Proposal`; what the quadrature leaves of 1 is shared out."""
        found = np.zeros(left.size)
        found[left] = np.exp(self._ratio[left] + left @ self._below).sum(axis=1)
        return np.asarray(found / found.sum())

    def of_one(self, left: NDArray[np.bool_], at: int) -> float:
        """Contract of `Proposal`."""
        return float(np.exp(self._ratio[at] + left @ self._below).sum())


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A filled slate.

    Attributes:
        chosen: items by place, shape (k,).
        propensities: P(item in its place | places before it), shape (k,).
        explored: whether the item is another one than the next of the arranged list, shape (k,).
        origins: which source an explored place was drawn from, -1 where the proposal has none, shape (k,).
        slots: where asked for, the probabilities of all items at each place, shape (k, n).
    """

    chosen: NDArray[np.int64]
    propensities: NDArray[np.float64]
    explored: NDArray[np.bool_]
    origins: NDArray[np.int64]
    slots: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class SlatePolicy:
    """Fills a slate from ``n`` items, which are numbered from 0.

    Attributes:
        n: number of items.
        arranged: items in the order in which they are shown without exploration; all of them where ``rate`` is above 0.
        proposal: what exploring places are drawn from.
        rate: probability with which a place explores.
        cap: which items may stand behind those chosen so far, shape (n,); gives way where none of those left may.
        bounds: of the rules, which never give way: pins, and what is allowed; where nothing is, the slate ends.
        origin: says which source an item of the proposal was drawn from, as `bandit.BySource.source_of`.
    """

    n: int
    arranged: NDArray[np.int64]
    proposal: Proposal
    rate: float
    cap: Callable[[list[int]], NDArray[np.bool_]] | None = None
    bounds: Bounds | None = None
    origin: Callable[[NDArray[np.bool_], int, float], int] | None = None

    def draw(self, k: int, rng: np.random.Generator | None) -> Drawn:
        """Fill at most ``k`` places; without ``rng`` nothing is left to chance."""
        if rng is None or not self.rate:
            chosen = self.arranged[:k]
            whence = np.full(chosen.size, -1)
            return Drawn(chosen, np.ones(chosen.size), np.zeros(chosen.size, np.bool_), whence, np.zeros((0, chosen.size)))
        coins, origins = rng.random((k, 2)), np.full(k, -1)

        def choose(place: int, may: NDArray[np.bool_], best: int) -> int:
            if coins[place, 0] >= self.rate:
                return best
            ladder = np.cumsum(self.proposal.of_all(may))
            at = int(np.searchsorted(ladder, coins[place, 1] * ladder[-1], side="right"))
            at = at if at < may.size and may[at] else int(np.flatnonzero(may)[-1])  # rounding at the very end
            if self.origin is not None and at != best:
                origins[place] = self.origin(may, at, coins[place, 0] / self.rate)  # below the rate all values are alike
            return at

        drawn = self._walk(k, choose)
        return replace(drawn, origins=origins[: drawn.chosen.size])

    def follow(self, shown: NDArray[np.int64], *, every: bool = False) -> Drawn:
        """Say with which probabilities this policy would have shown a slate, place by place.

        ``chosen`` ends at the first place that it would never have filled so; from there on propensities are 0.

        Args:
            shown: items by place, -1 for one that is not among the ``n``, shape (k,).
            every: whether to return the probabilities of all items at each place.
        """
        return self._walk(shown.size, lambda place, may, best: int(shown[place]), forced=True, every=every)

    def _walk(
        self, k: int, choose: Callable[[int, NDArray[np.bool_], int], int], *, forced: bool = False, every: bool = False
    ) -> Drawn:
        n, left = self.n, np.ones(self.n, np.bool_)
        pinned = {} if self.bounds is None else self.bounds.pinned
        chosen: list[int] = []
        odds, explored, slots = np.zeros(k), np.zeros(k, np.bool_), np.zeros((k if every else 0, n))
        for place in range(k):
            pin = pinned.get(place)
            may, best = (left, pin) if pin is not None else self._next(left, chosen)
            if best is None:
                break
            at = choose(place, may, best) if pin is None or forced else best
            rate = self.rate if pin is None else 0.0
            if every:
                slots[place] = rate * self.proposal.of_all(may) if rate else 0.0
                slots[place, best] += 1 - rate
            odds[place] = (1 - rate) * (at == best)
            if rate and 0 <= at < n and may[at]:
                odds[place] += rate * self.proposal.of_one(may, at)
            if not odds[place]:
                break
            explored[place] = at != best
            left[at] = False
            chosen.append(at)
        size = k if forced else len(chosen)
        return Drawn(np.array(chosen, np.int64), odds[:size], explored[:size], np.full(size, -1), slots)

    def _next(self, left: NDArray[np.bool_], chosen: list[int]) -> tuple[NDArray[np.bool_], int | None]:
        """What may come next, and the first of it; None where nothing is left."""
        may = left if self.bounds is None else left & self.bounds.allowed(chosen)
        if self.cap is not None and (capped := may & self.cap(chosen)).any():
            may = capped
        ordered = may[self.arranged]
        first = int(ordered.argmax()) if ordered.size else 0
        return may, int(self.arranged[first]) if ordered.any() else None
