"""The gateway and releases of fakes on a real cluster, with a real store, over real HTTP."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from ray import serve

from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.hashing import item_keys
from reco_ray.serve.app import GatewayArgs, ReleaseArgs, build_gateway, build_release
from reco_ray.store import OnlineStore
from reco_ray.types import UserRow

FAST, SLOW_RANKER = "fake:0,0,0", "fake:0,400,0"
LOADER = "serve_fakes:FakeLoader"
SIZE = {"num_cpus": 0.1}


@dataclass
class World:
    """Serve with a gateway, one release, and a store that knows user "known"."""

    store: OnlineStore
    store_url: str
    url: str

    def run_release(self, release: str, root: str) -> None:
        args = ReleaseArgs.model_validate({"root": root, "release_id": release, "loader": LOADER})
        serve.run(build_release(args), name=f"release-{release}", route_prefix=None)

    def run_gateway(self, topology: str) -> None:
        fields = {"root": FAST, "store_url": self.store_url, "topology": topology, "loader": LOADER, "deadline_ms": 1000}
        size = {"num_cpus": 0.2, "max_ongoing_requests": 256}
        serve.run(build_gateway(GatewayArgs.model_validate({**fields, "gateway": size})), name="gateway", route_prefix="/")

    def send_traffic(self, **weights: float) -> None:
        self.store.set_traffic(weights, dict.fromkeys(weights, "v1"))

    def await_release(self, release: str) -> None:
        self.until(lambda: self.post({}).json().get("release") == release)

    def until(self, check: Any) -> None:
        deadline, pause = time.monotonic() + 60, threading.Event()
        while time.monotonic() < deadline:
            try:
                if check():
                    return
            except (httpx.HTTPError, ValueError):
                pass
            pause.wait(0.1)
        pytest.fail(f"not within 60 s; the last answer was {self.post({}).text[:500]}")

    def post(self, body: object, path: str = "/v1/recommendations", **headers: str) -> httpx.Response:
        return httpx.post(self.url + path, json=body, headers=headers, timeout=10)


@pytest.fixture(scope="module")
def world(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    store_port, http_port = free_port(), free_port()
    config = compose_config([f"root={tmp_path_factory.mktemp('root')}", f"store.port={store_port}"])
    with embedded_store(config) as store_url, OnlineStore(store_url, config.store.namespace) as store:
        keys = item_keys(["item-1", "item-2"])
        known = UserRow(keys, np.ones(2, np.float32), np.sort(keys), np.ones(3, np.float32), as_of=1)
        store.write_users([("known", known)], "v1")
        serve.start(http_options={"host": "127.0.0.1", "port": http_port})
        world = World(store, store_url, f"http://127.0.0.1:{http_port}")
        try:
            world.run_gateway("staged")
            world.run_release("one", FAST)
            world.send_traffic(one=1.0)
            world.until(lambda: httpx.get(f"{world.url}/readyz").status_code == 200)
            yield world
        finally:
            serve.shutdown()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_known_user_gets_a_full_slate(world: World) -> None:
    response = world.post({"user_id": "known", "k": 5, "exclude": ["item-304"]}, **{"x-request-id": "abc"})
    answer = response.json()
    assert response.status_code == 200
    assert [item["item_id"] for item in answer["items"]] == [f"item-{i}" for i in (303, 302, 301, 300, 299)]
    assert (answer["request_id"], answer["release"], answer["degraded"]) == ("abc", "one", [])
    assert "rank;dur=" in response.headers["server-timing"]


def test_an_unknown_user_gets_a_slate_that_says_so(world: World) -> None:
    assert world.post({"user_id": "nobody"}).json()["degraded"] == ["unknown_user"]


def test_problems_pass_the_proxy(world: World) -> None:
    assert world.post({"k": 0}).status_code == 422
    response = world.post({"item_id": "item-none"}, "/v1/similar-items")
    assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")
    assert world.post({"item_id": "item-7"}, "/v1/similar-items").status_code == 200


def test_get_answers_304_to_its_own_etag(world: World) -> None:
    url = f"{world.url}/v1/recommendations/known?k=3"
    etag = httpx.get(url).headers["etag"]
    assert httpx.get(url, headers={"if-none-match": etag}).status_code == 304


def test_concurrent_requests_each_get_their_own_answer(world: World) -> None:
    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=20, limits=httpx.Limits(max_connections=32)) as client:
            bodies = [{"user_id": "u" * (1 + i % 50), "k": 1 + i % 7} for i in range(300)]
            url = f"{world.url}/v1/recommendations"
            return await asyncio.gather(
                *(client.post(url, json=b, headers={"x-request-id": f"q{i}"}) for i, b in enumerate(bodies))
            )

    responses = asyncio.run(ask())
    assert {response.status_code for response in responses} == {200}
    for i, response in enumerate(responses):
        answer = response.json()
        assert answer["request_id"] == f"q{i}"
        assert len(answer["items"]) == 1 + i % 7
        assert answer["items"][0]["item_id"] == f"item-{300 + i % 50}"


def test_a_late_ranker_leaves_recalls_order_and_says_so(world: World) -> None:
    world.run_release("slow", SLOW_RANKER)
    world.send_traffic(slow=1.0, one=0.0)
    world.await_release("slow")
    response = world.post({"user_id": "known", "k": 3}, **{"x-request-timeout-ms": "200"})
    answer = response.json()
    assert response.status_code == 200
    assert answer["degraded"] == ["ranker_unavailable"]
    assert [item["item_id"] for item in answer["items"]] == ["item-5", "item-6", "item-7"]
    world.send_traffic(one=1.0)
    world.await_release("one")


def test_no_request_fails_while_the_traffic_moves_to_a_new_release(world: World) -> None:
    world.run_release("two", FAST)
    statuses: list[int] = []
    stop = threading.Event()

    def load() -> None:
        with httpx.Client(timeout=10) as client:
            while not stop.is_set():
                statuses.append(client.post(f"{world.url}/v1/recommendations", json={"user_id": "known"}).status_code)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        world.send_traffic(two=1.0, one=0.0)
        world.await_release("two")
    finally:
        stop.set()
        thread.join()
    assert statuses, "no request was sent while the traffic moved"
    assert set(statuses) == {200}
    found = httpx.get(f"{world.url}/v1/releases").json()
    assert [(r["release"], r["weight"]) for r in found["releases"] if r["loaded"]] == [("one", 0.0), ("two", 1.0)]


def test_the_fused_topology_gives_the_same_slates(world: World) -> None:
    bodies: list[dict[str, object]] = [{"user_id": "u" * n, "k": 4} for n in range(1, 20)]
    staged = [world.post(body).json()["items"] for body in bodies]
    world.run_gateway("fused")
    world.until(lambda: httpx.get(f"{world.url}/v1/releases").json()["topology"] == "fused")
    world.until(lambda: httpx.get(f"{world.url}/readyz").status_code == 200)
    assert [world.post(body).json()["items"] for body in bodies] == staged


def test_what_serve_binds_is_the_loopback_interface_only(world: World) -> None:
    """HAProxy's port and the replicas' own HTTP ports; Ray's replica gRPC ports listen everywhere (see ray-2.60.md F)."""
    table = Path("/proc/net/tcp").read_text().splitlines()[1:]
    listening = [line.split()[1] for line in table if line.split()[3] == "0A"]
    port = int(world.url.rsplit(":", 1)[1])
    addresses = {address.split(":")[0] for address in listening if int(address.split(":")[1], 16) == port}
    direct = {a.split(":")[0] for a in listening if 30000 <= int(a.split(":")[1], 16) < 30100}
    assert addresses == {"0100007F"}
    assert direct <= {"0100007F"}
