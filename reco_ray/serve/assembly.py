"""One gateway replica put together: what reads, answers, protects and records, and the tasks that run behind the answers."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Protocol

from reco_ray.errors import NotReadyError
from reco_ray.events.contract import Limits, admit
from reco_ray.events.open import open_producer
from reco_ray.events.window import DedupWindow
from reco_ray.hashing import user_digest
from reco_ray.monitoring.request_log import RequestLog
from reco_ray.monitoring.tracing import Traces
from reco_ray.serve.args import GatewayArgs
from reco_ray.serve.caching.cache import SlateCache
from reco_ray.serve.caching.cache_key import SlateKey
from reco_ray.serve.caching.finished import precomputed_of
from reco_ray.serve.caching.purging import PurgeFollower
from reco_ray.serve.caching.refresh import Refresher
from reco_ray.serve.caching.withdrawn import Withdrawn
from reco_ray.serve.caching.writeback import Writeback
from reco_ray.serve.events.backpressure import LagMetrics, LagWatch
from reco_ray.serve.events.intake import EventIntake, EventMetrics
from reco_ray.serve.guard.admission import Admission
from reco_ray.serve.guard.gate import Gate, GateMetrics
from reco_ray.serve.guard.profiling import unprofiled
from reco_ray.serve.guard.pulse import Pulse
from reco_ray.serve.http.answers import Answer
from reco_ray.serve.http.asgi import HttpApp
from reco_ray.serve.http.cursors import SlateKeys
from reco_ray.serve.path.control_calls import ControlCalls
from reco_ray.serve.path.explanations import ExplanationCalls
from reco_ray.serve.path.exposures import ExposureMetrics, Exposures
from reco_ray.serve.path.flags import FlagFollower
from reco_ray.serve.path.fleet import Connected, Fleet
from reco_ray.serve.path.freshness import Freshness, FreshnessMetrics
from reco_ray.serve.path.item_calls import ItemCalls
from reco_ray.serve.path.items import ItemFollower, ItemMetrics
from reco_ray.serve.path.mirror import Mirror, MirrorMetrics
from reco_ray.serve.path.pipeline import LoggingObserver, Observer
from reco_ray.serve.path.profiles import ProfileCalls
from reco_ray.serve.path.reads import StoreReads
from reco_ray.serve.path.rule_calls import RuleCalls
from reco_ray.serve.path.service import GatewayService
from reco_ray.serve.path.stages import Left
from reco_ray.serve.path.watch import Replicas, ReplicaWatch
from reco_ray.serve.privacy.erasures import ErasureCalls
from reco_ray.serve.privacy.following import FenceFollower
from reco_ray.serve.served import Recorder, ServedMetrics
from reco_ray.store import (
    ErasureStore,
    FenceStore,
    FinishedSlate,
    FlagStore,
    ItemStore,
    OnlineStore,
    ProfileStore,
    RolloutStore,
    RuleStore,
    ShadowStore,
    SlateStore,
    fresh_until,
)

__all__ = ["CountsEvents", "GatewayParts", "Metrics"]

_FIRST_LOAD_TIMEOUT_S = 60.0
_TOLERATED_WAIT = 0.2  # share of the default deadline that a row may wait for its first stage before requests are shed
_PATIENT_TIMEOUT_S = 1.0
_TOLERATED_LAG = 0.5  # share of it that the event loop may be behind before requests are shed unread

Connect = Callable[[str], Awaitable[Connected]]


class Metrics(Observer, ServedMetrics, GateMetrics, ExposureMetrics, FreshnessMetrics, MirrorMetrics, Protocol):
    """All that a gateway counts; `monitoring.metrics.serving.GatewayMetrics` in production."""

    def left(self, stage: str, rows: int, queued_s: float) -> None:
        """A batch left for a stage."""

    def state(self, cache: dict[str, int], cache_bytes: int, limit: int) -> None:
        """What was counted elsewhere since the last call, and what stands now."""


class CountsEvents(EventMetrics, LagMetrics, Protocol):
    """All that is counted of events; `monitoring.metrics.serving.EventMetrics` in production."""


class GatewayParts:
    """The parts of one replica. Without the bus it answers as before and refuses events.

    Args:
        connect: makes, from what is to be told of leaving batches, the function that connects a release.
        count: asks Serve how many replicas run.
        replica: names this process.
        folder: where the request log and spans go.
    """

    def __init__(
        self,
        args: GatewayArgs,
        metrics: Metrics,
        connect: Callable[[Left], Connect],
        count: Callable[[], Replicas],
        replica: str,
        folder: Path,
        event_metrics: CountsEvents,
        item_metrics: ItemMetrics,
    ) -> None:
        self._metrics = metrics
        self._store = store = OnlineStore(args.store_url, args.namespace, timeout_s=args.store_timeout_ms / 1e3)
        cache_life_s = args.cache.ttl_s * (1 + args.cache.jitter) + args.cache.stale_s
        slates = SlateStore(store, life_s=cache_life_s, precomputed_s=args.precomputed_ttl_days * 86_400, served=args.served)
        self._remembers, self._keys = args.served.window_s > 0, SlateKeys()
        self._writeback, self._refresher = Writeback(slates.write), Refresher(args.cache.refresh_precomputed_s)
        withdrawn = Withdrawn()
        self._cache = SlateCache(args.cache, self._kept, withdrawn=withdrawn)
        follower = ItemFollower(ItemStore(store).since, withdrawn.follow, item_metrics)
        self._shares = args.cache.ttl_s > 0
        self._counted = asdict(self._cache.stats)
        self._admission = Admission(args.deadline_ms / 1e3 * _TOLERATED_WAIT, most=args.most_at_work)
        self._pulse = Pulse(self._admission.waited)
        self._fleet = Fleet(store.poll_traffic, connect(self._left))
        self._watch = ReplicaWatch(count, lambda: self._fleet.stages)
        self._purges = PurgeFollower(slates.purges_since, self._cache, self._refresher, self._tell)
        self._gate: Gate | None = None
        if args.auth == "keys":
            self._gate = Gate(store.keys.poll, rate=args.key_rate, burst=args.key_burst, metrics=metrics)
        self._log = RequestLog(folder / f"requests_{replica}.jsonl") if args.request_log else None
        traced = args.trace_share > 0 or args.trace_endpoint
        traces = Traces(args.trace_share, args.trace_endpoint, folder / f"spans_{replica}.jsonl", replica) if traced else None
        partitions = args.events.bus.partitions
        self._freshness = Freshness(
            lambda view: fresh_until(store, view, partitions), lambda: set(self._fleet.traffic.user_views.values()), metrics
        )
        self._fence = FenceFollower(FenceStore(store, f"gateway:{replica}").poll)
        # a pool of its own, with time: what applications write must not take the connections, nor miss the deadline, of
        # recommendations
        self._patient_store = patient = OnlineStore(args.store_url, args.namespace, timeout_s=_PATIENT_TIMEOUT_S)
        self._rules = RuleCalls(RuleStore(patient), RuleStore(store), args.root, lambda: self._fleet.main, withdrawn)
        observer = LoggingObserver(metrics)
        self._mirror = Mirror(self._fleet, patient.user, ShadowStore(patient).add, observer, metrics, args.deadline_ms / 1e3)
        self._flags = FlagFollower(FlagStore(store).poll)
        service = GatewayService(
            StoreReads(store, slates),
            self._fleet,
            self._cache,
            observer,
            self._admission,
            topology=args.topology,
            replica=replica,
            usual_s=args.deadline_ms / 1e3,
            hides=self._fence.hides,
            unprofiled=partial(unprofiled, args.unprofiled),
            late=self._freshness.late,
            withdrawn=withdrawn,
            items_known=lambda: follower.complete,
            rules=self._rules.state,
            standing=lambda: self._rules.standing,
            mirror=self._mirror.offer,
            flags=lambda: self._flags.flags,
        )
        profiles = ProfileStore(patient, SlateStore(patient))
        self._items = ItemCalls(ItemStore(patient), follower)
        self._bus = open_producer(args.events, args.namespace, args.store_url)
        self._lags = LagWatch(self._bus, args.events.max_lag, event_metrics)
        intake = EventIntake(
            partial(admit, limits=Limits(args.events.max_future_s)),
            self._bus,
            DedupWindow(patient, args.events.dedup_window_s),
            self._lags,
            event_metrics,
            partitions=partitions,
            fence=self._fence,
        )
        self._exposures: Exposures | None = None
        if args.exposures.enabled:
            self._exposures = Exposures(args.exposures, self._bus, partitions, metrics)
        tolerated_s = args.deadline_ms / 1e3 * _TOLERATED_LAG
        self.http = HttpApp(
            service,
            deadline_ms=args.deadline_ms,
            max_deadline_ms=args.max_deadline_ms,
            record=Recorder(metrics, self._log, traces),
            gate=self._gate,
            erasures=ErasureCalls(ErasureStore(store), self._fence),
            items=self._items,
            rules=self._rules,
            profiles=ProfileCalls(profiles, self._fence.hides, self._purges.purge_user),
            behind=lambda: self._pulse.behind_s() > tolerated_s,
            events=intake,
            control=ControlCalls(RolloutStore(patient), FlagStore(patient), args.root, self._look),
            explanations=ExplanationCalls(args.root, patient, self._fence.hides, lambda: self._rules.standing),
            expose=self._went_out,
        )
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Load what gets traffic, then follow the store: a replica that joins a running system is ready when it is warm."""
        if self._gate is not None:
            await self._gate.refresh()
        await self._fence.refresh()
        await self._items.refresh()
        await self._rules.refresh()
        await self._flags.refresh()
        await self._fleet.load_now(_FIRST_LOAD_TIMEOUT_S)
        runs = {
            "fence": self._fence.run(),
            "items": self._items.run(),
            "rules": self._rules.run(),
            "flags": self._flags.run(),
            "traffic": self._fleet.run(),
            "purges": self._purges.run(),
            "replicas": self._watch.run(),
            "writes": self._writeback.run(),
            "loop": self._pulse.run(),
            "lag": self._lags.run(),
            "freshness": self._freshness.run(),
            "mirror": self._mirror.run(),
        }
        if self._exposures is not None:
            runs["exposures"] = self._exposures.run()
        if self._gate is not None:
            runs["keys"] = self._gate.run()
        if self._log is not None:
            runs["request log"] = self._log.run()
        self._tasks = {name: asyncio.get_running_loop().create_task(run) for name, run in runs.items()}

    def check_health(self) -> None:
        """Raise when a background task has ended, or a stage in this process hangs."""
        self._fleet.check_health()
        if ended := [name for name, task in self._tasks.items() if task.done()]:
            raise NotReadyError(f"found the task for {', '.join(ended)} ended, expected it to run; replace the replica")

    async def stop(self) -> None:
        """End the tasks, write what waits to be written, and close the connections."""
        while running := [task for task in self._tasks.values() if not task.done()]:
            for task in running:
                task.cancel()
            await asyncio.wait(running, timeout=1.0)  # again: the store's client may take a cancellation for a late answer
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._writeback.flush()
        await self._mirror.flush()
        if self._exposures is not None:
            await self._exposures.stop()
        if self._log is not None:
            self._log.close()
        await self._bus.aclose()
        for store in (self._store, self._patient_store):
            await store.calls.aclose()
            store.blocking_calls.close()

    def _kept(self, key: SlateKey, slate: FinishedSlate) -> None:
        """An answer was made and is kept: share it with the other replicas."""
        if slate.stored:
            return
        if self._shares:
            self._writeback.slate(key.user, key.field, slate)
        if self._refresher.due(key, slate):
            self._writeback.precomputed(key.user, precomputed_of(slate))

    def _went_out(self, call: str, answer: Answer) -> None:
        """A decision was answered: note it, and remember what a user was served, once for each slate that was made."""
        if self._exposures is not None:
            self._exposures.note(call, answer)
        asked, made = answer.asked, answer.cache in ("made", "") and not answer.slate.stored
        if self._remembers and made and asked.user_id and call.startswith("recommend"):
            self._writeback.served(user_digest(asked.user_id), self._keys.of(answer.slate))

    async def _look(self) -> None:
        """Follow at once what was changed through this replica."""
        await self._flags.refresh()
        await self._fleet.refresh()

    def _left(self, stage: str, rows: int, queued_s: float) -> None:
        self._metrics.left(stage, rows, queued_s)
        if stage == "recall":
            self._admission.waited(queued_s)

    def _tell(self) -> None:
        now = asdict(self._cache.stats)
        since, self._counted = {name: n - self._counted[name] for name, n in now.items()}, now
        self._metrics.state(since, self._cache.bytes, self._admission.limit)
