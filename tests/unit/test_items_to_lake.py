"""Live items go into the lake's table with a pipeline run, and leave the store once every release knows them."""

import asyncio
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.config import PipelineConfig
from reco_ray.lake import tables
from reco_ray.release import release_uri, seal
from reco_ray.schema import ITEMS
from reco_ray.store import Item, ItemStore, OnlineStore
from reco_ray.workflow.items import TakenItems, take_live_items

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ALIEN = Item("Alien", ("Horror",), 1979, "In space.", price=9.99)
A_WEEK_ON = 8 * 86_400.0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("root")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with embedded_store(compose_config([f"root={root}", f"store.port={port}"])) as url:
        (root / "url").write_text(url)
        yield root


@pytest.fixture
def config(root: Path, tmp_path: Path, request: pytest.FixtureRequest) -> PipelineConfig:
    """A root with a table of items a and b, and a store of its own name."""
    name = request.node.name.replace("[", "_")
    config = compose_config([f"root={tmp_path}", f"store.url={(root / 'url').read_text()}", f"store.namespace={name}"])
    rows = [
        {"item_id": item_id, "title": item_id.upper(), "categories": [], "year": 2000, "available": True, "updated_ts": NOW}
        for item_id in ("a", "b")
    ]
    tables.replace(config.root, "items", pa.Table.from_pylist(rows, schema=ITEMS))
    return config


def change(config: PipelineConfig, *put: str, delete: str = "") -> None:
    async def run() -> None:
        items = ItemStore(store)
        for item_id in put:
            await items.put(item_id, ALIEN)
        if delete:
            await items.delete(delete)
        await store.calls.aclose()

    with OnlineStore(config.store.url, config.store.namespace) as store:
        asyncio.run(run())


def in_store(config: PipelineConfig) -> list[str]:
    with OnlineStore(config.store.url, config.store.namespace) as store:
        return [item.item_id for item in ItemStore(store).all()]


def release(config: PipelineConfig, release_id: str, weights: dict[str, float]) -> None:
    """Publish a release made of the table as it is, and set the traffic."""
    folder = Path(release_uri(config.root, release_id))
    folder.mkdir(parents=True)
    seal(
        folder, release_id, "v1", {"made_ts": NOW.isoformat(), "lake_versions": {"items": tables.version(config.root, "items")}}
    )
    with OnlineStore(config.store.url, config.store.namespace) as store:
        store.set_traffic(weights, dict.fromkeys(weights, "v1"))


def later() -> float:
    return time.time() + A_WEEK_ON


def test_what_was_put_and_deleted_is_in_the_table(config: PipelineConfig) -> None:
    change(config, "new", "b", delete="a")
    change(config, delete="never known")
    assert take_live_items(config) == TakenItems(4, 0)
    found = {row["item_id"]: row for row in tables.read(config.root, "items").iter_rows(named=True)}
    assert set(found) == {"a", "b", "new"}
    assert (found["a"]["available"], found["a"]["title"]) == (False, "A")
    for item_id in ("b", "new"):
        assert {**found[item_id], "updated_ts": None} == {
            "item_id": item_id,
            "title": "Alien",
            "categories": ["Horror"],
            "year": 1979,
            "text": "In space.",
            "available": True,
            "price": 9.99,
            "updated_ts": None,
        }
    version = tables.version(config.root, "items")
    take_live_items(config)
    assert tables.version(config.root, "items") == version, "the same again is no new version"


def test_a_table_from_before_prices_takes_them(config: PipelineConfig) -> None:
    tables.replace(config.root, "items", tables.read(config.root, "items").drop("price").to_arrow())
    release(config, "old", {"old": 1.0})
    change(config, "b", delete="a")
    assert take_live_items(config, later) == TakenItems(2, 0)
    found = tables.read(config.root, "items").sort("item_id")
    assert found.select("item_id", "available", "price").rows() == [("a", False, None), ("b", True, 9.99)]
    release(config, "new", {"new": 1.0})
    assert take_live_items(config, later).forgotten == 2


def test_a_change_leaves_the_store_when_every_release_knows_it_and_a_week_has_passed(config: PipelineConfig) -> None:
    release(config, "old", {"old": 1.0})
    change(config, "new", delete="a")
    take_live_items(config)
    release(config, "next", {"old": 0.5, "next": 0.5})
    assert take_live_items(config, later).forgotten == 0, "the old release does not know them"
    release(config, "after", {"next": 0.5, "after": 0.5})
    assert take_live_items(config).forgotten == 0, "they are young"
    change(config, "b")
    assert take_live_items(config, later) == TakenItems(3, 2)
    assert in_store(config) == ["b"]


def test_without_a_release_or_with_one_that_cannot_be_read_all_stays(config: PipelineConfig) -> None:
    change(config, "new")
    assert take_live_items(config, later) == TakenItems(1, 0)
    with OnlineStore(config.store.url, config.store.namespace) as store:
        store.set_traffic({"gone": 1.0}, {"gone": "v1"})
    assert take_live_items(config, later) == TakenItems(1, 0)


def test_a_root_without_store_or_items_has_nothing_to_take(tmp_path: Path) -> None:
    assert take_live_items(compose_config([f"root={tmp_path}"])) == TakenItems()
    assert not (tmp_path / "store").exists()
