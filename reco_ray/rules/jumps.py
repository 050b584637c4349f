"""Jumps of what rules do: a rule that suddenly takes effect twice as often, or hardly at all, is worth a look (F9).

Rates are hits per slate, so that busy hours are none. That of a stretch of at least `LEAST_SLATES` slates is compared with
those of the stretches before, by a control chart: exponentially weighted mean and deviation (Roberts 1959), of the roots of
rates, which vary alike for rare and for frequent hits. A jump is said once, and what comes behind it is the new usual.
"""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["LEAST_SLATES", "Jump", "Jumps"]

LEAST_SLATES = 200
_USUAL = 5  # stretches before a rate counts as usual
_WEIGHT = 0.1  # of the newest stretch in it
_FACTOR, _DEVIATIONS = 2.0, 6.0  # a jump is beyond both
_LEAST_HITS = 20  # in a stretch: fewer come and go


@dataclass(frozen=True, slots=True)
class Jump:
    """A rule's rate left what is usual: hits per slate now, and before."""

    rule: str
    effect: str
    now: float
    usual: float


@dataclass(slots=True)
class _Chart:
    root: float = 0.0  # mean of the roots of rates
    square: float = 0.0  # mean of their squared deviations
    stretches: int = 0

    @property
    def usual(self) -> float:
        return self.root**2

    def leaves(self, rate: float, slates: int) -> bool:
        usual = self.usual
        if self.stretches < _USUAL or max(rate, usual) * slates < _LEAST_HITS:
            return False
        far = rate >= _FACTOR * usual or rate * _FACTOR <= usual
        chance = 0.25 / slates  # of hits that are independent, at the least
        return far and (rate**0.5 - self.root) ** 2 > _DEVIATIONS**2 * max(self.square, chance)

    def take(self, rate: float) -> None:
        self.stretches += 1
        weight = max(_WEIGHT, 1 / self.stretches)
        off = rate**0.5 - self.root
        self.root += weight * off
        self.square = (1 - weight) * (self.square + weight * off * off)


class Jumps:
    """Watches the rules of one version: others do other things on purpose."""

    def __init__(self) -> None:
        self._charts: dict[tuple[str, str], _Chart] = {}
        self._hits: dict[tuple[str, str], int] = {}
        self._slates = self._version = self._stretches = self._known = 0

    def add(self, told: Mapping[tuple[str, str], int], arranged: int, version: int) -> list[Jump]:
        """Add what the rules did since the last call; returns the jumps that this shows.

        Args:
            told: hits by rule and effect. arranged: slates made since the start.
            version: of the rules; another one begins anew.
        """
        slates, self._known = arranged - self._known, arranged
        if version != self._version:
            self._charts, self._hits, self._slates, self._stretches = {}, {}, 0, 0
            self._version = version
            return []  # some of it is of the rules before
        for key, n in told.items():
            self._hits[key] = self._hits.get(key, 0) + n
        self._slates += slates
        if self._slates < LEAST_SLATES:
            return []
        found = []
        for key in self._charts.keys() | self._hits.keys():
            # what was never met before had a rate of 0 in all stretches
            chart = self._charts.setdefault(key, _Chart(stretches=self._stretches))
            rate = self._hits.get(key, 0) / self._slates
            if chart.leaves(rate, self._slates):
                found.append(Jump(*key, rate, chart.usual))
                chart = self._charts[key] = _Chart()
            chart.take(rate)
        self._hits, self._slates, self._stretches = {}, 0, self._stretches + 1
        return sorted(found, key=lambda jump: (jump.rule, jump.effect))
