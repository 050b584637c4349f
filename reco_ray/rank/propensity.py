"""How much a place is looked at, estimated from logs: what makes a click at the fifth place worth more than one at the first.

A click needs a look and a liking: P(click) = P(look at the place) x P(item is liked). Where the same item was shown to
comparable requests at several places, by no merit of its own, the liking cancels out and the ratio of the click rates is that
of the looks. Such places come from whatever moves items about: another release, exploration, a rule, a tie.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Propensities", "estimate_propensities"]

_ROUNDS = 200


@dataclass(frozen=True, slots=True, eq=False)
class Propensities:
    """Chance that a place is looked at, relative to the first.

    Attributes:
        looks: float64, shape (k,); 1 at the first place, NaN where no item links a place to the others.
        items: that were shown at two places or more, and so count.
    """

    looks: NDArray[np.float64]
    items: int

    def weights(self, places: NDArray[np.int64], least: float = 0.05) -> NDArray[np.float32]:
        """Worth of a click at each place: one over the chance of a look, clipped at 1 / ``least``.

        Args:
            places: from 0, shape (n,). A place that nothing is known of counts as the last one that is known.
        """
        known = np.flatnonzero(np.isfinite(self.looks))
        filled = self.looks[known[np.searchsorted(known, np.arange(self.looks.size), side="right") - 1]]
        return np.asarray(1.0 / np.maximum(filled[np.minimum(places, filled.size - 1)], least), np.float32)


def estimate_propensities(
    items: NDArray[np.int64], places: NDArray[np.int64], clicked: NDArray[np.bool_], k: int
) -> Propensities:
    """Estimate from shown slots by harvesting interventions.

    Fits clicks(item, place) = look(place) x like(item) for all items that were shown at two places or more, by the maximum of
    the likelihood of Poisson counts: each round sets likes from looks and looks from likes, and no round makes it worse.

    Args:
        items: what was shown; where requests differ, of the item and the kind of request together, shape (n,).
        places: from 0, shape (n,); those of ``k`` and more are left out. clicked: shape (n,).
    Raises: ValueError: no item was shown at two places, so that places cannot be told from items.
    Reference: Agarwal, Zaitsev, Wang, Li, Najork, Joachims 2019, Estimating Position Bias without Intrusive Interventions.
    """
    near = places < k
    _, row = np.unique(items[near], return_inverse=True)
    at = row * k + places[near]
    n = int(row.max()) + 1 if row.size else 0
    shown = np.bincount(at, minlength=n * k).reshape(n, k).astype(np.float64)
    clicks = np.bincount(at, weights=clicked[near], minlength=n * k).reshape(n, k)
    linking = ((shown > 0).sum(axis=1) > 1) & (clicks.sum(axis=1) > 0)
    shown, clicks = shown[linking], clicks[linking]
    if not linking.any():
        raise ValueError(f"found {n} items, none of them shown at two places and clicked; expected logs in which items move")
    looks = np.ones(k)
    for _ in range(_ROUNDS):
        likes = clicks.sum(axis=1) / (shown @ looks)
        seen = likes @ shown
        looks = np.divide(clicks.sum(axis=0), seen, out=np.zeros(k), where=seen > 0)
        looks /= looks.max()
    reachable = _linked_to_first(shown > 0)
    looks = np.where(reachable, looks, np.nan)
    return Propensities(looks / looks[0] if looks[0] > 0 else np.full(k, np.nan), int(linking.sum()))


def _linked_to_first(shown: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Places that a chain of items links to the first one, shape (k,)."""
    linked = np.zeros(shown.shape[1], np.bool_)
    linked[0] = True
    while True:
        more = shown[(shown & linked).any(axis=1)].any(axis=0) | linked
        if (more == linked).all():
            return linked
        linked = more
