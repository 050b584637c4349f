"""Bounds on a slate: pins, caps, exclusive sets and quotas, asked place by place by whatever fills it.

Whoever chooses, by score, by diversity or by chance, keeps to three things: at a place in ``pinned`` stands that item;
elsewhere only what ``allowed(chosen)`` leaves; and where it leaves nothing the slate ends. Then no hard rule can be broken.

What a choice costs depends on the rules that its item is in, not on how many there are: nothing is computed of a set
before an item of it has taken a place that matters.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bounds", "Least", "Limit", "Terms"]


@dataclass(frozen=True, slots=True)
class Limit:
    """At most ``most`` items of a set (``column``, -1 for all items), or of each value of ``per``, in the first ``window``
    places; a window of 0 is the whole slate."""

    name: str
    column: int
    per: str | None
    most: int
    window: int


@dataclass(frozen=True, slots=True)
class Least:
    """At least ``least`` items of the set ``column`` in the first ``window`` places, as far as there are."""

    name: str
    column: int
    least: int
    window: int


@dataclass(frozen=True, slots=True)
class Terms:
    """Bounds as rules state them, whatever the items; each set, a column of members, belongs to one of them.

    Attributes:
        exclusives: columns of sets of which at most one may be in a slate.
        of_all: limits that each item counts in. limit_of, least_of: place among the limits and quotas, by column.
        others: column of an exclusive set -> those of its rule's other sets.
    """

    limits: tuple[Limit, ...] = ()
    leasts: tuple[Least, ...] = ()
    exclusives: tuple[tuple[int, ...], ...] = ()
    of_all: tuple[int, ...] = field(init=False)
    limit_of: dict[int, int] = field(init=False)
    least_of: dict[int, int] = field(init=False)
    others: dict[int, tuple[int, ...]] = field(init=False)

    def __post_init__(self) -> None:
        said = object.__setattr__
        said(self, "of_all", tuple([at for at, each in enumerate(self.limits) if each.column < 0]))
        said(self, "limit_of", {each.column: at for at, each in enumerate(self.limits) if each.column >= 0})
        said(self, "least_of", {each.column: at for at, each in enumerate(self.leasts)})
        sets = [(column, columns) for columns in self.exclusives for column in columns]
        said(self, "others", {column: tuple([other for other in columns if other != column]) for column, columns in sets})


class Bounds:
    """Bounds on one slate of ``n`` items, which are numbered from 0.

    Args:
        member: bit c of a row is set when the item is in set c, little end first, uint8, shape (n, bytes).
        torn: in two sets of one exclusive rule, so that the item would break it by itself, shape (n,).
        categories: 1 where an item has a category, shape (n, C); years: 0 where unknown, shape (n,). None where no limit asks.
        pins: place, item (-1 where it may not be shown) and rule, in the order of the places.
        k: places.

    Attributes:
        pinned: place -> item that stands there and nowhere else.
        missed: rules that this slate cannot follow, as far as that is known before it is filled: pins.
    """

    def __init__(
        self,
        member: NDArray[np.uint8],
        torn: NDArray[np.bool_],
        categories: NDArray[np.float32] | None,
        years: NDArray[np.int32] | None,
        terms: Terms,
        pins: Sequence[tuple[int, int, str]],
        k: int,
    ) -> None:
        self._member, self._torn, self._categories, self._years = member, torn, categories, years
        self._terms, self._k = terms, k
        self._windows = [each.window or k for each in terms.limits]
        self._within = [min(each.window or k, k) for each in terms.leasts]
        self._least = [min(each.least, within) for each, within in zip(terms.leasts, self._within, strict=True)]
        self._columns: dict[int, list[int]] = {}
        self.pinned: dict[int, int] = {}
        self.missed: list[str] = []
        self._pins: dict[int, str] = {}
        self._begin()
        for place, item, name in pins:
            if place >= k:
                continue
            if item < 0 or not self._may_at(place)[item]:
                self.missed.append(name)
            else:
                self.pinned[place], self._pins[item] = item, name
                self._count(place, item)
        # the first place at which a quota may need every place that is left in its window, and the first at which none does
        fewest = [within - least for within, least in zip(self._within, self._least, strict=True)]
        self._due_from, self._due_to = min(fewest, default=k) - len(self.pinned), max(self._within, default=0)
        if self.pinned:
            self._begin()

    def allowed(self, chosen: Sequence[int]) -> NDArray[np.bool_]:
        """Which items may stand at the place behind ``chosen``, shape (n,): not those chosen, nor those pinned elsewhere.

        Quotas narrow it only as far as something is left. Quick where ``chosen`` is that of the last call and one more. The
        array is this object's own, and good until the next call.
        """
        known = len(self._chosen)
        if len(chosen) < known or [*chosen[:known]] != self._chosen:
            self._begin()
            known = 0
        for place in range(known, len(chosen)):
            item = int(chosen[place])
            if self.pinned.get(place) != item:
                self._count(place, item)
            self._chosen.append(item)
        place = len(chosen)
        mask = self._may_at(place)
        if self._due_from <= place < self._due_to and (due := self._due(place)):
            wanted = mask & np.logical_or.reduce([self._inside(column) for column in due])
            if wanted.any():
                return np.asarray(wanted)
        return mask

    def pins_of(self, chosen: Sequence[int]) -> list[tuple[int, str]]:
        """Places of a filled slate where a pin stands, and its rule."""
        stand = [(place, item) for place, item in self.pinned.items() if place < len(chosen) and chosen[place] == item]
        return [(place, self._pins[item]) for place, item in stand]

    def missed_by(self, chosen: Sequence[int]) -> tuple[str, ...]:
        """Rules that a filled slate does not follow: pins that are not at their place, and quotas that are not met."""
        names = list(self.missed)
        names += [self._pins[item] for place, item in self.pinned.items() if place >= len(chosen) or chosen[place] != item]
        if self._least:
            has, least_of = [0] * len(self._least), self._terms.least_of
            for place, item in enumerate(chosen):
                for column in self._of(item):
                    if (at := least_of.get(column)) is not None and place < self._within[at]:
                        has[at] += 1
            names += [each.name for each, n, least in zip(self._terms.leasts, has, self._least, strict=True) if n < least]
        return tuple(dict.fromkeys(names))

    def _begin(self) -> None:
        """Nothing is chosen; pins count from the start, so that what stands before them leaves them their share."""
        self._chosen: list[int] = []
        self._counts: dict[tuple[int, int], int] = {}  # by limit and value
        self._missing = self._least.copy()
        self._free = ~self._torn
        self._taken: set[int] = set()  # exclusive sets that have an item
        self._full: list[tuple[int, tuple[int, int]]] = []  # window of each limit that is reached, limit and value
        self._may, self._until = self._free.copy(), self._k  # what may stand at a place, and before which place that holds
        for place, item in self.pinned.items():
            self._count(place, item)

    def _of(self, item: int) -> list[int]:
        """Columns that an item is in."""
        found = self._columns.get(item)
        if found is None:
            bits = int.from_bytes(self._member[item].tobytes(), "little")
            found = self._columns[item] = []
            while bits:
                low = bits & -bits
                found.append(low.bit_length() - 1)
                bits ^= low
        return found

    def _inside(self, column: int) -> NDArray[np.bool_]:
        """Items of a set, shape (n,)."""
        return np.asarray(self._member[:, column // 8] & np.uint8(1 << column % 8) != 0)

    def _count(self, place: int, item: int) -> None:
        terms = self._terms
        self._free[item] = self._may[item] = False
        for limit in terms.of_all:
            self._reach(limit, place, item)
        for column in self._of(item):
            if (limit := terms.limit_of.get(column, -1)) >= 0:
                self._reach(limit, place, item)
            elif (least := terms.least_of.get(column, -1)) >= 0:
                self._missing[least] -= place < self._within[least]
            elif column not in self._taken:
                self._taken.add(column)
                for other in terms.others[column]:
                    self._free &= ~self._inside(other)
                self._may &= self._free

    def _reach(self, at: int, place: int, item: int) -> None:
        """Count an item in a limit."""
        window, most = self._windows[at], self._terms.limits[at].most
        if place >= window:
            return
        for value in self._values(at, item):
            n = self._counts[at, value] = self._counts.get((at, value), 0) + 1
            if n == most:
                self._full.append((window, (at, value)))
                self._may &= ~self._with(at, value)
                self._until = min(self._until, window)

    def _values(self, at: int, item: int) -> Iterator[int]:
        """What an item counts as in a limit."""
        match self._terms.limits[at].per:
            case "category" if self._categories is not None:
                yield from self._categories[item].nonzero()[0].tolist()
            case "year" if self._years is not None:
                if (year := int(self._years[item])) > 0:
                    yield year
            case _:
                yield 0

    def _with(self, at: int, value: int) -> NDArray[np.bool_]:
        """Items that count in a limit as ``value``, shape (n,)."""
        limit = self._terms.limits[at]
        mask = np.ones(self._torn.size, np.bool_) if limit.column < 0 else self._inside(limit.column)
        if limit.per == "category" and self._categories is not None:
            mask = mask & (self._categories[:, value] > 0)
        elif limit.per == "year" and self._years is not None:
            mask = mask & (self._years == value)
        return mask

    def _may_at(self, place: int) -> NDArray[np.bool_]:
        """Which items neither a cap nor an exclusive set keeps from a place, shape (n,). Places come in ascending order."""
        if place >= self._until:
            self._full = [(window, limit) for window, limit in self._full if place < window]
            self._until = min((window for window, _ in self._full), default=self._k)
            self._may = self._free.copy()
            for _, limit in self._full:
                self._may &= ~self._with(*limit)
        return self._may

    def _due(self, place: int) -> list[int]:
        """Columns of the quotas that need each place that is left in their window, beside those of pins."""
        ahead = [pinned for pinned in self.pinned if pinned >= place]
        found = []
        for least, within, missing in zip(self._terms.leasts, self._within, self._missing, strict=True):
            if missing > 0 and place < within and missing >= within - place - sum(pinned < within for pinned in ahead):
                found.append(least.column)
        return found
