"""Slates picked place by place for what each item adds to those before it: determinantal point processes, and calibration.

Both look back over a window of places at most, so that cost grows with the number of places and not with its square.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reco_ray.rules import Bounds

__all__ = ["Calibrated", "Dpp", "Gains", "greedy"]

_SMALL = 1e-9
_SHARE = 0.01  # of the wanted mix that every slate is taken to have, so that an absent category costs much and not infinity
_LAST = -1e30


class Gains(Protocol):
    """What each item would add."""

    def of(self, picked: list[int]) -> NDArray[np.float64]:
        """Gain of each item behind those picked; only differences matter, shape (n,)."""


class Dpp:
    """Greedy maximum of a determinantal point process: log det of the kernel, by the part of each item that is new.

    Kernel: exp(score_i / 2) exp(score_j / 2) (diversity * cosine_ij + (1 - diversity) [i = j]). With diversity 0 the order is
    that of the scores; with 1 an item that is like those before it adds nothing.

    Args:
        scores: standardised, shape (n,). vectors: unit rows, zero rows are like nothing, shape (n, d).
        window: places that are looked back over.
    Reference: Chen, Zhang and Zhou 2018, Fast Greedy MAP Inference for Determinantal Point Process.
    """

    def __init__(self, scores: NDArray[np.float32], vectors: NDArray[np.float32], diversity: float, window: int) -> None:
        self._scores, self._vectors, self._diversity, self._window = _known(scores), vectors, diversity, window

    def of(self, picked: list[int]) -> NDArray[np.float64]:
        """Contract of `Gains`."""
        if not picked or not self._diversity:
            return self._scores
        last = picked[-self._window :]
        near = self._diversity * (self._vectors[last] @ self._vectors.T).astype(np.float64)
        among = near[:, last]
        among[np.diag_indices(len(last))] = 1.0
        new = 1 - (near * np.linalg.solve(among + _SMALL * np.eye(len(last)), near)).sum(axis=0)
        return np.asarray(self._scores + np.log(np.maximum(new, _SMALL)))


class Calibrated:
    """Slates whose categories have the shares that they have in the user's history.

    Gain: (1 - diversity) * score - diversity * KL(wanted | slate), up to what is the same for all items.

    Args:
        mix: weights of the categories that are wanted, shape (d,); all 0 where nothing is known.
        in_category: 1 where an item has a category, shape (n, d).
    Reference: Steck 2018, Calibrated recommendations.
    """

    def __init__(
        self,
        scores: NDArray[np.float32],
        in_category: NDArray[np.float32],
        mix: NDArray[np.float32],
        diversity: float,
        window: int,
    ) -> None:
        sums = np.maximum(in_category.sum(axis=1, keepdims=True), 1.0)
        self._scores, self._shares = (1 - diversity) * _known(scores), (in_category / sums).astype(np.float64)
        self._diversity, self._window, self._asked = diversity, window, np.flatnonzero(mix > 0)
        self._wanted = mix[self._asked].astype(np.float64) / max(float(mix[self._asked].sum()), _SMALL)

    def of(self, picked: list[int]) -> NDArray[np.float64]:
        """Contract of `Gains`."""
        if not self._diversity or not self._asked.size:
            return self._scores
        last = picked[-self._window :]
        wanted = self._wanted
        with_each = (self._shares[last][:, self._asked].sum(axis=0) + self._shares[:, self._asked]) / (len(last) + 1)
        return np.asarray(self._scores + self._diversity * (np.log((1 - _SHARE) * with_each + _SHARE * wanted) @ wanted))


def greedy(gains: Gains, main: NDArray[np.int64], k: int, cap: int, bounds: Bounds | None) -> NDArray[np.int64]:
    """Pick at most ``k`` items, each time the one with the largest gain.

    Args:
        main: the main category of each item, -1 where it has none, shape (n,).
        cap: at most so many items of one main category, as far as others are left; 0 means no cap.
        bounds: of the rules; they never give way, so that fewer than ``k`` may be picked.
    """
    n, picked = main.size, list[int]()
    left = np.ones(n, np.bool_)
    while len(picked) < min(k, n):
        best = -1 if bounds is None else bounds.pinned.get(len(picked), -1)
        if best < 0:
            may = left if bounds is None else left & bounds.allowed(picked)
            if cap and picked:
                counts = np.bincount(main[picked] + 1, minlength=int(main.max()) + 2)
                full = (counts >= cap)[main + 1] & (main >= 0)
                may = may & ~full if (may & ~full).any() else may
            if not may.any():
                break
            best = int(np.where(may, gains.of(picked), -np.inf).argmax())
        left[best] = False
        picked.append(best)
    return np.array(picked, np.int64)


def _known(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.where(np.isfinite(scores), scores, _LAST).astype(np.float64)
