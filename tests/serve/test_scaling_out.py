"""A release's stages change size under load and at rest, on a real cluster; no request is lost over it."""

import collections
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from ray import serve
from test_gateway import World, free_port

from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.serve.app import GatewayArgs, ReleaseArgs, build_gateway, build_release
from reco_ray.store import OnlineStore

QUICK = {"queue_delay_ms": 10, "up_s": 0.5, "down_s": 1, "idle_to_zero_s": 5}


class Load:
    """Clients that ask without a pause; counts their answers by status and by what was degraded."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stops: list[threading.Event] = []
        self._threads: list[threading.Thread] = []
        self.answers: collections.Counter[str] = collections.Counter()

    def clients(self, n: int) -> None:
        """Let ``n`` clients run from now on."""
        while len(self._stops) > n:
            self._stops.pop().set()
        while len(self._stops) < n:
            stop = threading.Event()
            self._stops.append(stop)
            self._threads.append(threading.Thread(target=self._ask, args=(stop,)))
            self._threads[-1].start()
        if n == 0:
            for thread in self._threads:
                thread.join()

    def _ask(self, stop: threading.Event) -> None:
        with httpx.Client(timeout=20) as client:
            while not stop.is_set():
                answer = client.post(self._url, json={"user_id": "somebody", "k": 5}, headers={"x-request-timeout-ms": "2000"})
                self.answers[f"{answer.status_code} {answer.json().get('degraded')}"] += 1
                stop.wait(0.02)


@pytest.fixture(scope="module")
def world(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    store_port, http_port = free_port(), free_port()
    config = compose_config([f"root={tmp_path_factory.mktemp('root')}", f"store.port={store_port}"])
    with embedded_store(config) as store_url, OnlineStore(store_url, config.store.namespace) as store:
        serve.start(http_options={"host": "127.0.0.1", "port": http_port})
        world = World(store, store_url, f"http://127.0.0.1:{http_port}")
        try:
            # a store that has all the time it needs: here nothing but the stages may make an answer less than full
            args = GatewayArgs(root="", store_url=store_url, store_timeout_ms=2000, deadline_ms=1000)
            serve.run(build_gateway(args), name="gateway", route_prefix="/")
            yield world
        finally:
            serve.shutdown()


def run(world: World, release: str, root: str, **sizes: dict[str, float]) -> None:
    fields = {"root": root, "release_id": release, "loader": "serve_fakes:SleepingLoader", "scaling": QUICK, **sizes}
    serve.run(build_release(ReleaseArgs.model_validate(fields)), name=f"release-{release}", route_prefix=None)
    world.send_traffic(**{release: 1.0})
    world.await_release(release)


def replicas(release: str, stage: str) -> dict[str, int]:
    return {
        str(state): n
        for state, n in serve.status().applications[f"release-{release}"].deployments[stage].replica_states.items()
    }


def wait(what: str, check: Callable[[], bool], seconds: float = 40) -> float:
    started, pause = time.monotonic(), threading.Event()
    while not check():
        assert time.monotonic() - started < seconds, f"{what}: not within {seconds} s"
        pause.wait(0.4)
    return time.monotonic() - started


def test_the_ranker_doubles_under_load_and_halves_after_it_and_no_answer_is_less_than_full(world: World) -> None:
    run(world, "busy", "fake:0,15,0", ranker={"max_replicas": 2})
    load = Load(f"{world.url}/v1/recommendations")
    try:
        load.clients(6)
        wait("a second replica", lambda: replicas("busy", "Ranker").get("RUNNING") == 2)
        load.clients(1)
        wait("one replica again, the other drained", lambda: replicas("busy", "Ranker") == {"RUNNING": 1})
    finally:
        load.clients(0)
    assert set(load.answers) == {"200 ['unknown_user']"}, load.answers
    assert replicas("busy", "Recall") == {"RUNNING": 1}


def test_a_release_at_zero_comes_back_for_one_request_even_when_its_caller_gave_up(world: World) -> None:
    size = {"min_replicas": 0, "max_replicas": 1}
    run(world, "rare", "fake:0,0,0", recall=size, ranker=size, reranker=size)
    stages = ("Recall", "Ranker", "Reranker")
    wait("no replica", lambda: all(not replicas("rare", stage) for stage in stages))
    assert serve.status().applications["release-rare"].status == "RUNNING", "what a deployment of another release waits for"
    url = f"{world.url}/v1/recommendations"
    httpx.post(url, json={"user_id": "u"}, headers={"x-request-timeout-ms": "50"}, timeout=10)
    wait("all stages", lambda: all(replicas("rare", stage).get("RUNNING") == 1 for stage in stages))
    world.until(lambda: httpx.post(url, json={"user_id": "u"}).json().get("degraded") == ["unknown_user"])
