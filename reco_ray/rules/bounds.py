"""Bounds on a slate: pins, caps, exclusive sets and quotas, asked place by place by whatever fills it.

Whoever chooses, by score, by diversity or by chance, keeps to three things: at a place in ``pinned`` stands that item;
elsewhere only what ``allowed(chosen)`` leaves; and where it leaves nothing the slate ends. Then no hard rule can be broken.
"""

from collections.abc import Mapping, Sequence
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
        self._k, self._inside, self._leasts, self._exclusives = k, inside, leasts, exclusives
        members, most, windows, self._names = [np.zeros((n, 0), np.bool_)], [], [], []
        for limit in limits:
            base = np.ones(n, np.bool_) if limit.column < 0 else inside[:, limit.column]
            values = _values(limit.per, categories, years, n) & base[:, None]
            members.append(values)
            most += [limit.most] * values.shape[1]
            windows += [limit.window or k] * values.shape[1]
            self._names += [limit.name] * values.shape[1]
        # float32: sums over members are products of matrices then
        self._member = np.concatenate(members, axis=1).astype(np.float32)
        self._most, self._window = np.array(most, np.float32), np.array(windows, np.int64)
        self._distinct = sorted(set(windows))
        self._torn = np.zeros(n, np.bool_)  # an item of two exclusive sets would break the rule by itself
        for columns in exclusives:
            self._torn |= inside[:, list(columns)].sum(axis=1) > 1
        self.pinned: dict[int, int] = {}
        self.missed: list[str] = []
        for place, item, name in pins:
            if place >= k:
                continue
            if item < 0 or item in self.pinned.values() or not self._fits(place, item):
                self.missed.append(name)
            else:
                self.pinned[place] = item
        self._pins = {item: name for place, item, name in pins if self.pinned.get(place) == item}
        self._free = ~self._torn
        self._free[list(self.pinned.values())] = False

    def allowed(self, chosen: Sequence[int]) -> NDArray[np.bool_]:
        """Which items may stand at the place behind ``chosen``, shape (n,): not those chosen, nor those pinned elsewhere.

        Quotas narrow it only as far as something is left.
        """
        place = len(chosen)
        mask = self._free & ~self._shut(place, self._placed(chosen))
        mask[list(chosen)] = False
        for column in self._shut_sets(chosen):
            mask &= ~self._inside[:, column]
        if self._leasts:
            due = self._due(place, chosen)
            if due.size:
                wanted = mask & self._inside[:, due].any(axis=1)
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
        for least in self._leasts:
            window = least.window or self._k
            if self._inside[list(chosen[:window]), least.column].sum() < min(least.least, self._k):
                names.append(least.name)
        return tuple(dict.fromkeys(names))

    def _fits(self, place: int, item: int) -> bool:
        """Whether a further pin breaks no cap and no exclusive set."""
        if self._torn[item] or self._shut(place, self.pinned)[item]:
            return False
        return not any(self._inside[item, column] for column in self._shut_sets([]))

    def _placed(self, chosen: Sequence[int]) -> dict[int, int]:
        """Items by place: those chosen, and pins that are still to come."""
        return {**{place: item for place, item in self.pinned.items() if place >= len(chosen)}, **dict(enumerate(chosen))}

    def _shut(self, place: int, placed: Mapping[int, int]) -> NDArray[np.bool_]:
        """Which items a cap keeps from a place."""
        if not self._most.size:
            return np.zeros(self._member.shape[0], np.bool_)
        full = np.zeros(self._most.size, np.float32)
        for window in self._distinct:
            if place < window:
                items = [item for at, item in placed.items() if at < window]
                counts = self._member[items].sum(axis=0)
                full[(self._window == window) & (counts >= self._most)] = 1
        if not full.any():
            return np.zeros(self._member.shape[0], np.bool_)
        shut: NDArray[np.bool_] = self._member @ full > 0
        return shut

    def _shut_sets(self, chosen: Sequence[int]) -> list[int]:
        """Columns of sets beside another one of which something stands already."""
        if not self._exclusives:
            return []
        taken = np.asarray(self._inside[[*chosen, *self.pinned.values()]].any(axis=0))
        shut: list[int] = []
        for columns in self._exclusives:
            used = [column for column in columns if taken[column]]
            if used:
                shut += [column for column in columns if column != used[0]]
        return shut

    def _due(self, place: int, chosen: Sequence[int]) -> NDArray[np.int64]:
        """Columns of quotas that need each place that is left in their window."""
        due = []
        for least in self._leasts:
            window = min(least.window or self._k, self._k)
            if place >= window:
                continue
            pins = [item for at, item in self.pinned.items() if place <= at < window]
            has = int(self._inside[[*chosen, *pins], least.column].sum())
            if min(least.least, window) - has >= window - place - len(pins) and has < least.least:
                due.append(least.column)
        return np.array(due, np.int64)


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
