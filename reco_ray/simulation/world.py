"""A world with a known answer: who likes what at which time, who looks how far down, and what a slate is truly worth.

A user clicks the item in place j with probability ``examined(j) * attraction(user, item, time)``, independently of the other
places (the position-based model). Attraction is a logistic function of taste, quality and fatigue; it never depends on what a
recommender knows. Times are seconds of the world's own clock, from 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Truth", "World", "WorldConfig", "WorldItem"]

DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """What a world is made of.

    Attributes:
        users, items: there from the start.
        new_users, new_items: come one after another, evenly spread over ``horizon_s``.
        categories: of the items; a user likes a few of them.
        dims: of the tastes.
        base: log odds of a click in the first place on an item that the user is indifferent to.
        sharpness: log odds that a perfect match adds to that, and a perfect mismatch takes off.
        quality: deviation of the items' own log odds, the same for all users.
        new_quality: mean of these for items that come later; above 0 there is something to find.
        position_bias: place j is looked at with probability ``j ** -position_bias``, from 1.
        drift_days: in which a taste turns by a right angle; 0 keeps tastes as they are.
        fatigue: log odds lost with each time that the user was shown the item lately.
        fatigue_hours: half-life of having been shown it.
    """

    users: int = 500
    items: int = 400
    new_users: int = 0
    new_items: int = 0
    horizon_s: float = DAY_S
    categories: int = 8
    dims: int = 8
    base: float = -2.5
    sharpness: float = 2.5
    quality: float = 0.5
    new_quality: float = 0.0
    position_bias: float = 0.7
    drift_days: float = 0.0
    fatigue: float = 0.0
    fatigue_hours: float = 24.0
    seed: int = 7

    def __post_init__(self) -> None:
        for name in ("users", "items", "categories", "dims"):
            if getattr(self, name) < 1:
                raise ValueError(f"world.{name}: found {getattr(self, name)}, expected 1 or more")


@dataclass(frozen=True, slots=True)
class WorldItem:
    """An item as an application would describe it."""

    item_id: str
    title: str
    categories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Truth:
    """What a slate was worth: clicks to be expected of it, and of the best slate of as many places at that moment."""

    expected: float
    best: float

    @property
    def regret(self) -> float:
        """Clicks to be expected that were missed."""
        return self.best - self.expected


@dataclass(slots=True)
class _Sights:
    """How often a user was shown an item lately, as of ``at_s``."""

    count: float = 0.0
    at_s: float = 0.0


@dataclass(slots=True)
class World:
    """Users and items with their true tastes. Used from one thread; remembers only who was shown what (fatigue).

    Args:
        items: an application's own items, those from the start first; made up where there are none. Tastes are for their
            categories.

    Attributes:
        items: `WorldItem` by row.
        user_ids: by row.
        item_born_s, user_born_s: when each comes; 0 or less for those from the start.
    """

    config: WorldConfig
    items: list[WorldItem] = field(default_factory=list)
    user_ids: list[str] = field(init=False)
    item_born_s: NDArray[np.float64] = field(init=False)
    user_born_s: NDArray[np.float64] = field(init=False)
    _vectors: NDArray[np.float64] = field(init=False)
    _quality: NDArray[np.float64] = field(init=False)
    _tastes: NDArray[np.float64] = field(init=False)
    _turned: NDArray[np.float64] = field(init=False)
    _rows: dict[str, int] = field(init=False)
    _sights: dict[int, dict[int, _Sights]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        c = self.config
        rng = np.random.default_rng(c.seed)
        self.items = list(self.items) or _make_items(c, rng)
        n_items, n_users = len(self.items), c.users + c.new_users
        self.user_ids = [f"user-{u}" for u in range(n_users)]
        self._rows = {item.item_id: row for row, item in enumerate(self.items)}
        names = sorted({name for item in self.items for name in item.categories})
        centres = dict(zip(names, _unit(rng.standard_normal((max(len(names), 1), c.dims))), strict=False))
        own = rng.standard_normal((n_items, c.dims)) * (0.6 / np.sqrt(c.dims))
        for row, item in enumerate(self.items):
            own[row] += np.sum([centres[name] for name in item.categories], axis=0) if item.categories else 0.0
        self._vectors = _unit(own)
        start = min(c.items, n_items)
        self._quality = c.quality * rng.standard_normal(n_items)
        self._quality[start:] += c.new_quality
        self.item_born_s = _births(n_items, start, c.horizon_s)
        self.user_born_s = _births(n_users, c.users, c.horizon_s)
        likes = rng.dirichlet(np.full(max(len(names), 1), 0.3), n_users) @ np.array(list(centres.values()) or [[0.0] * c.dims])
        self._tastes = _unit(likes + rng.standard_normal((n_users, c.dims)) * (0.3 / np.sqrt(c.dims)))
        turned = rng.standard_normal((n_users, c.dims))  # where a taste drifts to, at a right angle to it
        self._turned = _unit(turned - (turned * self._tastes).sum(axis=1, keepdims=True) * self._tastes)

    def find(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        """Rows of items; -1 for those that this world does not know, which nobody clicks. Shape (n,)."""
        return np.array([self._rows.get(item_id, -1) for item_id in item_ids], np.int64)

    def items_at(self, now_s: float) -> NDArray[np.int64]:
        """Rows of the items that are there, shape (n,)."""
        return np.flatnonzero(self.item_born_s <= now_s)

    def users_at(self, now_s: float) -> NDArray[np.int64]:
        """Rows of the users that are there, shape (n,)."""
        return np.flatnonzero(self.user_born_s <= now_s)

    def examined(self, k: int) -> NDArray[np.float64]:
        """Probability that each place of a slate is looked at, shape (k,)."""
        return np.arange(1.0, k + 1) ** -self.config.position_bias

    def taste(self, user: int, now_s: float) -> NDArray[np.float64]:
        """A user's taste as it is now, a unit vector of shape (dims,)."""
        if not self.config.drift_days:
            return np.asarray(self._tastes[user])
        angle = np.pi / 2 * now_s / (self.config.drift_days * DAY_S)
        return np.asarray(np.cos(angle) * self._tastes[user] + np.sin(angle) * self._turned[user])

    def attraction(self, user: int, rows: NDArray[np.int64], now_s: float) -> NDArray[np.float64]:
        """Probability of a click on each item if it is looked at, shape (n,); 0 for unknown rows and items not there yet."""
        c = self.config
        odds = c.base + c.sharpness * (self._vectors[rows] @ self.taste(user, now_s)) + self._quality[rows]
        seen = self._sights.get(user)
        if c.fatigue and seen:
            odds -= c.fatigue * np.array([self._lately(seen.get(int(row)), now_s) for row in rows])
        there = (rows >= 0) & (self.item_born_s[rows] <= now_s)
        return np.asarray(np.where(there, 1 / (1 + np.exp(-odds)), 0.0))

    def judge(self, user: int, rows: NDArray[np.int64], now_s: float) -> Truth:
        """What a slate is worth before it is shown."""
        seen = self.examined(rows.size)
        every = self.attraction(user, self.items_at(now_s), now_s)
        best = np.sort(every)[::-1][: rows.size]
        return Truth(float(seen @ self.attraction(user, rows, now_s)), float(seen[: best.size] @ best))

    def show(self, user: int, rows: NDArray[np.int64], now_s: float, turn: int) -> NDArray[np.bool_]:
        """Show a slate: returns which places are clicked, shape (k,), and the user remembers having been shown it.

        Args:
            turn: number of the visit: the same visit has the same luck in every run, so that two policies can be compared pair
                by pair.
        """
        luck = np.random.default_rng((self.config.seed, 1, turn)).random(rows.size)
        clicked = luck < self.examined(rows.size) * self.attraction(user, rows, now_s)
        if self.config.fatigue:
            seen = self._sights.setdefault(user, {})
            for row in rows[rows >= 0].tolist():
                sights = seen.setdefault(row, _Sights())
                sights.count, sights.at_s = self._lately(sights, now_s) + 1, now_s
        return np.asarray(clicked)

    def past(self, visits: int, k: int = 10, seed: int = 0) -> list[tuple[str, str, float, bool]]:
        """Visits before the world's time 0, with slates at random: what a first release can be trained on.

        Returns: rows of user_id, item_id, seconds (negative, ascending) and whether it was clicked; nobody is tired by them.
        """
        rng = np.random.default_rng((self.config.seed, 2, seed))
        start, users = self.items_at(0.0), self.users_at(0.0)
        times = np.sort(rng.random(visits)) * 30 * DAY_S - 30 * DAY_S
        found = []
        for at in times.tolist():
            user = int(rng.choice(users))
            rows = rng.choice(start, min(k, start.size), replace=False)
            clicked = rng.random(rows.size) < self.examined(rows.size) * self.attraction(user, rows, 0.0)
            found += [(self.user_ids[user], self.items[r].item_id, at, bool(c)) for r, c in zip(rows, clicked, strict=True)]
        return found

    def _lately(self, sights: _Sights | None, now_s: float) -> float:
        if sights is None:
            return 0.0
        return float(sights.count * 0.5 ** ((now_s - sights.at_s) / 3600 / self.config.fatigue_hours))


def _make_items(config: WorldConfig, rng: np.random.Generator) -> list[WorldItem]:
    of = rng.integers(0, config.categories, config.items + config.new_items).tolist()
    return [WorldItem(f"item-{row}", f"Item {row} of kind {kind}", (f"kind-{kind}",)) for row, kind in enumerate(of)]


def _births(n: int, start: int, horizon_s: float) -> NDArray[np.float64]:
    born = np.zeros(n)
    late = n - start
    born[start:] = horizon_s * np.arange(1, late + 1) / (late + 1)
    return born


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
