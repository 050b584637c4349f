"""Items that come and go, through real stages of a small release: every replica follows, one that is started anew included."""

import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from serve_world import PATH, World

from reco_ray.config import FeaturesConfig, RecallConfig, RerankConfig, SourceName
from reco_ray.features import ITEM_COLUMNS
from reco_ray.recall.sources.segments import NOBODY
from reco_ray.release import assemble, release_uri, seal

WORDS = ("space", "ship", "robot", "star", "moon", "love", "wedding", "dance", "song", "kiss")
TWIN = {"title": "space ship robot", "categories": ["even"], "year": 2000, "text": "", "available": True}


def publish(root: Path, release: str) -> None:
    """A release of 30 items, item-0 to item-29, known by their texts."""
    n = 30
    ids = [f"item-{i}" for i in range(n)]
    items = pl.DataFrame(
        {
            "item_id": ids,
            "title": [" ".join(WORDS[(i + j) % len(WORDS)] for j in range(3)) for i in range(n)],
            "categories": [["even" if i % 2 == 0 else "odd"] for i in range(n)],
            "year": np.full(n, 2000, np.int32),
            "text": [""] * n,
            "available": np.ones(n, bool),
            "updated_ts": [datetime(2026, 1, 1, tzinfo=UTC)] * n,
        }
    )
    counts = np.arange(n, 0, -1)
    rows = pl.DataFrame({"item_id": ids, "n": counts, "n_positive": counts, **{c.name: counts * 0.1 for c in ITEM_COLUMNS}})
    folder = Path(release_uri(str(root), release))
    folder.mkdir(parents=True)
    config = RecallConfig(quotas={SourceName.content: 20, SourceName.popular: 20, SourceName.fresh: 20}, candidates=60)
    pairs = pl.DataFrame(schema={"a": pl.String, "b": pl.String, "score": pl.Float32})
    assemble(folder, items, rows, NOBODY, pairs, config, RerankConfig(), None, None)
    seal(folder, release, "v1", {"made_ts": "2026-01-01T00:00:00+00:00", "features": {**vars(FeaturesConfig())}})


class Items:
    """Calls about items, and who shows them."""

    def __init__(self, world: World) -> None:
        self._world = world

    def send(self, method: str, item_id: str, body: dict[str, Any] | None = None) -> httpx.Response:
        path = f"{self._world.url}/v1/items/{item_id}"
        return httpx.request(method, path, json=body, headers=self._world.headers, timeout=30)

    def similar(self, item_id: str) -> list[str]:
        return self._shown({"item_id": item_id, "k": 30}, "/v1/similar-items")

    def slate(self) -> list[str]:
        return self._shown({"k": 40}, PATH)

    def _shown(self, body: dict[str, Any], path: str) -> list[str]:
        return [item["item_id"] for item in self._world.post(body, path).raise_for_status().json()["items"]]


@pytest.fixture
def items(world: World, tmp_path: Path) -> Items:
    publish(tmp_path, "live")
    world.run_release("live", str(tmp_path), "ReleaseLoader", store_url=world.store_url)
    world.send_traffic(live=1.0, one=0.0)
    world.await_release("live")
    return Items(world)


def test_items_come_and_go_everywhere_and_a_new_replica_knows(world: World, items: Items) -> None:
    assert "new" not in items.similar("item-0")
    put = items.send("PUT", "new", TWIN)
    assert (put.status_code, put.json()["title"]) == (200, TWIN["title"])
    assert items.send("PUT", "new", TWIN).json() == put.json() == items.send("GET", "new").json()
    world.until(lambda: all("new" in items.similar("item-0") and "new" in items.slate() for _ in range(6)))
    world.until(lambda: "item-0" in items.similar("new"))

    recalls = world.pids("release-live", "Recall")
    for pid in recalls:
        os.kill(pid, signal.SIGKILL)
    world.until(lambda: bool(found := world.pids("release-live", "Recall")) and not found & recalls)
    world.until(lambda: all("new" in items.similar("item-0") and "new" in items.slate() for _ in range(6)))

    assert items.send("DELETE", "new").status_code == 200
    assert items.send("DELETE", "item-2").status_code == 200
    assert items.send("GET", "new").status_code == 404
    world.until(lambda: not any({"new", "item-2"} & {*items.slate(), *items.similar("item-0")} for _ in range(6)))

    items.send("PUT", "item-2", {**TWIN, "title": "again"})
    world.until(lambda: all("item-2" in items.slate() for _ in range(6)))
    world.send_traffic(one=1.0)
    world.await_release("one")
    world.drop_releases("live")
