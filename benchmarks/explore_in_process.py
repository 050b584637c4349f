"""What exploration earns in process, in a minute a world: to compare ways of exploring before one is measured over HTTP.

``python benchmarks/explore_in_process.py --out FILE``. The worlds and releases of `explore_http`, their real stages and the
sums of the streams, without Ray, store and HTTP; what has happened is known after every 180 visits, as it is over HTTP at 30
visits a second. ``thompson_release`` explores by the release's counts of events, ``thompson`` by how often items were met.
"""

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from explore_gain import BASE, gain_of, save, summary, worlds_of
from explore_shop import K, Knowledge, Shop, make_shop, make_world, publish, table_of
from rich.console import Console

from reco_ray.config import ExploreConfig, ExploreKind
from reco_ray.rank.stage import XGBoostRanker
from reco_ray.recall import Recall
from reco_ray.rerank import Rerank
from reco_ray.simulation import Ledger, Shown, WorldItem, drive
from reco_ray.slate import Pipeline
from reco_ray.store import NO_SLOT, Item, LiveItem
from reco_ray.types import EMPTY_USER, Request

_LEARNS = 180  # visits
_THOMPSON = ExploreConfig(kind=ExploreKind.thompson, rate=0.1)
_ARMS = {
    BASE: ExploreConfig(),
    "uniform": ExploreConfig(kind=ExploreKind.uniform, rate=0.1),
    "thompson_release": _THOMPSON,
    "thompson": _THOMPSON,
}


class InProcess:
    """A release's stages behind the driver's API.

    Args:
        counts: whether exploration goes by how often items were met up to now.
    """

    def __init__(self, folder: Path, shop: Shop, counts: bool) -> None:
        self._pipeline, self._counts = Pipeline.load(folder), counts
        recall, rank, rerank = self._pipeline.recall, self._pipeline.rank, self._pipeline.rerank
        assert isinstance(recall, Recall)
        assert isinstance(rank, XGBoostRanker)
        assert isinstance(rerank, Rerank)
        self._stages, self._features, self._rerank = (recall, rank, rerank), rank.features, rerank
        self._known = Knowledge(shop.items, rerank.catalogue)
        self._known.add(shop.past)
        self._visits, self._puts, self._waiting = 0, 0, list[Mapping[str, object]]()
        self._learn()

    async def recommend(self, user_id: str, k: int, context: Mapping[str, str]) -> Shown:
        """Contract of `simulation.Api`."""
        self._visits += 1
        if self._visits % _LEARNS == 0:
            self._known.add(table_of(self._waiting))
            self._waiting.clear()
            self._learn()
        user = self._known.users.get(user_id, EMPTY_USER)
        (slate,) = self._pipeline.run([Request(request_id=f"r{self._visits}", user_id=user_id, k=k, user=user)])
        return Shown(200, slate.request_id, slate.item_ids, "shop", "main", "full")

    async def send(self, events: Sequence[Mapping[str, object]]) -> int:
        """Contract of `simulation.Api`."""
        self._waiting += events
        return len(events)

    async def put_item(self, item: WorldItem) -> None:
        """Contract of `simulation.Api`."""
        self._puts += 1
        for stage in self._stages:
            stage.follow([LiveItem(item.item_id, self._puts, NO_SLOT, 0.0, Item(item.title, item.categories))])

    def _learn(self) -> None:
        self._features.refresh_items(self._known.features())
        if self._counts:
            self._rerank.refresh_met(self._known.met())


def one_world(visits: int, seed: int) -> dict[str, Any]:
    """Drive all arms of a world."""
    found: dict[str, Any] = {"arms": {}}
    with tempfile.TemporaryDirectory(prefix="reco-shop-") as folder:
        shop = make_shop(make_world(visits, seed), Path(folder), seed)
        for arm, explore in _ARMS.items():
            release, world = publish(folder, arm, shop, explore, ""), make_world(visits, seed)
            api = InProcess(release, shop, arm != "thompson_release")
            ledger: Ledger = asyncio.run(drive(world, api, np.arange(visits, dtype=float), k=K, at_once=1))
            found["arms"][arm] = summary(ledger, world)
    return found


def main(out: Annotated[Path, typer.Option()], worlds: int = 16, visits: int = 3_000, seed: int = 101) -> None:
    """Measure and write the result; its worlds are others than those of `explore_http`."""
    settings = {"visits": visits, "seed": seed}
    found: dict[str, Any] = {"checks": [], "settings": settings, "worlds": worlds_of(out, settings), "arms": {}}
    wanted = [str(each) for each in range(seed, seed + worlds)]
    for each in wanted:
        if each not in found["worlds"]:
            found["worlds"][each] = one_world(visits, int(each))
            save(out, found)
    for arm in _ARMS:
        gain = found["arms"][arm] = gain_of(arm, [found["worlds"][each] for each in wanted])
        if arm != BASE:
            for end in ("gain", "low", "high"):
                name = f"explore_in_process_{arm}_{end}"
                found["checks"].append({"name": name, "value": gain[end], "unit": "ratio, less greedy, in process"})
                Console().print(f"{name} = {gain[end]:.4g}")
    save(out, found)


if __name__ == "__main__":
    typer.run(main)
