"""Shares of the exposure, kept within bounds: what a set of items is shown decides how far it is pushed in the next slates.

Each bound has a price that rises while it is broken and falls, to nothing, while it is kept: projected subgradient ascent on
the dual of "the best slates, such that on the average a set has its share". So a set is pushed no more than its bound needs,
and where that costs least, not in each slate. A place counts by how many look at it, 1 / log2(1 + place).

Reference: Balseiro, Lu and Mirrokni 2020, Dual mirror descent for online allocation problems.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reco_ray.rules.document import Exposure

__all__ = ["Push", "Pushed", "weights"]

_STEP = 0.1  # deviations, for a whole slate that is on the wrong side
_MOST = 5.0
_MEMORY = 0.002  # of the newest slate in the share that is reported
_LOOK_EVERY = 32  # slates, of which one is made without any push too
_COST_MEMORY = 0.05  # of the newest of these


@dataclass(frozen=True, slots=True)
class Pushed:
    """How a rule on exposure stands.

    Attributes:
        share: of the exposure of the last 500 slates or so. amount: added to the set's scores now, in deviations.
        slates: that it was counted over.
        cost: score that a place lost to all rules that hold with this one, in deviations; places weigh as exposure does.
    """

    rule: str
    share: float
    amount: float
    slates: int
    cost: float


class Push:
    """The prices of one rule's bounds, from the slates of one process."""

    def __init__(self, rule: Exposure) -> None:
        self.rule = rule
        self._low = self._high = self._share = self._cost = 0.0
        self._slates = self._looks = 0

    @property
    def amount(self) -> float:
        """What is added to the set's scores, in deviations."""
        return self._low - self._high

    def showed(self, share: float) -> None:
        """Learn of a slate, in which the set had this share of the exposure."""
        self._slates += 1
        self._share += max(_MEMORY, 1 / self._slates) * (share - self._share)
        if self.rule.least is not None:
            self._low = min(_MOST, max(0.0, self._low + _STEP * (self.rule.least - share)))
        if self.rule.most is not None:
            self._high = min(_MOST, max(0.0, self._high + _STEP * (share - self.rule.most)))

    def costs(self, lost: float) -> None:
        """Learn what a slate lost."""
        self._looks += 1
        self._cost += max(_COST_MEMORY, 1 / self._looks) * (lost - self._cost)

    def stands(self) -> Pushed:
        """For people."""
        return Pushed(self.rule.name, self._share, self.amount, self._slates, self._cost)


class Pushes:
    """Those of one kind of request, over all items.

    Args:
        of: each rule's prices, with the rows of its items.
        n: items.
    """

    def __init__(self, of: list[tuple[Push, NDArray[np.int64]]], n: int) -> None:
        self._of, self._pushed = [push for push, _ in of], 0
        self._member = np.zeros((n, len(of)), np.bool_)
        for at, (_, rows) in enumerate(of):
            self._member[rows, at] = True

    def __bool__(self) -> bool:
        return bool(self._of)

    def added(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """What is added to the standardised scores of these items, shape (n,)."""
        amounts = np.array([push.amount for push in self._of], np.float32)
        return np.asarray(self._member[rows] @ amounts, np.float32)

    def showed(self, rows: NDArray[np.int64], before: int) -> None:
        """Learn of a slate of these items, behind ``before`` places of earlier pages."""
        if rows.size:
            seen = weights(rows.size, before)
            for push, share in zip(self._of, (seen @ self._member[rows]) / seen.sum(), strict=True):
                push.showed(float(share))

    def due(self) -> bool:
        """Whether to make this slate, in which something is pushed, without the push as well."""
        self._pushed += 1
        return self._pushed % _LOOK_EVERY == 1

    def compare(self, plain: NDArray[np.float32], pushed: NDArray[np.float32]) -> None:
        """Learn what a slate lost.

        Args:
            plain, pushed: standardised scores, without push, of the slate as it would have been and as it is, shape (k,).
        """
        k = min(plain.size, pushed.size)
        lost = np.where(np.isfinite(plain[:k]) & np.isfinite(pushed[:k]), plain[:k] - pushed[:k], 0)
        if k:
            for push in self._of:
                push.costs(float(weights(k) @ lost / weights(k).sum()))


def weights(k: int, before: int = 0) -> NDArray[np.float64]:
    """How much each place counts, shape (k,)."""
    return np.asarray(1 / np.log2(2 + before + np.arange(k)))
