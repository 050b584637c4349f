"""What became of every visit, and its sums: what was seen (clicks) beside what is true (clicks to be expected, regret)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ledger", "Totals", "Visit"]


class Visit(NamedTuple):
    """One visit.

    Attributes:
        turn: its number. at_s: of the world's clock. user: row.
        status: of the HTTP answer, 0 where there was none.
        slots: items shown. clicks: of them. expected, best: `world.Truth`.
        fresh: items shown that were not there from the start.
        ms: until the answer.
    """

    turn: int
    at_s: float
    user: int
    status: int
    release: str
    variant: str
    rung: str
    slots: int
    clicks: int
    expected: float
    best: float
    fresh: int
    ms: float


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over visits.

    Attributes:
        answered: visits with a slate. ctr: clicks of a place shown. true_ctr: the same, as it is to be expected.
        reward: clicks to be expected per visit. regret: those missed per visit. fresh: share of the places with newer items.
    """

    visits: int
    answered: int
    clicks: int
    ctr: float
    true_ctr: float
    reward: float
    regret: float
    fresh: float
    p50_ms: float
    p95_ms: float


@dataclass(slots=True)
class Ledger:
    """All visits of a run, in the order in which they were answered.

    Attributes:
        puts: items put while it ran. events: events that were accepted. refused: events that were not.
    """

    visits: list[Visit] = field(default_factory=list)
    puts: int = 0
    events: int = 0
    refused: int = 0

    def by_turn(self, name: str) -> NDArray[np.float64]:
        """One number of each visit in the order of turns, such as "expected"; shape (n,)."""
        return np.array([getattr(visit, name) for visit in sorted(self.visits)], np.float64)

    def totals(self) -> Totals:
        """Sums over all visits."""
        return _totals(self.visits)

    def totals_by(self, name: str) -> dict[str, Totals]:
        """Sums by "release", "variant", "rung" or "status", sorted by that."""
        groups: dict[str, list[Visit]] = {}
        for visit in self.visits:
            groups.setdefault(str(getattr(visit, name)), []).append(visit)
        return {key: _totals(groups[key]) for key in sorted(groups)}


def _totals(visits: Sequence[Visit]) -> Totals:
    n = len(visits)
    answered = [v for v in visits if v.slots]
    slots, clicks = sum(v.slots for v in visits), sum(v.clicks for v in visits)
    expected, best = sum(v.expected for v in visits), sum(v.best for v in visits)
    ms = np.array([v.ms for v in answered] or [np.nan])
    return Totals(
        visits=n,
        answered=len(answered),
        clicks=clicks,
        ctr=clicks / max(slots, 1),
        true_ctr=expected / max(slots, 1),
        reward=expected / max(n, 1),
        regret=(best - expected) / max(n, 1),
        fresh=sum(v.fresh for v in visits) / max(slots, 1),
        p50_ms=float(np.quantile(ms, 0.5)),
        p95_ms=float(np.quantile(ms, 0.95)),
    )
