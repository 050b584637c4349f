"""A deployment for `explore_http` that outlives many releases: a cluster, a store, the gateway, sinks and streams.

Each run of a shop has ids of its own in them, so that nothing that one leaves behind is met by another.
"""

import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import httpx
from explore_shop import K, Shop, publish, renamed

from reco_ray.cluster import embedded_store, ray_session
from reco_ray.compose import compose_config
from reco_ray.config import ExploreConfig, PipelineConfig
from reco_ray.events.importing import append_batches
from reco_ray.release import verify
from reco_ray.serve.deploy import deploy
from reco_ray.simulation import HttpApi, Shown, World, WorldItem
from reco_ray.store import FenceStore, ItemStore, OnlineStore, registered_views
from reco_ray.streaming.flow import forget_view
from reco_ray.workflow.deploy import materialize_features
from reco_ray.workflow.sinks import feature_status, start_sinks

__all__ = ["NamedApi", "Site", "seconds_to_follow", "site"]

_SETTINGS = [
    *("store.namespace=bench", "serve.port=8013", "cluster.dashboard_port=8278"),
    *(f"serve.{stage}.{bound}_replicas=1" for stage in ("gateway", "recall", "ranker", "reranker") for bound in ("min", "max")),
    *("serve.keep_releases=1", "events.bus.partitions=1", "events.sink_cpus=0.1", "lake.date_unit=month"),
    # a slate that is kept learns nothing; two cores that do all of it are late now and then
    *("serve.cache.ttl_s=0", "serve.cache.stale_s=0", "serve.deadline_ms=3000", "store.timeout_ms=1000"),
]
_READY_S, _REST_S = 120.0, 7.0


@dataclass(frozen=True, slots=True)
class Site:
    """What runs."""

    config: PipelineConfig
    store: OnlineStore
    store_url: str
    dashboard: str

    def open_shop(self, name: str, world: World, shop: Shop, explore: ExploreConfig) -> str:
        """Publish and deploy a shop's release under ids that begin with ``name``; returns where it answers in full.

        What happened before is in the lake then, and online, and the streams follow what happens from now on.
        """
        release, prefix = f"shop-{name}", f"{name}-"
        goods = ItemStore(self.store)
        goods.forget(goods.all())  # those of the shop before this one, which would be new goods here
        folder = publish(self.config.root, release, shop, explore, prefix)
        past = renamed(shop.past, prefix)
        append_batches(self.config.root, [past], f"import:{name}", self.config.lake.date_unit, FenceStore(self.store).read)
        manifest = verify(folder)
        materialize_features(self.config, self.store_url, manifest, again=True)
        start_sinks(self.config, self.store_url)
        url = deploy(self.config, release, self.store_url, self.dashboard).url
        for view in set(registered_views(self.store)) - {manifest.user_view}:
            forget_view(self.config, view, self.store_url)
        ask = {"user_id": prefix + world.user_ids[0], "k": K}
        with httpx.Client(base_url=url, timeout=30) as http:

            def full() -> bool:
                found = http.post("/v1/recommendations", json=ask).json()
                return (found.get("release"), found.get("rung"), len(found.get("items", ()))) == (release, "full", K)

            _until(lambda: all(full() for _ in range(10)) and self._follows(), f"{release} to answer in full")
        return url

    def _follows(self) -> bool:
        states = feature_status(self.config)
        return bool(states) and all(state.running and not state.rebuilding for state in states)


def seconds_to_follow(url: str, name: str, world: World) -> tuple[float, float, float]:
    """Let a hundred users click the newest item of a shop that is at rest, and wait until its score has moved.

    Returns: seconds from the events' acceptance until an answer had another score, and the scores before and after.
    """
    newest = world.items[int(world.item_born_s.argmax())].item_id
    others = [item.item_id for item in world.items[:9]]
    body = {"user_id": f"{name}-{world.user_ids[0]}", "items": [{"item_id": f"{name}-{each}"} for each in (newest, *others)]}
    events = [
        {"event_id": f"{name}-{kind}-{user}", "type": kind, "user_id": f"{name}-{user}", "item_id": f"{name}-{newest}"}
        for user in world.user_ids[1:101]
        for kind in ("impression", "click")
    ]
    with httpx.Client(base_url=url, timeout=30) as http:

        def score() -> float:
            found = http.post("/v1/rank", json=body).raise_for_status().json()["items"]
            return float(next(each["score"] for each in found if each["item_id"].endswith(f"-{newest}")))

        before, since = score(), time.monotonic()
        while time.monotonic() - since < _REST_S:
            if (now := score()) != before:
                before, since = now, time.monotonic()
        sent = {"events": [{**event, "ts": time.time_ns() // 1000} for event in events]}
        http.post("/v1/events", json=sent).raise_for_status()
        accepted = time.monotonic()
        after = before
        while after == before and time.monotonic() < accepted + _READY_S:
            after = score()
    return time.monotonic() - accepted, before, after


class NamedApi:
    """`HttpApi` of a shop whose ids of users and items begin with ``prefix``, which a world does not know.

    Attributes:
        foreign: slates with an item of another shop.
    """

    def __init__(self, api: HttpApi, prefix: str) -> None:
        self._api, self._prefix, self.foreign = api, prefix, 0

    async def recommend(self, user_id: str, k: int, context: Mapping[str, str]) -> Shown:
        """Contract of `simulation.Api`."""
        shown = await self._api.recommend(self._prefix + user_id, k, context)
        self.foreign += not all(item_id.startswith(self._prefix) for item_id in shown.item_ids)
        return replace(shown, item_ids=tuple(item_id.removeprefix(self._prefix) for item_id in shown.item_ids))

    async def send(self, events: Sequence[Mapping[str, object]]) -> int:
        """Contract of `simulation.Api`."""
        own = [{**e, "user_id": f"{self._prefix}{e['user_id']}", "item_id": f"{self._prefix}{e['item_id']}"} for e in events]
        return await self._api.send(own)

    async def put_item(self, item: WorldItem) -> None:
        """Contract of `simulation.Api`."""
        await self._api.put_item(replace(item, item_id=self._prefix + item.item_id))


@contextlib.contextmanager
def site() -> Iterator[Site]:
    """Set it all up, without a release yet; everything is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="reco-explore-", ignore_cleanup_errors=True) as root:
        with socket.socket() as probe:  # a run that was cut may have left its store on any fixed port
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        config = compose_config([f"root={root}", f"store.port={port}", *_SETTINGS])
        with (
            embedded_store(config) as store_url,
            OnlineStore(store_url, config.store.namespace) as store,
            ray_session(config.cluster) as dashboard,
        ):
            yield Site(config, store, store_url, dashboard)


def _until(check: Callable[[], bool], what: str) -> None:
    pause, end = threading.Event(), time.monotonic() + _READY_S
    while True:
        with contextlib.suppress(httpx.HTTPError, ValueError):
            if check():
                return
        if time.monotonic() > end:
            raise TimeoutError(f"waited {_READY_S:.0f} s in vain for {what}")
        pause.wait(0.3)
