"""Rules over HTTP: put at one gateway replica, they hold in the answers of another, kept ones included."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from event_fakes import EventCounts
from item_fakes import ItemCounts
from test_ladder import Metrics

from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.rules import Hits
from reco_ray.serve.args import GatewayArgs
from reco_ray.serve.assembly import GatewayParts
from reco_ray.serve.path.fleet import Connected
from reco_ray.serve.path.items import keep_items_live
from reco_ray.serve.path.rules import keep_rules
from reco_ray.serve.path.stages import InProcess
from reco_ray.slate import Pipeline, PopularList
from reco_ray.store import OnlineStore


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with embedded_store(compose_config([f"root={tmp_path_factory.mktemp('root')}", f"store.port={port}"])) as url:
        yield url


class Counts:
    """Counts as `monitoring.metrics.serving.RuleMetrics` does."""

    def __init__(self) -> None:
        self.versions: list[int] = []

    def in_force(self, version: int) -> None:
        self.versions.append(version)

    def hits(self, told: Hits) -> None:
        pass

    def jumped(self, rule: str, effect: str) -> None:
        pass

    def pushed(self, rule: str, share: float, amount: float, cost: float) -> None:
        pass


@asynccontextmanager
async def replica(
    url: str, name: str, folder: Path, release: Path, namespace: str = "rules"
) -> AsyncIterator[httpx.AsyncClient]:
    """A whole gateway replica over a real store, with the stages of a real release, behind a socket."""
    stops: list[Callable[[], None]] = []

    async def connect(release_id: str) -> Connected:
        pipeline = Pipeline.load(release)
        stops.append(keep_items_live([pipeline.recall, pipeline.rerank], url, namespace, ItemCounts()).set)
        stops.append(keep_rules(pipeline.rerank, url, namespace, Counts()).set)
        return InProcess(pipeline), PopularList.load(release, release_id)

    args = GatewayArgs(root=str(folder), store_url=url, namespace=namespace, store_timeout_ms=2000, deadline_ms=10_000)
    parts = GatewayParts(args, Metrics(), lambda left: connect, dict, name, folder, EventCounts(), ItemCounts())
    await parts.start()
    server = uvicorn.Server(uvicorn.Config(parts.http, port=0, log_config=None, access_log=False, ws="none", lifespan="off"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.001)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as calls:
            yield calls
    finally:
        server.should_exit = True
        await task
        await parts.stop()
        for stop in stops:
            stop()


async def slate(calls: httpx.AsyncClient, **more: Any) -> dict[str, Any]:
    response = await calls.post("/v1/recommendations", json={"user_id": "kim", "k": 5, **more})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


async def in_force(calls: httpx.AsyncClient, version: int, **more: Any) -> dict[str, Any]:
    """The first answer that the rules of a version made, all through."""
    while True:
        answer = await slate(calls, **more)
        if answer.get("rules", {}).get("version") == version and "rules_behind" not in answer["degraded"]:
            return answer
        await asyncio.sleep(0.01)


def test_rules_put_at_one_replica_hold_in_another_and_a_wrong_document_changes_nothing(
    url: str, tmp_path: Path, folder: Path
) -> None:
    async def story() -> None:
        with OnlineStore(url, "rules") as store:
            store.set_traffic({"rel": 1.0}, {"rel": "v1"})
        async with replica(url, "one", tmp_path, folder) as one, replica(url, "two", tmp_path, folder) as two:
            before = await slate(two)
            assert "rules" not in before
            best, last = ids(before)[0], ids(before)[-1]
            rules = [
                {"name": "gone", "kind": "block", "where": {"item_id": [best]}},
                {"name": "top", "kind": "pin", "item_id": last, "position": 1, "surface": ["home"]},
                {"name": "never", "kind": "pin", "item_id": "nobody knows", "position": 2},
            ]
            put = await one.post("/v1/rules", json={"author": "ana", "rules": rules})
            assert (put.status_code, put.json()["version"]) == (200, 1)
            assert best not in ids(await slate(one)), "whatever the stages know, this replica answers without it"
            for calls in (one, two):
                answer = await in_force(calls, 1)
                assert best not in ids(answer)
                assert ids(answer)[0] == last
                assert "rule:top" in answer["items"][0]["reasons"]
                assert answer["rules"] == {"version": 1, "missed": ["never"]}
                assert (await slate(calls))["age_s"] > 0, "what the rules in force made is kept"
            assert ids(await in_force(two, 1, surface="cart"))[0] != last
            wrong = await two.post("/v1/rules", json={"author": "ben", "rules": [{"name": "x", "kind": "hide"}]})
            assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "x.kind")
            assert best not in ids(await in_force(one, 1))
            lifted = await two.post("/v1/rules", json={"author": "ben", "rules": [], "expected": 1})
            assert lifted.json()["version"] == 2
            for calls in (one, two):
                assert ids(await in_force(calls, 2)) == ids(before)

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await story()

    asyncio.run(bounded())


def test_a_price_that_is_put_counts_in_all_replicas_whatever_they_keep(url: str, tmp_path: Path, folder: Path) -> None:
    async def until_gone(calls: httpx.AsyncClient) -> None:
        while best in ids(await slate(calls)):
            await asyncio.sleep(0.01)

    async def until_back(calls: httpx.AsyncClient) -> None:
        for number in count():
            if best in ids(await slate(calls, exclude=[f"no kept slate {number}"])):
                return
            await asyncio.sleep(0.01)

    async def story() -> None:
        nonlocal best
        with OnlineStore(url, "prices") as store:
            store.set_traffic({"rel": 1.0}, {"rel": "v1"})
        async with (
            replica(url, "one", tmp_path, folder, "prices") as one,
            replica(url, "two", tmp_path, folder, "prices") as two,
        ):
            rules = [{"name": "dear", "kind": "block", "where": {"price_from": 1000}}]
            assert (await one.post("/v1/rules", json={"author": "ana", "rules": rules})).status_code == 200
            before = ids(await in_force(two, 1))
            best = before[0]
            assert (await slate(two))["age_s"] > 0, "it is kept"
            item = (await one.put(f"/v1/items/{best}", json={"title": "Dear", "price": 1000.0})).json()
            assert item["price"] == 1000.0
            for calls in (one, two):
                await until_gone(calls)
            assert (await one.put(f"/v1/items/{best}", json={"title": "Cheap", "price": 999.99})).status_code == 200
            await until_back(two)

    best = ""

    async def bounded() -> None:
        async with asyncio.timeout(50):
            await story()

    asyncio.run(bounded())
