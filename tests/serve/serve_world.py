"""What the tests of Serve share: a gateway and releases of fakes on a real cluster, with a real store, over real HTTP."""

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from ray import serve

from reco_ray.hashing import item_keys
from reco_ray.serve.app import GatewayArgs, ReleaseArgs, build_gateway, build_release
from reco_ray.store import OnlineStore, Scope, new_key
from reco_ray.types import UserRow

USERS = 50
FAST = "fake:0,0,0"
PATH = "/v1/recommendations"


@dataclass
class World:
    """Serve with a gateway of two replicas, and a store that knows "known" and ``user-0`` to ``user-49``.

    The gateway's caches are off, so that the stages run for every request, and its store, deadline and callers have time:
    nothing but what a test does may make an answer less than full.

    Attributes:
        headers: of every request; hold a key of all scopes, for when the gateway asks for one.
    """

    store: OnlineStore
    store_url: str
    store_folder: Path
    dashboard: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    gateway: tuple[str, str] = ("", "")
    releases: dict[str, str] = field(default_factory=dict)

    def fill_store(self) -> None:
        """Write the users, and the key."""
        keys = item_keys(["item-1", "item-2"])
        rows = [("known", 0), *((f"user-{i}", 7 * i) for i in range(USERS))]
        self.store.write_users(
            [
                (name, UserRow(keys, np.ones(2, np.float32), np.sort(keys), np.full(3, start, np.float32), as_of=1))
                for name, start in rows
            ],
            "v1",
        )
        self.headers["authorization"] = f"Bearer {self.make_key(*Scope)[1]}"

    def make_key(self, *scopes: Scope) -> tuple[str, str]:
        """Store a key that is never too fast; returns its id and the key."""
        record, key = new_key("test", scopes, time.time(), rate=1e6, burst=1_000_000)
        self.store.keys.add(record)
        return record.key_id, key

    def run_gateway(self, topology: str = "staged", auth: str = "off") -> None:
        """Run the gateway so, unless it does already."""
        if self.gateway == (topology, auth):
            return
        args = GatewayArgs.model_validate(
            {
                "root": FAST,
                "store_url": self.store_url,
                "store_timeout_ms": 2000,
                "topology": topology,
                "auth": auth,
                "deadline_ms": 3000,
                "max_deadline_ms": 20_000,
                "cache": {"ttl_s": 0, "stale_s": 0},
                "gateway": {"min_replicas": 2, "max_replicas": 2, "num_cpus": 0.2, "max_ongoing_requests": 256},
                "loader": "serve_fakes:FakeLoader",
            }
        )
        serve.run(build_gateway(args), name="gateway", route_prefix="/")
        self.gateway = (topology, auth)
        if self.releases:
            self.until(lambda: all(self.get("/v1/releases").json()["topology"] == topology for _ in range(10)))
            self.await_ready()

    def run_release(self, release: str, root: str, loader: str = "FakeLoader", **more: Any) -> None:
        """Run a release, unless it runs already."""
        if release in self.releases:
            return
        args = ReleaseArgs.model_validate({"root": root, "release_id": release, "loader": f"serve_fakes:{loader}", **more})
        serve.run(build_release(args), name=f"release-{release}", route_prefix=None)
        self.releases[release] = root

    def drop_releases(self, *releases: str) -> None:
        """Stop releases that get no traffic any more, without waiting for it."""
        for release in releases:
            serve.delete(f"release-{release}", _blocking=False)
            del self.releases[release]

    def send_traffic(self, **weights: float) -> None:
        self.store.set_traffic(weights, dict.fromkeys(weights, "v1"))

    def rest(self, topology: str = "staged", auth: str = "off") -> None:
        """Be as a test finds it: release "one" in charge."""
        self.run_gateway(topology, auth)
        self.run_release("one", FAST)
        self.send_traffic(one=1.0)
        self.await_ready()
        self.await_release("one")

    def await_release(self, release: str) -> None:
        """Wait until both gateways send everybody to a release, and it answers; not for a stage that takes its time."""
        self.await_traffic(release)
        self.until(lambda: self.post({}, **{"x-request-timeout-ms": "600"}).json().get("release") == release)

    def await_traffic(self, release: str) -> None:
        """Wait until both gateways send everybody to a release that they have loaded, without asking it for anything."""

        def here(found: dict[str, Any]) -> bool:
            return any(r["release"] == release and r["weight"] == 1.0 and r["loaded"] for r in found["releases"])

        self.until(lambda: all(here(self.get("/v1/releases").json()) for _ in range(10)))

    def await_ready(self) -> None:
        self.until(lambda: all(self.get("/readyz").status_code == 200 for _ in range(10)))

    def until(self, check: Callable[[], bool], seconds: float = 60, pause_s: float = 0.1) -> None:
        deadline, pause = time.monotonic() + seconds, threading.Event()
        while time.monotonic() < deadline:
            try:
                if check():
                    return
            except (httpx.HTTPError, ValueError):
                pass
            pause.wait(pause_s)
        pytest.fail(f"not within {seconds} s; the last answer was {self.post({}).text[:500]}")

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(self.url + path, headers={**self.headers, **headers}, timeout=30)

    def post(self, body: object, path: str = PATH, **headers: str) -> httpx.Response:
        return httpx.post(self.url + path, json=body, headers={**self.headers, **headers}, timeout=30)

    def describe(self, user_id: str, body: object) -> httpx.Response:
        return httpx.put(f"{self.url}/v1/users/{user_id}", json=body, headers=self.headers, timeout=30)

    def ask_all(self, bodies: Sequence[object], at_once: int = 32) -> list[tuple[int, dict[str, Any]]]:
        """Send all bodies over connections that stay open; returns status and answer of each, in order.

        What was shed is sent again: a gateway of a busy machine does not let all wait.
        """
        headers = {**self.headers, "content-type": "application/json", "x-request-timeout-ms": "20000"}
        mine, opened = threading.local(), []

        def ask(numbered: tuple[int, object]) -> tuple[int, dict[str, Any]]:
            if not hasattr(mine, "connection"):
                mine.connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=30)
                opened.append(mine.connection)
            number, body = numbered
            for _ in range(20):
                mine.connection.request("POST", PATH, json.dumps(body), {**headers, "x-request-id": f"q{number}"})
                response = mine.connection.getresponse()
                found = response.status, json.loads(response.read())
                if found[0] != 503 and "overloaded" not in found[1].get("degraded", ()):
                    break
                threading.Event().wait(0.5)
            return found

        with ThreadPoolExecutor(at_once) as pool:
            answers = list(pool.map(ask, enumerate(bodies)))
        for connection in opened:
            connection.close()
        return answers

    def pids(self, application: str, deployment: str) -> set[int]:
        """Processes of the replicas that run."""
        found = httpx.get(f"{self.dashboard}/api/serve/applications/", timeout=30).json()
        replicas = found["applications"][application]["deployments"][deployment]["replicas"]
        return {replica["pid"] for replica in replicas if replica["state"] == "RUNNING"}


class Load:
    """Clients that ask for known users with hardly a pause, and count what comes back.

    Args:
        ms: budget of each request.

    Attributes:
        answers: by status, rung and marks; 0 where there was none.
        broken: connections that ended without an answer, or with a page of the proxy's or half an answer; the request is sent
            once more, as HTTP clients do.
    """

    def __init__(self, world: World, ms: int) -> None:
        self._world, self._ms, self._pause_s = world, ms, 0.0
        self._stops: list[threading.Event] = []
        self._threads: list[threading.Thread] = []
        self.answers: Counter[tuple[int, str, str]] = Counter()
        self.broken = 0
        self.full_in_a_row = 0

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *error: object) -> None:
        self.clients(0)

    @property
    def marks(self) -> set[str]:
        """What was named as less than full."""
        return {mark for _, _, marks in self.answers for mark in marks.split()}

    def clients(self, n: int, pause_s: float = 0.02) -> None:
        """Let ``n`` clients run from now on, each with so long a pause between an answer and its next request."""
        self._pause_s = pause_s
        while len(self._stops) > n:
            self._stops.pop().set()
        while len(self._stops) < n:
            stop = threading.Event()
            self._stops.append(stop)
            self._threads.append(threading.Thread(target=self._ask, args=(stop, len(self._threads))))
            self._threads[-1].start()
        if n == 0:
            for thread in self._threads:
                thread.join()

    def _ask(self, stop: threading.Event, user: int) -> None:
        with httpx.Client(timeout=30, headers={**self._world.headers, "x-request-timeout-ms": str(self._ms)}) as client:
            while not stop.is_set():
                user += 1
                body = {"user_id": f"user-{user % USERS}", "k": 5}
                try:
                    try:
                        response = client.post(self._world.url + PATH, json=body)
                        answer = response.json()
                    except (httpx.RemoteProtocolError, ValueError):
                        self.broken += 1
                        response = client.post(self._world.url + PATH, json=body)
                        answer = response.json()
                    outcome = response.status_code, answer.get("rung", ""), " ".join(answer.get("degraded", ()))
                except (httpx.HTTPError, ValueError) as exc:
                    outcome = 0, "", type(exc).__name__
                self.answers[outcome] += 1
                self.full_in_a_row = self.full_in_a_row + 1 if outcome == (200, "full", "") else 0
                stop.wait(self._pause_s)
