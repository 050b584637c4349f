"""Deploying a release: render Serve's whole state, let it come up beside what runs, then move the traffic.

Nothing that answers is taken away before the new release does. Every step compares first, so that deploying what is deployed
changes nothing, and a deployment that was interrupted is finished by starting it again.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import httpx

from reco_ray.config import PipelineConfig, Topology
from reco_ray.errors import ConfigError, NotReadyError
from reco_ray.ports import require_free
from reco_ray.release import open_release, verify
from reco_ray.serve.render import GATEWAY, application_name, render
from reco_ray.store import OnlineStore, Traffic

__all__ = ["DeployReport", "ServeApi", "deploy"]

log = logging.getLogger(__name__)

_COMPARED = ("name", "route_prefix", "import_path", "args", "deployments")
T = TypeVar("T")


class ServeApi(Protocol):
    """The part of Serve's REST client that is used here; `app.serve_client` makes the real one."""

    def get_serve_details(self) -> dict[str, Any]:
        """Return the state of Serve."""

    def deploy_applications(self, config: dict[str, Any]) -> None:
        """Replace the whole state of Serve."""


@dataclass(frozen=True, slots=True)
class DeployReport:
    """What a deployment did.

    Attributes:
        kept: releases that stay loaded beside it with no traffic, for a quick way back.
        removed: applications taken away.
        changed: False when all was in place already.
    """

    release: str
    url: str
    kept: tuple[str, ...]
    removed: tuple[str, ...]
    traffic_version: int
    changed: bool
    seconds: float


def deploy(
    config: PipelineConfig,
    release_id: str,
    store_url: str,
    dashboard: str,
    *,
    user_view: str = "",
    beside: bool = False,
    api: ServeApi | None = None,
    ready: Callable[[str], Mapping[str, Any]] | None = None,
) -> DeployReport:
    """Run a release behind the gateway and send all traffic to it.

    Args:
        beside: it gets no traffic, and what has it keeps it: for a rollout.
        user_view: version of the user view that the release was trained on; read from its manifest when empty.
        api, ready: Serve's REST client, and what asks ``/readyz`` at a URL; given by tests.
    Raises:
        NotReadyError: a port is taken, or something does not come up in time: with Serve's own message; traffic stays.
        ArtifactError: there is no such release, or it is damaged.
        ConfigError: Serve already runs with another host or port, which it cannot change.
    """
    started = time.monotonic()
    user_view = user_view or verify(open_release(config.root, release_id)).user_view
    api, ready = api or _client(dashboard), ready or _readyz
    deadline = started + config.serve.ready_timeout_s
    details = api.get_serve_details()
    _check_http(details, config, dashboard)
    with OnlineStore(store_url, config.store.namespace) as store:
        before = store.traffic()
        keep = _to_keep(release_id, before, details, config)
        if beside:
            _check_room(release_id, before, keep)
        wanted = render(config, keep, store_url)
        staying = [app for app in _deployed(details) if app["name"] not in {each["name"] for each in wanted["applications"]}]
        removed = tuple(sorted(app["name"] for app in staying))
        changed = _put(api, details, {**wanted, "applications": [*wanted["applications"], *staying]})
        names = [app["name"] for app in wanted["applications"]]
        try:
            details = _await_running(api, names, deadline)
        except NotReadyError:
            _withdraw(api, details, application_name(release_id))
            raise
        weights = {r: w for r, w in before.weights.items() if w > 0} if beside else {release_id: 1.0}
        traffic, moved = _move_traffic(store, before, weights, keep, user_view)
        url = _url(config, details)
        _await_gateways(ready, url, release_id, details, deadline)
        changed = _put(api, details, wanted) or changed or moved
    log.info("release %s answers at %s", release_id, url)
    seconds = time.monotonic() - started
    return DeployReport(release_id, url, tuple(keep[1:]), removed, traffic.version, changed, seconds)


def _client(dashboard: str) -> ServeApi:
    from reco_ray.serve.app import serve_client  # imports Ray

    client: ServeApi = serve_client(dashboard)
    return client


def _check_http(details: Mapping[str, Any], config: PipelineConfig, dashboard: str) -> None:
    """Serve keeps the address it started with, and says so in its log only; before it starts, its ports here must be free."""
    if httpx.URL(dashboard).host in ("127.0.0.1", "localhost") and not details.get("proxies"):
        require_free(config.serve.host, config.serve.port, "give another by serve.port")
        for name, port in (("RAY_SERVE_HAPROXY_METRICS_PORT", 9101), ("RAY_SERVE_HAPROXY_STATS_PORT", 8404)):
            require_free("", int(os.environ.get(name, port)), f"give another by {name}")
    running = details.get("http_options") or {}
    found = (running.get("host"), running.get("port"))
    expected = (config.serve.host, config.serve.port)
    if details.get("applications") and found != expected:
        raise ConfigError(
            f"serve.host, serve.port: Serve runs on {found}, expected {expected}; "
            "give those it runs on, or shut it down first with `serve shutdown`"
        )


def _to_keep(release_id: str, before: Traffic, details: Mapping[str, Any], config: PipelineConfig) -> list[str]:
    """The new release, and the newest before it that run: those with traffic first, then those kept warm."""
    others = sorted((r for r in before.weights if r != release_id), key=lambda r: (-before.weights[r], r))
    if config.serve.topology is Topology.staged:  # a record may be older than this Serve, and name what is not there
        others = [r for r in others if _status(details, application_name(r)) != "absent"]
    return [release_id, *others[: max(0, config.serve.keep_releases - 1)]]


def _check_room(release_id: str, before: Traffic, keep: Sequence[str]) -> None:
    """Refuse to bring a release up beside another one where there is none, or it would have to leave."""
    live = {release for release, weight in before.weights.items() if weight > 0}
    if not live or release_id in live or not live <= set(keep):
        raise ConfigError(
            f"release {release_id}: found {sorted(live)} with traffic and {list(keep)} to be kept, expected another release "
            "with all the traffic to stay; deploy one first with jobs/deploy_release.py, and give serve.keep_releases=2 or more"
        )


def _deployed(details: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Configs of the applications that run, as they were put."""
    found = [app.get("deployed_app_config") for app in details.get("applications", {}).values()]
    return [dict(each) for each in found if each]


def _put(api: ServeApi, details: Mapping[str, Any], wanted: dict[str, Any]) -> bool:
    """Put the state unless it is there already; returns whether it was put."""

    def key(apps: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        return {app["name"]: {name: app.get(name) for name in _COMPARED} for app in apps}

    failed = any(app["status"] == "DEPLOY_FAILED" for app in details.get("applications", {}).values())
    if not failed and key(_deployed(details)) == key(wanted["applications"]):
        return False
    api.deploy_applications(wanted)
    return True


def _await_running(api: ServeApi, names: Sequence[str], deadline: float) -> dict[str, Any]:
    """Wait until all applications run; returns Serve's details.

    Raises: NotReadyError: one failed, or the deadline passed; with what Serve says of it.
    """
    details: dict[str, Any] = {}

    def all_run() -> bool | None:
        nonlocal details
        details = api.get_serve_details()
        for name in names:
            if _status(details, name) == "DEPLOY_FAILED":
                raise NotReadyError(f"application {name}: found DEPLOY_FAILED, expected RUNNING; {_said(details, name)}")
        return True if all(_status(details, name) == "RUNNING" for name in names) else None

    try:
        _until(deadline, all_run, f"applications {', '.join(names)} to run")
    except TimeoutError as exc:
        late = [name for name in names if _status(details, name) != "RUNNING"]
        found = "; ".join(f"{name} is {_status(details, name)}, {_said(details, name)}" for name in late)
        raise NotReadyError(f"{exc}: found {found}; free resources, or give more time with serve.ready_timeout_s") from exc
    return details


def _status(details: Mapping[str, Any], name: str) -> str:
    return str(details.get("applications", {}).get(name, {}).get("status", "absent"))


def _said(details: Mapping[str, Any], name: str) -> str:
    app = details.get("applications", {}).get(name, {})
    said = [app.get("message", ""), *(each.get("message", "") for each in app.get("deployments", {}).values())]
    return f"Serve says: {' '.join(' '.join(said).split())[-2000:] or 'nothing'}"


def _withdraw(api: ServeApi, before: Mapping[str, Any], name: str) -> None:
    """Take a release that did not come up away again, unless it ran before; the rest stays as it is."""
    now = api.get_serve_details()
    if name not in now.get("applications", {}) or before.get("applications", {}).get(name, {}).get("status") == "RUNNING":
        return
    rest = [app for app in _deployed(now) if app["name"] != name]
    api.deploy_applications({"proxy_location": "EveryNode", "http_options": now["http_options"], "applications": rest})
    log.warning("application %s was withdrawn; traffic stays where it was", name)


def _move_traffic(
    store: OnlineStore, before: Traffic, live: Mapping[str, float], keep: Sequence[str], user_view: str
) -> tuple[Traffic, bool]:
    """Set the shares; others that are kept stay in the record with none, so that gateways hold them ready."""
    views = {release: before.user_views[release] for release in keep[1:]} | {keep[0]: user_view}
    weights = {release: live.get(release, 0.0) for release in views}
    if (dict(before.weights), dict(before.user_views)) == (weights, views):
        return before, False
    return store.set_traffic(weights, views), True


def _url(config: PipelineConfig, details: Mapping[str, Any]) -> str:
    host = config.serve.host
    if host in ("0.0.0.0", "::", ""):
        proxies = list(details.get("proxies", {}).values())
        host = proxies[0]["node_ip"] if proxies else "127.0.0.1"
    return f"http://{host}:{config.serve.port}"


def _await_gateways(
    ready: Callable[[str], Mapping[str, Any]], url: str, release_id: str, details: Mapping[str, Any], deadline: float
) -> None:
    """Wait until every gateway replica that runs has said that the release is loaded."""
    replicas = details["applications"][GATEWAY].get("deployments", {}).get("Gateway", {}).get("replicas", [])
    expected = max(1, sum(replica.get("state") == "RUNNING" for replica in replicas))
    seen: set[str] = set()
    last: Mapping[str, Any] = {}

    def all_loaded() -> bool | None:
        nonlocal last
        last = found = ready(url)
        if release_id in found.get("releases", ()) and found.get("ready"):
            seen.add(found.get("replica", ""))
        return True if len(seen) >= expected else None

    try:
        _until(deadline, all_loaded, f"{expected} gateway replica(s) at {url}/readyz to load release {release_id}")
    except TimeoutError as exc:
        raise NotReadyError(
            f"{exc}: found {sorted(seen)} and last {dict(last)}; see the log of the gateway's replicas"
        ) from exc


def _readyz(url: str) -> Mapping[str, Any]:
    """Ask ``/readyz`` over a connection of its own, so that each question may reach another replica."""
    try:
        found: Mapping[str, Any] = httpx.get(f"{url}/readyz", timeout=5.0).json()
    except (httpx.HTTPError, ValueError):
        return {}
    return found


def _until(deadline: float, check: Callable[[], T | None], what: str) -> T:
    """Ask again until ``check`` gives something.

    Raises: TimeoutError: the deadline passed.
    """
    pause = threading.Event()
    while True:
        if (found := check()) is not None:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited in vain for {what}")
        pause.wait(0.2)
