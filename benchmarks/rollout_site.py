"""A site for rollouts: a cluster and a store that outlive every driver, a champion that answers, and traffic that goes on."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import rollout_releases as releases
import synthetic
from injuries import FaultyApi
from processes import processes
from rollout_bad import LOADER
from rollout_world import make_world

from reco_ray.cluster import embedded_store, serve_environment
from reco_ray.compose import compose_config
from reco_ray.config import PipelineConfig
from reco_ray.events.bus import EXPOSURES
from reco_ray.events.open import open_reader
from reco_ray.rollout import Policy, State
from reco_ray.serve.app import serve_client
from reco_ray.serve.deploy import deploy
from reco_ray.simulation import World
from reco_ray.store import OnlineStore, RolloutStore
from reco_ray.types import UserRow

__all__ = ["CHAMPION", "GOOD", "WORSE", "Driver", "Line", "Site", "say", "site", "until"]

HERE = Path(__file__).parent
CHAMPION, GOOD, WORSE = "champion", "good", "worse"
_DASHBOARD, _GCS_PORT = 8276, 6397
_PULSE_S, _RECENT_S = 5.0, 30.0
_SETTINGS = [
    *("store.port=6396", "store.namespace=bench", "serve.port=8011", f"cluster.dashboard_port={_DASHBOARD}"),
    *(f"serve.{stage}.{bound}_replicas=1" for stage in ("recall", "ranker", "reranker") for bound in ("min", "max")),
    # what is kept says nothing of a release; two cores that do all of it are late now and then
    *("serve.cache.ttl_s=0", "serve.cache.stale_s=0", "serve.deadline_ms=2000", "store.timeout_ms=500"),
    "gates.wanted=[integrity,smoke]",  # a synthetic release has no metrics
]


class Line(NamedTuple):
    """A visit as `rollout_traffic` writes it."""

    ts: float
    release: str
    variant: str
    rung: str
    status: int
    ms: float
    clicks: int
    expected: float


@dataclass(slots=True)
class Site:
    """What runs; `traffic` are the visits up to now."""

    config: PipelineConfig
    overrides: list[str]
    store: OnlineStore
    store_url: str
    url: str
    dashboard: str
    world: World
    true: dict[str, float]
    users: Sequence[tuple[str, UserRow]] = field(repr=False)
    visits: Path = Path()
    _lines: list[Line] = field(default_factory=list, repr=False)
    _read: int = 0

    @property
    def rollouts(self) -> RolloutStore:
        """The state of rollouts."""
        return RolloutStore(self.store)

    def state(self) -> State | None:
        """Of the last rollout."""
        found = self.rollouts.load()
        return None if found is None else State.from_json(found)

    def traffic(self, since: float = 0.0) -> list[Line]:
        """Visits answered since."""
        with self.visits.open("rb") as file:
            file.seek(self._read)
            raw = file.read()
        new = raw[: raw.rfind(b"\n") + 1]
        self._read += len(new)
        self._lines += [Line(*orjson.loads(line)) for line in new.splitlines()]
        return [each for each in self._lines if each.ts >= since]

    def pulse(self) -> str:
        """How the last seconds went, in words."""
        last = self.traffic(time.time() - _PULSE_S)
        full = sum(each.rung == "full" for each in last) / max(1, len(last))
        return f"{len(last) / _PULSE_S:.0f} visits/s, {full:.1%} full"

    def stages_ms(self, q: float) -> float:
        """A quantile of the time in the stages, over the decisions of the last seconds."""
        taken, since = [], int(1e3 * (time.time() - _RECENT_S)) << 22  # as positions in Valkey are
        for partition in range(self.config.events.bus.partitions):
            with contextlib.closing(
                open_reader(self.config.events, self.config.store.namespace, self.store_url, EXPOSURES, partition)
            ) as reader:
                found = [orjson.loads(record.value)["timings"] for record in reader.read(since, 5_000, 0.0)]
            taken += [sum(ms for stage, ms in each.items() if stage in ("recall", "rank", "rerank")) for each in found if each]
        return float(np.quantile(taken, q))

    def kill(self, title: str) -> int:
        """Kill a process of this cluster; returns its id."""
        found = processes(title, own=True)
        if len(found) != 1:
            raise LookupError(f"processes {title}: found {found}, expected one")
        os.kill(found[0], signal.SIGKILL)
        return found[0]


class Driver:
    """A process that starts a rollout, and stays until it is killed."""

    def __init__(self, at: Site, release: str, policy: Policy) -> None:
        command = [sys.executable, str(HERE / "rollout_driver.py"), "--policy", json.dumps(policy.to_json()), release]
        environment = {**os.environ, "RAY_ADDRESS": f"127.0.0.1:{_GCS_PORT}"}
        self._process = subprocess.Popen([*command, *at.overrides], stdout=subprocess.PIPE, text=True, env=environment)

    def said(self) -> dict[str, Any]:
        """Wait until the rollout has begun or was refused."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise RuntimeError(f"the driver ended with {self._process.wait()} and said nothing")

    def kill(self) -> None:
        """Kill it, as the kernel would."""
        self._process.kill()
        self._process.wait()


def say(what: str) -> None:
    """Print a line of what happens, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


def until(check: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for something.

    Raises: TimeoutError: it does not come.
    """
    pause, end = threading.Event(), time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s in vain for {what}")
        pause.wait(0.2)


@contextlib.contextmanager
def site(rate: float, seed: int, overrides: Sequence[str] = ()) -> Iterator[Site]:
    """Set it all up; everything is gone afterwards.

    Args:
        rate: visits per second. overrides: of the configuration.
    """
    world = make_world(seed)
    with (
        tempfile.TemporaryDirectory(prefix="reco-rollout-", ignore_cleanup_errors=True) as root,
        contextlib.ExitStack() as stack,
    ):
        settings = [f"root={root}", *_SETTINGS, *overrides]
        config = compose_config(settings)
        await_cluster = stack.enter_context(_cluster(config))
        store_url = stack.enter_context(embedded_store(config))
        store = stack.enter_context(OnlineStore(store_url, config.store.namespace))
        users = releases.write_users(store, world)
        true = _publish(root, world, users[:: len(users) // 150])
        say(f"releases are published; share of the visits with a click: {true}")
        dashboard = await_cluster()
        say("the cluster runs")
        api = FaultyApi(serve_client(dashboard), LOADER)
        url = deploy(config, CHAMPION, store_url, dashboard, user_view=synthetic.USER_VIEW, api=api).url
        say(f"release {CHAMPION} answers")
        visits = Path(root) / "visits.jsonl"
        visits.touch()
        stack.enter_context(_traffic(url, visits, rate, seed))
        found = Site(config, settings, store, store_url, url, dashboard, world, true, users, visits)
        until(lambda: sum(line.rung == "full" for line in found.traffic(time.time() - 3)) > rate, 120, "full answers")
        say(f"traffic is answered in full, stages take {found.stages_ms(0.5):.0f} ms, {found.stages_ms(0.95):.0f} ms at 95%")
        yield found


def _publish(root: str, world: World, users: Sequence[tuple[str, UserRow]]) -> dict[str, float]:
    """Publish the releases with stages of their own; returns the true click rate of each."""
    folder = releases.publish(root, CHAMPION, world, 0.2, 0)
    releases.publish(root, GOOD, world, 0.15, 1)
    releases.publish(root, WORSE, world, releases.worse_by(0.2, folder, world, users), 2)
    return {name: releases.true_ctr_of(root, name, world, users) for name in (CHAMPION, GOOD, WORSE)}


@contextlib.contextmanager
def _cluster(config: PipelineConfig) -> Iterator[Callable[[], str]]:
    """A head that no driver owns; yields what waits for it, and returns the dashboard's address."""
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={_GCS_PORT}"]
    command += [f"--num-cpus={config.cluster.num_cpus}", f"--object-store-memory={config.cluster.object_store_mb * 2**20}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={_DASHBOARD}", "--disable-usage-stats"]
    paths = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, **serve_environment(), "PYTHONPATH": os.pathsep.join(paths), "RAY_AUTH_MODE": "disabled"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    dashboard = f"http://127.0.0.1:{_DASHBOARD}"

    def answers() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"ray start ended with {process.returncode}; is the port {_GCS_PORT} or {_DASHBOARD} taken?")
        with contextlib.suppress(Exception):
            serve_client(dashboard).get_serve_details()
            return True
        return False

    def wait() -> str:
        until(answers, 120, "the cluster")
        return dashboard

    try:
        yield wait
    finally:
        process.terminate()
        process.wait(60)


@contextlib.contextmanager
def _traffic(url: str, out: Path, rate: float, seed: int) -> Iterator[None]:
    command = [
        sys.executable,
        str(HERE / "rollout_traffic.py"),
        url,
        "--out",
        str(out),
        "--rate",
        str(rate),
        "--seed",
        str(seed),
    ]
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)
