"""A shop that learns from what it shows, with and without exploration; behind the driver's API, without HTTP."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from reco_ray.config import ExploreConfig, ExploreKind, RerankConfig
from reco_ray.features import ITEM_COLUMNS, Catalogue
from reco_ray.rerank import Rerank
from reco_ray.simulation import Ledger, Shown, World, WorldConfig, WorldItem, drive
from reco_ray.store import Item, LiveItem
from reco_ray.types import Candidates, Request

__all__ = ["KINDS", "one_world", "rewards"]

_K, _LEARNS, _PAST = 10, 200, 2_000  # places; visits between two trainings; visits before the start
_PRIOR, _PRIOR_USER = 20.0, 5.0  # looks


class Shop:
    """Ranks by click rates of items, and of users in categories, as they were at the last training."""

    def __init__(self, world: World, explore: ExploreConfig) -> None:
        self._world = world
        self._config = RerankConfig(seen_items_return=True, diversity=0.0, explore=explore)
        self._kinds = sorted({name for item in world.items for name in item.categories})
        self._kind = np.array([self._kinds.index(item.categories[0]) for item in world.items])
        n, users = len(world.items), len(world.user_ids)
        self._items, self._users = np.zeros((2, n)), np.zeros((2, users, len(self._kinds)))  # clicks, looks
        self._shown = np.zeros(n, np.int64)
        self._alive = int(world.items_at(0.0).size)
        self._look = world.examined(_K)
        self._visits = 0
        row, of_user = {item.item_id: i for i, item in enumerate(world.items)}, {u: i for i, u in enumerate(world.user_ids)}
        for place, (user, item, _, click) in enumerate(world.past(_PAST, _K)):
            self._learn(of_user[user], row[item], place % _K, click)
        self._of_user, self._row = of_user, row
        self._train()

    async def recommend(self, user_id: str, k: int, context: Mapping[str, str]) -> Shown:
        if self._visits and self._visits % _LEARNS == 0:
            self._train()
        self._visits += 1
        rows = np.arange(len(self._catalogue), dtype=np.int32)
        world_rows = np.array([self._row[item_id] for item_id in self._catalogue.item_ids])
        scores = self._item_scores[world_rows] + self._user_scores[self._of_user[user_id], self._kind[world_rows]]
        n = rows.size
        found = Candidates(rows, scores.astype(np.float32), np.ones(n, np.uint16), *np.zeros((2, n, 1), np.float32))
        request = Request(request_id=f"r{self._visits}", user_id=user_id, k=k)
        slate = self._rerank.arrange([request], [found], [found.scores])[0]
        return Shown(200, slate.request_id, slate.item_ids, "shop", "main", "full")

    async def send(self, events: Sequence[Mapping[str, object]]) -> int:
        clicked = {str(event["event_id"]).rpartition("-")[0] for event in events if event["type"] == "click"}
        for event in events:
            if event["type"] == "impression":
                click = str(event["event_id"]).rpartition("-")[0] in clicked
                place = int(str(event["position"])) - 1
                self._learn(self._of_user[str(event["user_id"])], self._row[str(event["item_id"])], place, click)
        return len(events)

    async def put_item(self, item: WorldItem) -> None:
        live = LiveItem(item.item_id, self._alive, self._alive - self._trained, 0.0, Item(item.title, item.categories))
        self._alive += 1
        self._catalogue = self._catalogue.with_items([live])[0]
        self._rerank.follow([live])

    def _learn(self, user: int, row: int, place: int, click: bool) -> None:
        for counts, at in ((self._items, (row,)), (self._users, (user, self._kind[row]))):
            counts[(0, *at)] += click
            counts[(1, *at)] += self._look[place]
        self._shown[row] += 1

    def _train(self) -> None:
        """What a new release would know: rates, and how often each item was met."""
        rate = self._items[0].sum() / self._items[1].sum()
        self._item_scores = np.log((self._items[0] + _PRIOR * rate) / (self._items[1] + _PRIOR))
        of_user = (self._users[0].sum(axis=1, keepdims=True) + _PRIOR * rate) / (
            self._users[1].sum(axis=1, keepdims=True) + _PRIOR
        )
        self._user_scores = np.log((self._users[0] + _PRIOR_USER * of_user) / (self._users[1] + _PRIOR_USER) / of_user)
        self._trained = self._alive
        items, counts = self._world.items[: self._alive], self._shown[: self._alive]
        table = pl.DataFrame(
            {
                "item_id": [item.item_id for item in items],
                "title": [item.title for item in items],
                "categories": [list(item.categories) for item in items],
                "year": np.full(len(items), 2026, np.int32),
                "available": np.ones(len(items), bool),
            }
        )
        rows = pl.DataFrame({"item_id": table["item_id"], "n": counts, "n_positive": counts}).with_columns(
            pl.lit(0.0, pl.Float32).alias(column.name) for column in ITEM_COLUMNS
        )
        self._catalogue = Catalogue.build(table, rows)
        self._rerank = Rerank(self._catalogue, self._config, ["all"])


KINDS = {
    "thompson": ExploreConfig(kind=ExploreKind.thompson, rate=0.1),
    "uniform": ExploreConfig(kind=ExploreKind.uniform, rate=0.1),
}
_POINTS = 40  # of a curve


def one_world(visits: int, seed: int) -> dict[str, Any]:
    """Run a world without exploration and with each kind, with the same luck; the gain counts from the first new item on."""
    config = WorldConfig(
        users=150,
        items=250,
        new_items=80,
        new_quality=0.5,
        horizon_s=visits / 2,
        fatigue=0.05,
        drift_days=0.5,
        seed=seed,
    )
    greedy = _run(config, ExploreConfig(), visits)
    first = World(config).item_born_s
    start = int(first[first > 0].min()) + 1
    base = greedy.by_turn("expected")[start:]
    at = np.linspace(0, base.size - 1, _POINTS).astype(int)
    found: dict[str, Any] = {
        "curve_at": at.tolist(),
        "greedy_regret": float((greedy.by_turn("best")[start:] - base).mean()),
        "greedy_fresh": greedy.totals().fresh,
        "kinds": {},
    }
    for name, explore in KINDS.items():
        ledger = _run(config, explore, visits)
        mine = ledger.by_turn("expected")[start:]
        found["kinds"][name] = {
            "gain": float(mine.sum() / base.sum() - 1),
            "curve": np.cumsum(mine - base)[at].tolist(),
            "fresh": ledger.totals().fresh,
        }
    return found


def rewards(worlds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put worlds together: the mean gain of each kind and its 95% interval, each world being one observation."""
    kinds = {}
    for name in KINDS:
        mine = [world["kinds"][name] for world in worlds]
        gains = [each["gain"] for each in mine]
        parts = {"gains": gains, "curves": [each["curve"] for each in mine], "fresh": [each["fresh"] for each in mine]}
        kinds[name] = {**_interval(gains), **parts}
    return {
        "judged": "thompson",
        "curve_at": worlds[0]["curve_at"],
        "greedy_regret": [world["greedy_regret"] for world in worlds],
        "greedy_fresh": [world["greedy_fresh"] for world in worlds],
        "kinds": kinds,
    }


def _run(config: WorldConfig, explore: ExploreConfig, visits: int) -> Ledger:
    world = World(config)
    return asyncio.run(drive(world, Shop(world, explore), np.arange(visits, dtype=float), k=_K, at_once=1))


def _interval(gains: Sequence[float]) -> dict[str, float]:
    """Mean over worlds and its 95% interval."""
    from scipy.stats import t

    values = np.array(gains)
    if values.size < 2:
        return {"gain": float(values.mean()), "low": float("-inf"), "high": float("inf")}
    error = t.ppf(0.975, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size)
    return {"gain": float(values.mean()), "low": float(values.mean() - error), "high": float(values.mean() + error)}
