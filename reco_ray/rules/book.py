"""Rules compiled against a catalogue: which of them hold for a request, as one plan for all requests of its kind.

A request's kind is its surface, its circumstances as far as any rule asks for them, and the campaigns that run. There are few
kinds, so what a request costs does not grow with the number of rules: a plan is made once, and holds a mask and a sum over
the items.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from reco_ray.rules.checks import wheres
from reco_ray.rules.document import Exposure, Review, Rule, Where
from reco_ray.rules.exposure import Push, Pushed
from reco_ray.rules.plan import Hits, Items, Plan, Taken
from reco_ray.rules.standing import Standing
from reco_ray.types import Request

__all__ = ["SIMILAR", "RuleBook", "tally"]

SIMILAR = "similar-items"
"""Surface of requests for the neighbours of an item."""

_PLANS = 16
_CONTEXT = ("device", "locale", "location")

Kind = tuple[str, ...]


class RuleBook:
    """The rules of one version over the items of one catalogue. Not for two threads at a time.

    Args:
        pushes: by rule; those of rules that stay as they are go on.
    """

    def __init__(self, standing: Standing, catalogue: Items, pushes: Mapping[str, Push] | None = None) -> None:
        self.standing, self._catalogue = standing, catalogue
        rules = standing.document.rules
        self._named = {part: _named(rules, part) for part in _CONTEXT}
        self._surfaces = {surface for rule in rules for surface in rule.surface}
        self._times = standing.times()
        self._rows = self._select({where for rule in rules for where in wheres(rule)})
        self._held, self._approved = (_found(catalogue, ids) for ids in (standing.held, standing.approved))
        self._plans: dict[tuple[Kind, int], Plan] = {}
        self._gone: list[tuple[Plan, Taken]] = []
        before = pushes or {}
        bounded = [rule for rule in rules if isinstance(rule, Exposure)]
        same = {rule.name: before[rule.name] for rule in bounded if rule.name in before and before[rule.name].rule == rule}
        self._pushes = {rule.name: same.get(rule.name) or Push(rule) for rule in bounded}

    @property
    def version(self) -> int:
        """Of the rules; 0 where there are none."""
        return self.standing.version

    def over(self, catalogue: Items, standing: Standing | None = None) -> "RuleBook":
        """The same rules over other items, or other rules; what was counted stays here."""
        return RuleBook(self.standing if standing is None else standing, catalogue, self._pushes)

    def plan(self, request: Request, now: float) -> Plan:
        """What the rules say of a request.

        Args:
            now: unix time in seconds, where the request does not say when it was asked.
        """
        at = request.at_us / 1e6 if request.at_us else now
        phase = int(np.searchsorted(self._times, at, side="right")) if self._times else 0
        key = (self._kind(request), phase)
        found = self._plans.get(key)
        if found is None:
            while len(self._plans) >= _PLANS:
                gone = self._plans.pop(next(iter(self._plans)))
                self._gone.append((gone, gone.take()))
            moment = self._times[phase - 1] if phase else (self._times[0] - 1 if self._times else at)
            active = [rule for rule in self.standing.document.rules if self._holds(rule, key[0], moment)]
            found = self._plans[key] = Plan(
                active, self._rows, self._held, self._approved, self._catalogue, lambda rule: self._pushes[rule.name]
            )
        return found

    def pushed(self) -> list[Pushed]:
        """How the rules on exposure stand."""
        return [push.stands() for push in self._pushes.values()]

    def take(self) -> list[tuple[Plan, Taken]]:
        """What the plans counted since the last call, for `tally`: quick, while the tally is not."""
        taken, self._gone = [*self._gone, *((plan, plan.take()) for plan in self._plans.values())], []
        return taken

    def waiting(self) -> list[tuple[int, str]]:
        """Rows that a ``review`` rule hides until they are approved, and the rule; whatever its campaign and scope."""
        rules = [rule for rule in self.standing.document.rules if isinstance(rule, Review)]
        return [(row, rule.name) for rule in rules for row in np.setdiff1d(self._rows[rule.where], self._approved).tolist()]

    def _kind(self, request: Request) -> Kind:
        surface = SIMILAR if request.similar_to else request.surface
        said = [request.context.get(part, "") for part in _CONTEXT]
        return (
            surface if surface in self._surfaces else "",
            *(value if value in self._named[part] else "" for part, value in zip(_CONTEXT, said, strict=True)),
            "known" if request.user.history.size or request.session else "none",
        )

    @staticmethod
    def _holds(rule: Rule, kind: Kind, at: float) -> bool:
        surface, device, locale, location, history = kind
        asked = rule.segment
        return (
            (not rule.surface or surface in rule.surface)
            and (not asked.device or device in asked.device)
            and (not asked.locale or locale in asked.locale)
            and (not asked.location or location in asked.location)
            and asked.history in (None, history)
            and rule.holds_at(datetime.fromtimestamp(at, UTC))
        )

    def _select(self, sets: set[Where]) -> dict[Where, NDArray[np.int64]]:
        """Rows of the items of each set, ascending."""
        catalogue = self._catalogue
        columns: dict[str, NDArray[np.bool_]] = {}
        for name in {name for where in sets for name in where.category or ()}:
            if name in catalogue.categories:
                columns[name] = catalogue.in_category[:, catalogue.categories.index(name)] > 0
        return {where: _rows(where, catalogue, columns) for where in sets}


def _rows(where: Where, catalogue: Items, columns: dict[str, NDArray[np.bool_]]) -> NDArray[np.int64]:
    if where.item_id is not None:
        rows = _found(catalogue, where.item_id)
        mask = np.ones(rows.size, np.bool_)
    else:
        rows, mask = np.empty(0, np.int64), np.ones(len(catalogue), np.bool_)
    years, prices = catalogue.years, catalogue.prices
    if where.item_id is not None:
        years, prices = years[rows], prices[rows]
    if where.category is not None:
        within = np.zeros(len(catalogue), np.bool_)
        for name in where.category:
            if name in columns:
                within |= columns[name]
        mask &= within if where.item_id is None else within[rows]
    if where.year is not None:
        mask &= np.isin(years, where.year)
    if where.year_from is not None:
        mask &= years >= where.year_from
    if where.year_to is not None:
        mask &= (years > 0) & (years <= where.year_to)
    if where.price_from is not None:
        mask &= prices >= where.price_from  # NaN, an unknown price, is in no range
    if where.price_to is not None:
        mask &= prices <= where.price_to
    return np.flatnonzero(mask) if where.item_id is None else rows[mask]


def _found(catalogue: Items, item_ids: Iterable[str]) -> NDArray[np.int64]:
    rows = np.unique(catalogue.find(list(item_ids)))
    return rows[rows >= 0]


def _named(rules: Iterable[Rule], part: str) -> set[str]:
    return {value for rule in rules for value in getattr(rule.segment, part)}


def tally(taken: Iterable[tuple[Plan, Taken]]) -> Hits:
    """Add up what `RuleBook.take` gave."""
    told: Hits = {}
    for plan, part in taken:
        for key, n in plan.tally(part).items():
            told[key] = told.get(key, 0) + n
    return told
