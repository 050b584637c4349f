"""Bounds on a slate: pins, caps, exclusive sets and quotas, asked place by place by whatever fills it.

Whoever chooses, by score, by diversity or by chance, keeps to three things: at a place in ``pinned`` stands that item;
elsewhere only what ``allowed(chosen)`` leaves; and where it leaves nothing the slate ends. Then no hard rule can be broken.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bounds", "Least", "Limit"]


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


class Bounds:
    """Bounds on one slate of ``n`` items, which are numbered from 0.

    Args:
        inside: which item is in which set, shape (n, sets).
        categories: 1 where an item has a category, shape (n, C); years: 0 where unknown, shape (n,). None where no limit asks.
        exclusives: columns of sets of which at most one may be in a slate.
        pins: place, item (-1 where it may not be shown) and rule, in the order of the places.
        k: places.

    Attributes:
        pinned: place -> item that stands there and nowhere else.
        missed: rules that this slate cannot follow, as far as that is known before it is filled: pins.
    """

    def __init__(
        self,
        inside: NDArray[np.bool_],
        categories: NDArray[np.float32] | None,
        years: NDArray[np.int32] | None,
        limits: Sequence[Limit],
        leasts: Sequence[Least],
        exclusives: Sequence[tuple[int, ...]],
        pins: Sequence[tuple[int, int, str]],
        k: int,
    ) -> None:
        n = inside.shape[0]
        there = inside.sum(axis=0).tolist()
        # what cannot be broken by these items is not asked again at each place
        exclusives = [columns for columns in exclusives if sum(there[column] > 0 for column in columns) > 1]
        self._k, self._exclusives = k, exclusives
        members, most, windows = [np.zeros((n, 0), np.bool_)], [], []
        for limit in limits:
            if limit.column >= 0 and there[limit.column] <= limit.most:
                continue
            base = np.ones(n, np.bool_) if limit.column < 0 else inside[:, limit.column]
            values = _values(limit.per, categories, years, n) & base[:, None]
            members.append(values)
            most += [limit.most] * values.shape[1]
            windows += [limit.window or k] * values.shape[1]
        # float32: sums over members are products of matrices then
        self._member = np.concatenate(members, axis=1).astype(np.float32)
        self._most, self._window = np.array(most, np.float32), np.array(windows, np.int64)
        self._counting = (np.arange(k)[:, None] < self._window).astype(np.float32)
        self._wanted = inside[:, [each.column for each in leasts]].astype(np.float32)
        self._within = np.array([min(each.window or k, k) for each in leasts], np.int64)
        self._least = np.minimum([each.least for each in leasts], self._within).astype(np.float32)
        self._quotas = [each.name for each in leasts]
        self._sets = inside if exclusives else None
        self._torn = np.zeros(n, np.bool_)  # an item of two exclusive sets would break the rule by itself
        for columns in exclusives:
            self._torn |= inside[:, list(columns)].sum(axis=1) > 1
        self.pinned: dict[int, int] = {}
        self.missed: list[str] = []
        self._pins: dict[int, str] = {}
        self._begin()
        for place, item, name in pins:
            if place >= k:
                continue
            if item < 0 or not (self._free & ~self._shut_at(place))[item]:
                self.missed.append(name)
            else:
                self.pinned[place], self._pins[item] = item, name
                self._count(place, item)
        taken = np.zeros((k, self._within.size), np.int64)
        for place in self.pinned:
            taken[place] = place < self._within
        # places of each window that are left at a place, less those that pins will take
        self._left = self._within - np.arange(k)[:, None] - taken[::-1].cumsum(axis=0)[::-1]
        self._begin()

    def allowed(self, chosen: Sequence[int]) -> NDArray[np.bool_]:
        """Which items may stand at the place behind ``chosen``, shape (n,): not those chosen, nor those pinned elsewhere.

        Quotas narrow it only as far as something is left. Quick where ``chosen`` is that of the last call and one more.
        """
        known = len(self._chosen)
        if len(chosen) < known or list(chosen[:known]) != self._chosen:
            self._begin()
            known = 0
        for place in range(known, len(chosen)):
            item = int(chosen[place])
            if self.pinned.get(place) != item:
                self._count(place, item)
            self._chosen.append(item)
        place = len(chosen)
        mask: NDArray[np.bool_] = self._free & ~self._shut_at(place)
        if self._least.size and (due := self._due(place)).any():
            wanted = mask & (self._wanted @ due > 0)
            if wanted.any():
                return wanted
        return mask

    def pins_of(self, chosen: Sequence[int]) -> list[tuple[int, str]]:
        """Places of a filled slate where a pin stands, and its rule."""
        stand = [(place, item) for place, item in self.pinned.items() if place < len(chosen) and chosen[place] == item]
        return [(place, self._pins[item]) for place, item in stand]

    def missed_by(self, chosen: Sequence[int]) -> tuple[str, ...]:
        """Rules that a filled slate does not follow: pins that are not at their place, and quotas that are not met."""
        names = list(self.missed)
        names += [self._pins[item] for place, item in self.pinned.items() if place >= len(chosen) or chosen[place] != item]
        if self._quotas:
            places = np.arange(len(chosen))[:, None] < self._within
            has = (self._wanted[list(chosen)] * places).sum(axis=0)
            names += [name for name, met in zip(self._quotas, has >= self._least, strict=True) if not met]
        return tuple(dict.fromkeys(names))

    def _begin(self) -> None:
        """Nothing is chosen; pins count from the start, so that what stands before them leaves them their share."""
        self._chosen: list[int] = []
        self._counts, self._has = np.zeros(self._most.size, np.float32), np.zeros(self._least.size, np.float32)
        self._free = ~self._torn
        self._taken: set[int] = set()
        self._full, self._shut = b"", np.zeros(self._torn.size, np.bool_)
        for place, item in self.pinned.items():
            self._count(place, item)

    def _count(self, place: int, item: int) -> None:
        self._free[item] = False
        if self._most.size:
            self._counts += self._member[item] * self._counting[place]
        if self._least.size:
            self._has += self._wanted[item] * (place < self._within)
        if self._sets is not None and (inside := np.flatnonzero(self._sets[item])).size:
            new = set(inside.tolist()) - self._taken
            self._taken |= new
            for columns in self._exclusives:
                if new.intersection(columns):
                    others = [column for column in columns if column not in self._taken]
                    self._free &= ~self._sets[:, others].any(axis=1)

    def _shut_at(self, place: int) -> NDArray[np.bool_]:
        """Which items a cap keeps from a place, shape (n,)."""
        if self._most.size:
            full = (self._counts >= self._most) & (place < self._window)
            if (name := full.tobytes()) != self._full:
                self._full = name
                self._shut = np.asarray(self._member @ full.astype(np.float32) > 0)
        return self._shut

    def _due(self, place: int) -> NDArray[np.float32]:
        """1 for quotas that need each place that is left in their window."""
        missing = self._least - self._has
        due = (missing > 0) & (missing >= self._left[place]) & (place < self._within)
        return np.asarray(due, np.float32)


def _values(
    per: str | None, categories: NDArray[np.float32] | None, years: NDArray[np.int32] | None, n: int
) -> NDArray[np.bool_]:
    """Which item has which value of an attribute, shape (n, values)."""
    if per == "category" and categories is not None:
        return np.asarray(categories > 0)
    if per == "year" and years is not None:
        known = np.unique(years[years > 0])
        return np.asarray(years[:, None] == known[None, :])
    return np.ones((n, 1), np.bool_)
