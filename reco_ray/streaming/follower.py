"""What follows a partition of the bus, as the actor that `actor` starts; of Ray it uses the metrics.

A thread for each topic stores its records, one for each user view keeps the online features, one adds to what bandits know.
"""

import contextlib
import gc
import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from reco_ray.config import FeaturesConfig, PipelineConfig
from reco_ray.errors import NotReadyError
from reco_ray.events.bus import EVENTS
from reco_ray.events.feed import Feed, Flow, open_flow
from reco_ray.events.open import open_reader
from reco_ray.events.sink import Batch
from reco_ray.features import Catalogue
from reco_ray.lake.compact import compact
from reco_ray.monitoring.metrics.streams import BanditMetrics, FeatureMetrics, SinkMetrics
from reco_ray.release import open_release
from reco_ray.store import OnlineStore, registered_views
from reco_ray.streaming.bandit import learn
from reco_ray.streaming.features import Applied, open_stream, reader_name

__all__ = ["FeatureState", "SinkActor", "SinkState"]

log = logging.getLogger(__name__)

_STOP_S = 15.0
_PAUSE_S = 1.0  # after an error
_LOOK_S = 1.0  # between looks at the lag
_COMPACT_S = 30.0


@dataclass(frozen=True, slots=True)
class SinkState:
    """One topic of one partition.

    Attributes:
        running: whether it read and committed, or waited, when it was last at work; else ``error`` says why not.
        read, rows, duplicates, fenced, undecodable: since the actor started; see `events.sink.Batch`.
        newest_us: latest event time in the lake. lag: records that wait; None where the bus did not say.
    """

    topic: str
    partition: int
    version: str
    running: bool = False
    error: str = ""
    read: int = 0
    rows: int = 0
    duplicates: int = 0
    fenced: int = 0
    undecodable: int = 0
    newest_us: int = 0
    lag: int | None = None


@dataclass(frozen=True, slots=True)
class FeatureState:
    """One user view of one partition.

    Attributes:
        running: whether it read and applied, or waited, when it was last at work; else ``error`` says why not.
        rebuilding: whether it waits until the view is filled from the lake.
        read, events, users: since the actor started; see `streaming.features.Applied`. lag_s: of its last batch.
    """

    view: str
    partition: int
    running: bool = False
    rebuilding: bool = False
    error: str = ""
    read: int = 0
    events: int = 0
    users: int = 0
    lag_s: float = 0.0


class SinkActor:
    """Sinks and feature streams of one partition.

    Killed and started again they go on behind what the lake, or the online store, holds.
    """

    def __init__(self, config: PipelineConfig, store_url: str, feeds: Sequence[Feed], partition: int, version: str) -> None:
        logging.basicConfig(level=logging.INFO)
        gc.freeze()  # tens of thousands of records live at once, without cycles: looking for some takes 3 us of 15 a record
        gc.set_threshold(100_000, 50, 50)
        self._config, self._store_url, self._partition = config, store_url, partition
        self._stop = threading.Event()
        self._states = {feed.topic: SinkState(feed.topic, partition, version) for feed in feeds}
        self._metrics = {feed.topic: SinkMetrics(feed.topic, partition) for feed in feeds}
        self._views: dict[str, FeatureState] = {}
        self._threads = [threading.Thread(target=self._follow_views, name="views", daemon=True)]
        self._threads += [threading.Thread(target=self._sink, args=(feed,), name=feed.topic, daemon=True) for feed in feeds]
        learner = (config, store_url, partition, self._stop, BanditMetrics(partition))
        self._threads.append(threading.Thread(target=learn, args=learner, name="bandit", daemon=True))
        if partition == 0:
            self._threads.append(threading.Thread(target=self._compact, args=(feeds,), name="compaction", daemon=True))
        for thread in self._threads:
            thread.start()

    def version(self) -> str:
        """Of the code and configuration it was started with."""
        return next(iter(self._states.values())).version

    def process(self) -> int:
        """Id of its process."""
        return os.getpid()

    def status(self) -> list[dict[str, Any]]:
        """State of each topic, as `SinkState` has it."""
        return [asdict(state) for state in self._states.values()]

    def features(self) -> list[dict[str, Any]]:
        """State of each view, as `FeatureState` has it."""
        return [asdict(state) for state in self._views.values()]

    def stop(self) -> None:
        """End after the batches at work; the actor can be killed then, as it can at any time."""
        self._stop.set()
        for thread in self._threads:
            thread.join(_STOP_S)

    def _sink(self, feed: Feed) -> None:
        while not self._stop.is_set():
            try:
                with open_flow(self._config, self._store_url, feed, self._partition, self._stop) as flow:
                    self._run(feed, flow)
            except Exception as exc:  # a bus, store or disk that is away comes back; meanwhile its status and metric tell
                log.warning("sink of %s %d: %s: %s", feed.topic, self._partition, type(exc).__name__, exc)
                self._metrics[feed.topic].failed(exc)
                self._change(feed.topic, running=False, error=f"{type(exc).__name__}: {exc}")
                self._stop.wait(_PAUSE_S)

    def _run(self, feed: Feed, flow: Flow) -> None:
        metrics, looked = self._metrics[feed.topic], 0.0
        self._change(feed.topic, running=True, error="", newest_us=flow.newest_us)
        while not self._stop.is_set():
            batch = flow.sink.run_once()
            self._count(feed.topic, batch)
            if (now := time.monotonic()) - looked >= _LOOK_S:
                looked = now
                self._change(feed.topic, lag=flow.lag())
            state = self._states[feed.topic]
            metrics.state(state.lag, batch.lag_age_s, max(0.0, time.time() - state.newest_us / 1e6))

    def _count(self, topic: str, batch: Batch) -> None:
        if not batch.read:
            return
        state = self._states[topic]
        names = ("read", "rows", "duplicates", "fenced", "undecodable")
        newest_us = max(state.newest_us, batch.newest_us)
        self._change(topic, newest_us=newest_us, **{name: getattr(state, name) + getattr(batch, name) for name in names})
        results = {
            "written": batch.rows,
            "duplicate": batch.duplicates,
            "fenced": batch.fenced,
            "undecodable": batch.undecodable,
        }
        self._metrics[topic].batch(results, batch.conflicts, 1e3 * batch.append_s)

    def _change(self, topic: str, **changes: Any) -> None:
        self._states[topic] = replace(self._states[topic], **changes)

    def _follow_views(self) -> None:
        """Keep one thread at work for each registered view."""
        at_work: dict[str, tuple[dict[str, Any], threading.Event, threading.Thread]] = {}
        with OnlineStore(self._store_url, self._config.store.namespace) as store:
            while not self._stop.wait(_LOOK_S):
                try:
                    wanted = registered_views(store)
                except NotReadyError as exc:
                    log.warning("views of %d: %s", self._partition, exc)
                    continue
                for view in [view for view, (of, _, _) in at_work.items() if wanted.get(view) != of]:
                    _, stop, thread = at_work.pop(view)
                    stop.set()
                    thread.join()
                    self._views.pop(view, None)
                    if view not in wanted:
                        self._forget(view)
                for view, of in wanted.items():
                    if view not in at_work:
                        stop = threading.Event()
                        thread = threading.Thread(target=self._keep, args=(view, of, stop), name=f"view {view}", daemon=True)
                        at_work[view] = of, stop, thread
                        thread.start()
            for _, stop, _ in at_work.values():
                stop.set()
            for _, _, thread in at_work.values():
                thread.join()

    def _forget(self, view: str) -> None:
        """Let the bus keep nothing for a view any more, whatever its stream said last."""
        config = self._config
        try:
            with contextlib.closing(
                open_reader(config.events, config.store.namespace, self._store_url, EVENTS, self._partition)
            ) as reader:
                reader.forget(reader_name(view))
        except NotReadyError as exc:
            log.warning("the bus goes on keeping records for view %s: %s", view, exc)

    def _keep(self, view: str, of: dict[str, Any], stop: threading.Event) -> None:
        metrics = FeatureMetrics(view, self._partition)
        self._views[view] = FeatureState(view, self._partition)
        while not stop.is_set():
            try:
                config = replace(self._config, features=FeaturesConfig(**of["features"]))  # its own, not the newest release's
                items = Catalogue.load(open_release(of["root"], of["release"])).facts()
                with open_stream(config, self._store_url, view, items, self._partition) as stream:
                    while not stop.is_set():
                        applied = stream.run_once()
                        self._applied(view, applied)
                        metrics.applied(applied.events, applied.users, applied.undecodable, applied.lag_s)
                        if applied.waiting:
                            stop.wait(_LOOK_S)
            except Exception as exc:
                log.warning("features of %s, %d: %s: %s", view, self._partition, type(exc).__name__, exc)
                metrics.failed(exc)
                self._views[view] = replace(self._views[view], running=False, error=f"{type(exc).__name__}: {exc}")
                stop.wait(_PAUSE_S)

    def _applied(self, view: str, applied: Applied) -> None:
        state = self._views[view]
        self._views[view] = replace(
            state,
            running=True,
            error="",
            rebuilding=applied.waiting,
            read=state.read + applied.read,
            events=state.events + applied.events,
            users=state.users + applied.users,
            lag_s=applied.lag_s if applied.read else state.lag_s,
        )

    def _compact(self, feeds: Sequence[Feed]) -> None:
        while not self._stop.wait(_COMPACT_S):
            for feed in feeds:
                try:
                    compact(self._config.root, feed.topic, self._config.events.compact_files)
                except Exception as exc:  # more files until the next time, and nothing worse
                    log.warning("compaction of %s: %s: %s", feed.topic, type(exc).__name__, exc)
