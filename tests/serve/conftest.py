"""One Serve for all tests of this folder: starting it takes longer than most of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ports import free_port
from ray import serve
from serve_world import World

from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.store import OnlineStore


@pytest.fixture(scope="session")
def one_world(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    store_port, http_port = free_port(), free_port()
    config = compose_config([f"root={tmp_path_factory.mktemp('root')}", f"store.port={store_port}"])
    with embedded_store(config) as store_url, OnlineStore(store_url, config.store.namespace) as store:
        serve.start(http_options={"host": "127.0.0.1", "port": http_port})
        world = World(store, store_url, Path(config.root) / "store", ray_cluster, f"http://127.0.0.1:{http_port}")
        world.fill_store()
        try:
            yield world
        finally:
            serve.shutdown()


@pytest.fixture
def world(one_world: World) -> World:
    """The one world at rest, staged and without keys, whatever the test before has done."""
    one_world.rest()
    return one_world


@pytest.fixture
def keyed(one_world: World) -> World:
    """The one world at rest, fused and with keys."""
    one_world.rest("fused", "keys")
    return one_world
