"""The Serve deployments: shells that load a pure class, hand batches to it, and talk to Ray.

Recall, Ranker and Reranker make up one release's application; Reranker is its root only because an application needs one,
and the gateway calls all three directly. Gateway is an application of its own and owns HTTP.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle

from reco_ray.errors import ArtifactError
from reco_ray.monitoring.metrics.serving import (
    EventMetrics,
    ExploreMetrics,
    GatewayMetrics,
    ItemMetrics,
    RecallMetrics,
    RuleMetrics,
)
from reco_ray.monitoring.serve_log import share_serve_log
from reco_ray.release import read_part
from reco_ray.rerank import POPULAR
from reco_ray.serve.args import GatewayArgs
from reco_ray.serve.assembly import Connect, GatewayParts
from reco_ray.serve.http.asgi import HttpApp
from reco_ray.serve.path import wire
from reco_ray.serve.path.bandit import keep_learning
from reco_ray.serve.path.flags import keep_flags
from reco_ray.serve.path.fleet import Connected
from reco_ray.serve.path.items import keep_items_live
from reco_ray.serve.path.live import keep_items_fresh
from reco_ray.serve.path.load import LoadWindow, Queue
from reco_ray.serve.path.loading import Loader, find_loader, warm_rank, warm_recall, warm_rerank
from reco_ray.serve.path.pipeline import Deadline, LoggingObserver, Run, Stages, run_stages
from reco_ray.serve.path.rules import keep_rules
from reco_ray.serve.path.stages import Blocks, InProcess, Left, Remote
from reco_ray.serve.path.waking import Waker
from reco_ray.serve.path.watch import STAGES, Replicas
from reco_ray.serve.render import application_name
from reco_ray.slate import Pipeline, PopularList, ranker_of
from reco_ray.types import Candidates, Request

__all__ = ["Gateway", "Ranker", "Recall", "Reranker"]

log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 60.0


class _Scaled:
    """What every stage has so that it can be scaled: a measure of its load, and a call that does nothing."""

    def __init__(self) -> None:
        self._load = LoadWindow()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Report the load; Serve asks each second."""
        return self._load.stats()

    async def wake(self) -> None:
        """Answer a knock: that there is a replica to answer it is all that matters."""


@serve.deployment(name="Recall")
class Recall(_Scaled):
    """Finds candidates for batches of packed requests.

    Args:
        store_url, namespace: of the online store, whose live items each stage follows; see `args.ReleaseArgs`.
    """

    def __init__(self, root: str, release_id: str, loader: str, store_url: str, namespace: str) -> None:
        self._stage = _load(root, release_id, loader).recall()
        self._live = keep_items_live([self._stage], store_url, namespace, ItemMetrics("recall", release_id))
        self._flags = keep_flags([self._stage], store_url, namespace)
        self._metrics = RecallMetrics(release_id)
        warm_recall(self._stage)
        self._stage.watch(self._metrics.searched)
        super().__init__()

    async def recall(self, requests: Blocks, queue: Queue | None = None) -> Blocks:
        """Return packed candidates per packed request."""
        with self._load.batch(len(requests), queue):
            found = self._stage.recall([wire.unpack_request(r) for r in requests])
            self._metrics.found(*_by_source(found, self._stage.names))
            return [wire.pack_candidates(each) for each in found]

    def check_health(self) -> None:
        """Raise when the stage cannot answer."""
        warm_recall(self._stage)


@serve.deployment(name="Ranker")
class Ranker(_Scaled):
    """Scores candidates.

    Args:
        store_url, namespace: as for `Recall`; the items' features are kept fresh from there too.
    """

    def __init__(self, root: str, release_id: str, loader: str, store_url: str, namespace: str) -> None:
        self._stage = _load(root, release_id, loader).rank()
        self._live = keep_items_live([self._stage], store_url, namespace, ItemMetrics("rank", release_id))
        warm_rank(self._stage)
        self._fresh = keep_items_fresh(self._stage, root, release_id, store_url, namespace)
        super().__init__()

    async def score(self, requests: Blocks, candidates: Blocks, queue: Queue | None = None) -> Blocks:
        """Return packed scores per packed request and its candidates."""
        with self._load.batch(len(requests), queue):
            asked, found = [wire.unpack_request(r) for r in requests], [wire.unpack_candidates(c) for c in candidates]
            scores = self._stage.score(asked, found)
            return [wire.pack_scores(s, ranker_of(self._stage, each)) for each, s in zip(asked, scores, strict=True)]

    def check_health(self) -> None:
        """Raise when the stage cannot answer."""
        warm_rank(self._stage)


@serve.deployment(name="Reranker")
class Reranker(_Scaled):
    """Arranges slates.

    Args:
        store_url, namespace: as for `Recall`.
        stages: the other deployments of the release, held so that they belong to its application.
    """

    def __init__(
        self, root: str, release_id: str, loader: str, store_url: str, namespace: str, stages: list[DeploymentHandle]
    ) -> None:
        self._stage = _load(root, release_id, loader).rerank()
        self._live = keep_items_live([self._stage], store_url, namespace, ItemMetrics("rerank", release_id))
        self._rules = keep_rules(self._stage, store_url, namespace, RuleMetrics(release_id))
        self._flags = keep_flags([self._stage], store_url, namespace)
        self._learns = keep_learning(self._stage, store_url, namespace, ExploreMetrics(release_id))
        warm_rerank(self._stage)
        self._fresh = keep_items_fresh(self._stage, root, release_id, store_url, namespace)
        super().__init__()

    async def arrange(self, requests: Blocks, candidates: Blocks, scores: Blocks, queue: Queue | None = None) -> Blocks:
        """Return a packed slate per packed request, its candidates and their scores."""
        with self._load.batch(len(requests), queue):
            slates = self._stage.arrange(
                [wire.unpack_request(r) for r in requests],
                [wire.unpack_candidates(c) for c in candidates],
                [wire.unpack_scores(s) for s in scores],
            )
            return [wire.pack_slate(slate) for slate in slates]

    def check_health(self) -> None:
        """Raise when the stage cannot answer."""
        warm_rerank(self._stage)


@serve.deployment(name="Gateway")
@serve.ingress()
class Gateway:
    """Owns HTTP, users and traffic: the shell around `service.GatewayService`."""

    async def __init__(self, args: GatewayArgs) -> None:  # type: ignore[misc]
        folder = share_serve_log()
        connect = _connect_fused if args.topology == "fused" else _connect_staged
        replica = serve.get_replica_context().replica_id.unique_id
        self._parts = GatewayParts(
            args,
            GatewayMetrics(),
            lambda left: connect(args, left),
            _count_replicas,
            replica,
            folder,
            EventMetrics(),
            ItemMetrics("gateway"),
        )
        if args.auth == "off":
            log.warning("API keys are off: whoever reaches the HTTP port may call; keep it on the loopback interface")
        await self._parts.start()

    async def __del__(self) -> None:
        """End in order; Serve awaits this once the last request has left."""
        if (parts := getattr(self, "_parts", None)) is not None:
            await parts.stop()

    def __serve_build_asgi_app__(self) -> HttpApp:
        return self._parts.http

    def check_health(self) -> None:
        """Raise when this replica must be replaced."""
        self._parts.check_health()


def _load(root: str, release_id: str, loader: str) -> Loader:
    share_serve_log()
    started = time.monotonic()
    found = find_loader(loader)(root, release_id)
    log.info("opened release %s in %.1f s", release_id, time.monotonic() - started)
    return found


def _count_replicas() -> Replicas:
    # not serve.status(): validating its answer holds this process up for 60 ms with two releases; asking alone takes 1 ms
    apps = _get_global_client().get_serve_details()["applications"]
    return {
        name: {stage: sum(r["state"] == "RUNNING" for r in found["replicas"]) for stage, found in app["deployments"].items()}
        for name, app in apps.items()
    }


def _connect_staged(args: GatewayArgs, left: Left) -> Connect:
    sender = serve.get_replica_context().replica_id.unique_id

    async def connect(release_id: str) -> Connected:
        app = application_name(release_id)
        # getting a handle asks the controller and blocks, so in a thread; using it needs this loop
        found = [await asyncio.to_thread(serve.get_deployment_handle, name, app) for name in STAGES]
        # lists of bytes over gRPC: plain pickle, which writes them faster than the default, cloudpickle
        handles = [
            handle.options(_by_reference=False, request_serialization="pickle", response_serialization="pickle")
            for handle in found
        ]
        waker = Waker({name: handle.wake.remote for name, handle in zip(STAGES, handles, strict=True)})
        methods = (handles[0].recall, handles[1].score, handles[2].arrange)
        calls = [_caller(method, name, sender, waker) for method, name in zip(methods, STAGES, strict=True)]
        stages = Remote(*calls, rows=args.batch_rows, left=left)
        waker.wake()  # all at once: a release at zero would start one stage after the other
        await asyncio.wait_for(_warm(stages), _CONNECT_TIMEOUT_S)
        return stages, await asyncio.to_thread(_popular, args.root, release_id)

    return connect


def _connect_fused(args: GatewayArgs, left: Left) -> Connect:
    def load(release_id: str) -> InProcess:
        loader = _load(args.root, release_id, args.loader)
        pipeline = Pipeline(loader.recall(), loader.rank(), loader.rerank())
        stages = [pipeline.recall, pipeline.rank, pipeline.rerank]
        live = keep_items_live(stages, args.store_url, args.namespace, ItemMetrics("all", release_id))
        rules = keep_rules(pipeline.rerank, args.store_url, args.namespace, RuleMetrics(release_id))
        flags = keep_flags(stages, args.store_url, args.namespace)
        learns = keep_learning(pipeline.rerank, args.store_url, args.namespace, ExploreMetrics(release_id))
        warm_recall(pipeline.recall)
        pipeline.recall.watch(RecallMetrics(release_id).searched)
        warm_rank(pipeline.rank)
        warm_rerank(pipeline.rerank)
        kept = (args.root, release_id, args.store_url, args.namespace)
        stops = [live, rules, flags, learns, *(keep_items_fresh(stage, *kept) for stage in (pipeline.rank, pipeline.rerank))]

        def closed() -> None:
            for each in stops:
                each.set()

        return InProcess(pipeline, rows=args.batch_rows, left=left, closed=closed)

    async def connect(release_id: str) -> Connected:
        stages = await asyncio.to_thread(load, release_id)
        await _warm(stages)
        return stages, await asyncio.to_thread(_popular, args.root, release_id)

    return connect


def _by_source(found: Sequence[Candidates], sources: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
    """Count a batch's candidates per source, and its requests that lack one."""
    counts = sum(((each.source_ranks >= 0).sum(axis=0) for each in found), np.zeros(len(sources), np.int64))
    lacking = Counter(name for each in found for name in each.missing)
    return dict(zip(sources, counts.tolist(), strict=True)), dict(lacking)


def _popular(root: str, release_id: str) -> PopularList | None:
    """Read the release's popular list; one that was published without has a rung less."""
    try:
        return PopularList(read_part(root, release_id, POPULAR), release_id)
    except (ArtifactError, OSError, ValueError) as exc:
        log.warning("release %s has no popular list to fall back on: %s", release_id, exc)
        return None


def _caller(method: Any, stage: str, sender: str, waker: Waker) -> Callable[..., Awaitable[Blocks]]:
    """Make a handle's method a coroutine function that cancels the remote call when it is cancelled itself."""

    async def call(*sent: Any) -> Blocks:
        *blocks, queued, waited_ms = sent
        waker.calling(stage)
        response = method.remote(*blocks, (sender, queued, waited_ms))
        try:
            answer: Blocks = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        waker.answered(stage)
        return answer

    return call


async def _warm(stages: Stages[Any, Any, Any]) -> None:
    """Send one request all the way: opens the connections to every stage."""
    run = Run("warm-up", Deadline(_CONNECT_TIMEOUT_S), LoggingObserver())
    await run_stages(stages, Request(request_id="warm-up", k=1), run)
