"""A contextual bandit over recall sources: which of them a place that explores is drawn from, learned from what was clicked.

Each source has a ridge regression of its reward on a few numbers that say in which circumstances a request comes. What the
regressions need are sums, which fade with time and add up, whoever adds what in which order. The choice is LinUCB's within an
epsilon mixture: its odds are known, and every source has some, without which logs could not judge another policy.

Reference: Li et al. 2010, A contextual-bandit approach to personalized news article recommendation.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson
from numpy.typing import NDArray

from reco_ray.errors import SchemaError
from reco_ray.types import Request, Slate

__all__ = ["CIRCUMSTANCES", "DRAWN", "Beliefs", "BySource", "Evidence", "circumstances", "drawn_in", "drawn_source"]

CIRCUMSTANCES = ("any", "history", "no_history", "session", "mobile", "hour_sin", "hour_cos")
DRAWN = "explore:"  # what the reason of a place begins with that was drawn from a source

_WIDTH = len(CIRCUMSTANCES)
_LONG = math.log1p(50)  # a history of so many items, or more, counts 1
_MOBILE = frozenset(("mobile", "phone"))
_DAY_US = 86_400_000_000
_HALF_LIFE_S = 7 * 86_400.0
_RIDGE = 1.0
_FORMAT = 1


def circumstances(request: Request) -> NDArray[np.float64]:
    """What the bandit knows of a request, each in [-1, 1], shape (len(CIRCUMSTANCES),): numbers that many requests share.

    A constant, the length of the history, whether there is none, whether a session runs, whether the device is a ``mobile`` or
    ``phone``, and the hour of the day in UTC on a circle; of a request without a time both are 0.
    """
    n = request.user.history.size
    angle = 2 * math.pi * (request.at_us % _DAY_US) / _DAY_US
    hour = (math.sin(angle), math.cos(angle)) if request.at_us else (0.0, 0.0)
    mobile = request.context.get("device", "").lower() in _MOBILE
    return np.array([1.0, min(math.log1p(n) / _LONG, 1.0), not n, bool(request.session), mobile, *hour])


def drawn_source(reasons: Sequence[str]) -> str:
    """The source that a place was drawn from, by its reasons; empty where it was not."""
    return next((each.removeprefix(DRAWN) for each in reasons if each.startswith(DRAWN)), "")


def drawn_in(request: Request, slate: Slate) -> tuple[float, ...]:
    """The circumstances of a request whose slate has a place that was drawn from a source; else empty."""
    if (slate.propensities == 1).all() or not any(map(drawn_source, slate.reasons)):
        return ()
    return tuple(circumstances(request).tolist())


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What is known of each source: sums over the places that were drawn from it.

    A place counts by half seven days later, and so on. Several parts add up to what one would have been, in any order.

    Attributes:
        sums: of x x' and, in the last row, of reward times x, both as they weigh at ``as_of``; shape (D + 1, D) each.
        as_of: seconds since 1970.
    """

    sums: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    as_of: float = 0.0

    def shown(self, source: str, x: NDArray[np.float64], at: float) -> "Evidence":
        """With one more place, without a reward yet. ``at``: seconds since 1970."""
        return self._with(source, np.vstack([np.outer(x, x), np.zeros(_WIDTH)]), at)

    def rewarded(self, source: str, x: NDArray[np.float64], at: float) -> "Evidence":
        """With the reward of a place that was shown; it weighs as the place does. ``at``: as for `shown`, of the place."""
        return self._with(source, np.vstack([np.zeros((_WIDTH, _WIDTH)), x]), at)

    def __add__(self, other: "Evidence") -> "Evidence":
        as_of = max(self.as_of, other.as_of)
        sums = {name: found * _weight(as_of - self.as_of) for name, found in self.sums.items()}
        for name, found in other.sums.items():
            sums[name] = sums.get(name, 0.0) + found * _weight(as_of - other.as_of)
        return Evidence(sums, as_of)

    def pack(self) -> bytes:
        """Write it, readable by people too."""
        sums = {name: found.tolist() for name, found in self.sums.items()}
        return orjson.dumps({"format": _FORMAT, "columns": CIRCUMSTANCES, "as_of": self.as_of, "sums": sums})

    @classmethod
    def unpack(cls, raw: bytes) -> "Evidence":
        """Read what `pack` wrote.

        Raises: SchemaError: it is of other circumstances, or something else.
        """
        try:
            found = orjson.loads(raw)
            told = found["format"], tuple(found["columns"])
            sums = {name: np.array(rows, np.float64).reshape(_WIDTH + 1, _WIDTH) for name, rows in found["sums"].items()}
            as_of = float(found["as_of"])
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise SchemaError(f"a bandit's evidence: found {raw[:40]!r}, expected what this code wrote; delete it") from exc
        if told != (_FORMAT, CIRCUMSTANCES):
            raise SchemaError(f"a bandit's evidence: found {told}, expected {(_FORMAT, CIRCUMSTANCES)}; it begins anew")
        return cls(sums, as_of)

    def _with(self, source: str, added: NDArray[np.float64], at: float) -> "Evidence":
        return self + Evidence({source: added}, at)


@dataclass(frozen=True, slots=True, eq=False)
class Beliefs:
    """The regressions of some sources: reward per place = weights . x, give or take what is not known yet.

    Attributes:
        weights: shape (S, D). inverse: of the ridge's matrices, shape (S, D, D).
    """

    weights: NDArray[np.float64]
    inverse: NDArray[np.float64]

    @classmethod
    def of(cls, sources: Sequence[str], parts: Iterable[Evidence] = ()) -> "Beliefs":
        """Of what is known in all parts; without any all sources are alike."""
        known = sum(parts, Evidence()).sums
        sums = np.array([known.get(name, np.zeros((_WIDTH + 1, _WIDTH))) for name in sources]).reshape(
            len(sources), _WIDTH + 1, _WIDTH
        )
        inverse = np.linalg.inv(sums[:, :_WIDTH] + _RIDGE * np.eye(_WIDTH))
        return cls(np.einsum("sij,sj->si", inverse, sums[:, _WIDTH]), np.asarray(inverse, np.float64))

    def upper(self, x: NDArray[np.float64], width: float) -> NDArray[np.float64]:
        """How much each source may bring at best, shape (S,): its estimate and ``width`` deviations."""
        return np.asarray(self.weights @ x + width * np.sqrt(np.maximum((self.inverse @ x) @ x, 0.0)))


class BySource:
    """First a source, then an item of it; see `exploration.Proposal`.

    With probability ``epsilon`` any source that has an item left, all alike, else the one of the largest upper bound; equal
    ones share. Items of the source come in proportion to their weights. What no source brought is a source of its own, which
    only epsilon chooses. An item that several brought may come from each of them.

    Args:
        weights: of the items, positive, shape (n,). brought: by which source, shape (n, S). upper: bounds, shape (S,).
    """

    def __init__(
        self, weights: NDArray[np.float64], brought: NDArray[np.bool_], upper: NDArray[np.float64], epsilon: float
    ) -> None:
        self._named = upper.size
        others = ~brought.any(axis=1)
        self._weights = np.vstack([brought.T, others]) * weights
        self._upper, self._epsilon = [*upper.tolist(), -math.inf], epsilon

    def of_all(self, left: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Contract of `exploration.Proposal`."""
        return np.asarray(np.where(left, self._per_weight(left) @ self._weights, 0.0))

    def of_one(self, left: NDArray[np.bool_], at: int) -> float:
        """Contract of `exploration.Proposal`."""
        return float(self._per_weight(left) @ self._weights[:, at])

    def source_of(self, left: NDArray[np.bool_], at: int, coin: float) -> int:
        """Which source a drawn item came from, -1 for what no source brought: drawn by the odds that each had for it.

        Args:
            coin: in [0, 1), independent of what drew the item.
        """
        ladder = np.cumsum(self._per_weight(left) * self._weights[:, at])
        found = int(np.searchsorted(ladder, coin * ladder[-1], side="right"))
        return found if found < self._named else -1

    def _per_weight(self, left: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Odds of each source over the weights of its items that are left, shape (S + 1,); few enough for a plain loop."""
        mass = (self._weights @ left.astype(np.float64)).tolist()
        live = [source for source, each in enumerate(mass) if each]
        largest = max(self._upper[source] for source in live)
        best = [source for source in live if self._upper[source] == largest]
        alike, more = self._epsilon / len(live), (1 - self._epsilon) / len(best)
        found = np.zeros(len(mass))
        for source in live:
            found[source] = (alike + more * (self._upper[source] == largest)) / mass[source]
        return found


def _weight(age_s: float) -> float:
    return math.exp2(-age_s / _HALF_LIFE_S)
