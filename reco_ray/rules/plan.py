"""What the rules say of one kind of request: a mask, a sum of boosts, pins, and bounds on what a slate may hold."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reco_ray.rules.bounds import Bounds, Least, Limit, Terms
from reco_ray.rules.document import Allow, Block, Boost, Cap, Exclusive, Exposure, Pin, Quota, Review, Rule, Where
from reco_ray.rules.exposure import Push, Pushes

__all__ = ["HELD", "Hits", "Items", "Plan", "Taken"]

HELD = "held"
"""Name under which items are counted that were held back one by one."""

Hits = dict[tuple[str, str], int]
"""By rule and effect: candidates ``hidden`` or ``moved``, slates ``pinned`` or ``missed``."""

Taken = tuple[NDArray[np.int32], Hits]
"""How often each row was met, and what was counted by name."""


class Items(Protocol):
    """What rules need to know of items; `features.Catalogue`, or a list of a few of them."""

    @property
    def categories(self) -> list[str]: ...

    @property
    def in_category(self) -> NDArray[np.float32]: ...

    @property
    def years(self) -> NDArray[np.int32]: ...

    @property
    def prices(self) -> NDArray[np.float64]: ...

    def __len__(self) -> int: ...

    def find(self, item_ids: list[str]) -> NDArray[np.int64]:
        """Rows of ids; -1 where one is unknown."""


class Plan:
    """Active rules over all items.

    Args:
        rows: of the items of each set that a rule names. held, approved: rows of such items.
        push: the prices of a rule on exposure, which all plans share.

    Attributes:
        hidden: what is not shown, shape (n,). boost: what is added to the standardised scores, shape (n,).
        pins: place from 0, row and rule; in the order of the places.
        pushes: of the rules on exposure.
    """

    def __init__(
        self,
        active: Sequence[Rule],
        rows: Mapping[Where, NDArray[np.int64]],
        held: NDArray[np.int64],
        approved: NDArray[np.int64],
        catalogue: Items,
        push: Callable[[Exposure], Push] = Push,
    ) -> None:
        n = len(catalogue)
        self._catalogue = catalogue
        self._met = np.zeros(n, np.int32)
        self._hides: list[tuple[str, NDArray[np.int64]]] = []
        self._moves: list[tuple[str, NDArray[np.int64]]] = []
        self._tallied: Hits = {}
        self.hidden, self.boost = np.zeros(n, np.bool_), np.zeros(n, np.float32)
        self.boosts = False
        if held.size:
            self._hide(HELD, held)
        pins: list[tuple[int, int, str]] = []
        sets: list[NDArray[np.int64]] = []  # columns of membership
        limits: list[Limit] = []
        leasts: list[Least] = []
        exclusives: list[tuple[int, ...]] = []
        pushes: list[tuple[Push, NDArray[np.int64]]] = []
        for rule in active:
            match rule:
                case Block():
                    self._hide(rule.name, rows[rule.where])
                case Review():
                    self._hide(rule.name, np.setdiff1d(rows[rule.where], approved, assume_unique=True))
                case Allow():
                    others = np.ones(n, np.bool_)
                    others[rows[rule.where]] = False
                    self._hide(rule.name, np.flatnonzero(others))
                case Boost():
                    self.boost[rows[rule.where]] += rule.amount
                    self._moves.append((rule.name, rows[rule.where]))
                    self.boosts = True
                case Pin():
                    row = int(catalogue.find([rule.item_id])[0])
                    pins.append((rule.position - 1, row, rule.name))
                case Cap():
                    column = -1 if rule.where is None else len(sets)
                    if rule.where is not None:
                        sets.append(rows[rule.where])
                    limits.append(Limit(rule.name, column, rule.per, rule.most, rule.window))
                case Exclusive():
                    exclusives.append(tuple(range(len(sets), len(sets) + len(rule.sets))))
                    sets += [rows[where] for where in rule.sets]
                case Quota():
                    leasts.append(Least(rule.name, len(sets), rule.least, rule.window))
                    sets.append(rows[rule.where])
                case Exposure():
                    pushes.append((push(rule), rows[rule.where]))
        self.pushes = Pushes(pushes, n)
        self.pins = tuple(sorted(pins))
        self._terms = Terms(tuple(limits), tuple(leasts), tuple(exclusives))
        self._per = {limit.per for limit in limits}
        self._member = np.zeros((n, (len(sets) + 7) // 8), np.uint8)
        for column, members in enumerate(sets):
            self._member[members, column // 8] |= np.uint8(1 << (column % 8))
        self._asked = np.zeros((n, (len(leasts) + 7) // 8), np.uint8)  # the same of quotas alone
        for at, least in enumerate(leasts):
            self._asked[sets[least.column], at // 8] |= np.uint8(1 << (at % 8))
        pairs = [(sets[a], sets[b]) for columns in exclusives for i, a in enumerate(columns) for b in columns[:i]]
        self._torn = np.zeros(n, np.bool_)
        for one, other in pairs:
            self._torn[np.intersect1d(one, other, assume_unique=True)] = True

    @property
    def binds(self) -> bool:
        """Whether there is more than a mask and boosts."""
        return bool(self.pins or self._terms.limits or self._terms.leasts or self._terms.exclusives)

    def keeps(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mask of the rows that may be shown, shape (n,); they are counted as met. Rows are distinct."""
        if self._hides or self._moves:
            self._met[rows] += 1
        return ~self.hidden[rows]

    def more(self, rows: NDArray[np.int64], scores: NDArray[np.float32], most: int) -> NDArray[np.int64]:
        """Positions of the best members of each quota, beside which a pool must not be chosen, shape (m,).

        Args:
            rows: of candidates. scores: best is largest, shape (n,). most: of each.
        """
        if not self._terms.leasts:
            return np.empty(0, np.int64)
        asked = self._asked[rows]
        members = np.flatnonzero(asked.any(axis=1))
        inside = np.unpackbits(asked[members], axis=1, count=len(self._terms.leasts), bitorder="little")
        many = inside.sum(axis=0, dtype=np.int32) > most
        if not many.any():
            return members
        order = np.argsort(-scores[members], kind="stable")
        inside, kept = inside[order], inside[order][:, ~many].any(axis=1)
        crowded = inside[:, many]
        kept |= ((crowded > 0) & (np.cumsum(crowded, axis=0, dtype=np.int32) <= most)).any(axis=1)
        return members[order[kept]]

    def pins_at(self, before: int, k: int) -> list[tuple[int, int, str]]:
        """Pins of a page of ``k`` places behind ``before`` others: place on the page from 0, row and rule."""
        return [(place - before, row, name) for place, row, name in self.pins if before <= place < before + k]

    def bounds(self, rows: NDArray[np.int64], k: int, before: int = 0) -> Bounds:
        """Bounds on slates of ``k`` of these items, which are numbered from 0 in the order of their rows.

        Pins count places from the first page, caps and quotas from the start of each.

        Args:
            before: places of earlier pages.
        """
        catalogue = self._catalogue
        pins = self.pins_at(before, k)
        at = {row: item for item, row in enumerate(rows.tolist())} if pins else {}
        return Bounds(
            self._member[rows],
            self._torn[rows],
            catalogue.in_category[rows] if "category" in self._per else None,
            catalogue.years[rows] if "year" in self._per else None,
            self._terms,
            [(place, at.get(row, -1), name) for place, row, name in pins],
            k,
        )

    def count(self, effect: str, names: Sequence[str]) -> None:
        """Count what rules did in one slate."""
        for name in names:
            self._tallied[name, effect] = self._tallied.get((name, effect), 0) + 1

    def take(self) -> Taken:
        """What was met and counted since the last call; `tally` makes sense of it, in whatever thread."""
        taken = self._met, self._tallied
        self._met, self._tallied = np.zeros(self._met.size, np.int32), {}
        return taken

    def tally(self, taken: Taken) -> Hits:
        """Count by rule and effect."""
        met, told = taken
        for effect, pairs in (("hidden", self._hides), ("moved", self._moves)):
            for name, rows in pairs:
                if n := int(met[rows].sum()):
                    told[name, effect] = told.get((name, effect), 0) + n
        return told

    def _hide(self, name: str, rows: NDArray[np.int64]) -> None:
        self.hidden[rows] = True
        self._hides.append((name, rows))
