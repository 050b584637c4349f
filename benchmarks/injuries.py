"""What is done to a running service: one function for each way of hurting it, and the system that they hurt."""

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import synthetic
from environment import RELEASE, Case
from faults import LOADER, RANKER, Switch
from processes import processes

from reco_ray.config import SourceName
from reco_ray.serve.app import serve_client
from reco_ray.serve.deploy import ServeApi, deploy
from reco_ray.serve.render import GATEWAY, ROLLOUTS, application_name

__all__ = ["FAULTS", "Fault", "FaultyApi", "System"]

_HANG_S = 60.0
_LASTS_S = 8.0  # a slow or failing stage
_OTHER_RELEASE = "bench-2"


class FaultyApi:
    """Serve's REST client, with a loader of faulty stages in each release that is deployed through it."""

    def __init__(self, api: ServeApi, loader: str = LOADER) -> None:
        self._api, self._loader = api, loader

    def get_serve_details(self) -> dict[str, Any]:
        details = self._api.get_serve_details()
        for app in details.get("applications", {}).values():
            ((app.get("deployed_app_config") or {}).get("args") or {}).pop("loader", None)  # as `deploy` would have put it
        return details

    def deploy_applications(self, config: dict[str, Any]) -> None:
        apps = [
            app if app["name"] in (GATEWAY, ROLLOUTS) else {**app, "args": {**app["args"], "loader": self._loader}}
            for app in config["applications"]
        ]
        self._api.deploy_applications({**config, "applications": apps})


@dataclass(slots=True)
class System:
    """A release that answers at ``url``, and the handles by which to hurt it."""

    given: Case
    dashboard: str
    items: int
    quotas: Mapping[SourceName, int]
    url: str = ""

    def deploy(self, release: str = RELEASE, rankers: int = 1) -> None:
        """Deploy a release with so many rankers."""
        config = self.given.config
        config.serve.ranker = replace(config.serve.ranker, min_replicas=rankers, max_replicas=rankers)
        api = FaultyApi(serve_client(self.dashboard))
        view = synthetic.USER_VIEW
        self.url = deploy(config, release, self.given.store_url, self.dashboard, user_view=view, api=api).url

    def publish_other(self) -> None:
        """Publish the release that `deploy_other` moves the traffic to."""
        synthetic.publish(self.given.config.root, _OTHER_RELEASE, self.items, sum(self.quotas.values()), quotas=self.quotas)

    def settle(self, seconds: float = 120.0) -> None:
        """Wait until everything runs and 20 answers in a row are full.

        Raises: TimeoutError: they are not.
        """
        until, pause, in_a_row = time.monotonic() + seconds, threading.Event(), 0
        while in_a_row < 20:
            if time.monotonic() > until:
                raise TimeoutError(f"the service does not recover: {self._ask()}, {self.running()}")
            in_a_row = in_a_row + 1 if self._ask() == "full" else 0
            pause.wait(0.1)
        while any(min(stages.values(), default=0) < 1 for stages in self.running().values()):
            if time.monotonic() > until:
                raise TimeoutError(f"the service does not recover: {self.running()}")
            pause.wait(0.5)

    def running(self) -> dict[str, dict[str, int]]:
        """Running replicas by application and deployment."""
        apps = serve_client(self.dashboard).get_serve_details()["applications"]
        return {
            name: {stage: sum(r["state"] == "RUNNING" for r in each["replicas"]) for stage, each in app["deployments"].items()}
            for name, app in apps.items()
        }

    def await_rankers(self, n: int) -> None:
        """Wait until so many rankers run, no more and no less."""
        pause = threading.Event()
        for _ in range(200):
            if self.running()[application_name(RELEASE)]["Ranker"] == n:
                return
            pause.wait(0.3)
        raise TimeoutError(f"found {self.running()}, expected {n} rankers")

    def _ask(self) -> str:
        try:
            response = httpx.post(f"{self.url}/v1/recommendations", json={"user_id": "user-1", "k": 20}, timeout=5)
            answer = response.json()
        except (httpx.HTTPError, ValueError) as exc:
            return type(exc).__name__
        return str(answer["degraded"] or "full") if response.status_code == 200 else str(response.status_code)


@dataclass(frozen=True, slots=True)
class Fault:
    """A way of hurting a system.

    Attributes:
        inject: does it; returns when the fault is over, or at once after a kill.
        seconds: of load from the fault's begin on.
        breaks_http: connections break, whatever stands behind them: resets and 5xx are counted, not blamed.
    """

    name: str
    inject: Callable[[System], None]
    seconds: float = 20.0
    breaks_http: bool = False


def _kill_replica(app: str, deployment: str) -> Callable[[System], None]:
    return lambda _: _kill(f"ray::ServeReplica:{app}:{deployment}")


def _kill(title: str) -> None:
    found = processes(title, own=True)
    if not found:
        raise LookupError(f"found no process {title} of this cluster")
    os.kill(found[0], signal.SIGKILL)


def _kill_store(system: System) -> None:
    os.kill(int((Path(system.given.config.root) / "store" / "valkey.pid").read_text()), signal.SIGKILL)


def _switch(target: str, seconds: float, *, sleep_s: float = 0.0, wait: bool = True) -> Callable[[System], None]:
    def inject(system: System) -> None:
        Switch(system.given.config.root).write(target, seconds, sleep_s=sleep_s)
        if wait:
            threading.Event().wait(seconds)

    return inject


def _scale(rankers: int) -> Callable[[System], None]:
    def inject(system: System) -> None:
        system.deploy(rankers=rankers)
        system.await_rankers(rankers)

    return inject


_APP = application_name(RELEASE)
FAULTS = (
    Fault("kill_recall", _kill_replica(_APP, "Recall"), 25),
    Fault("kill_ranker", _kill_replica(_APP, "Ranker"), 25),
    Fault("kill_reranker", _kill_replica(_APP, "Reranker"), 25),
    Fault("kill_gateway", _kill_replica(GATEWAY, "Gateway"), 25),
    Fault("kill_store", _kill_store),
    Fault("slow_ranker", _switch(RANKER, _LASTS_S, sleep_s=0.5), 25),
    # on for long enough to catch one batch, and gone before the replacement is up
    Fault("hang_ranker", _switch(RANKER, 1.0, sleep_s=_HANG_S, wait=False), 55),
    Fault("source_raises", _switch(SourceName.popular.value, _LASTS_S)),
    Fault("scale_out", _scale(2), 35),
    Fault("scale_in", _scale(1), 30),
    Fault("kill_proxy", lambda _: _kill("haproxy"), 35, breaks_http=True),
    Fault("deploy", lambda system: system.deploy(_OTHER_RELEASE), 55),
)
