"""Retraining: where there is a reason, train, pass the gates, and start a rollout; one at a time in the whole cluster."""

import contextlib
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from types import FrameType

import polars as pl

from reco_ray.cluster import attaches
from reco_ray.config import PipelineConfig
from reco_ray.errors import DataError, NotReadyError, RecoError
from reco_ray.lake import storage, tables
from reco_ray.release import release_ids
from reco_ray.release.shelf import read_manifest
from reco_ray.rollout import DEFAULT_POLICY, State, commands
from reco_ray.store import OnlineStore, RolloutStore
from reco_ray.store.leases import leased
from reco_ray.workflow.deploy import bring_up_beside, deploy_release, run_steps
from reco_ray.workflow.drift import report_drift
from reco_ray.workflow.gates import pass_gates, who
from reco_ray.workflow.releases import point_aliases, read_roles

__all__ = ["RetrainFacts", "RetrainReport", "reasons", "retrain", "within"]

log = logging.getLogger(__name__)

_LEASE = "retrain"


@dataclass(frozen=True, slots=True)
class RetrainFacts:
    """What the reasons are read from.

    Attributes:
        newest: release published last; empty where there is none. age_h: since then.
        new_events: that came in since then.
        drifting: names of views with a column that drifts, of that release.
    """

    newest: str = ""
    age_h: float = 0.0
    new_events: int = 0
    drifting: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RetrainReport:
    """What came of it. ``outcome``: nothing_to_do, deployed, rollout, gated (no cluster that stays) or failed."""

    reasons: tuple[str, ...]
    outcome: str
    release: str = ""
    rollout_id: str = ""
    error: str = ""
    seconds: float = 0.0


def reasons(facts: RetrainFacts, config: PipelineConfig) -> list[str]:
    """Why to retrain; empty where there is no reason."""
    wanted = config.retrain
    if not facts.newest:
        return ["no release was published yet"]
    found = ["force=true"] if config.force else []
    if wanted.max_age_h and facts.age_h >= wanted.max_age_h:
        found.append(f"release {facts.newest} is {facts.age_h:.1f} h old, allowed {wanted.max_age_h:g}")
    if wanted.new_events and facts.new_events >= wanted.new_events:
        found.append(f"{facts.new_events} events came in since release {facts.newest}, allowed {wanted.new_events}")
    if wanted.on_drift and facts.drifting:
        found.append(f"features drift: {', '.join(facts.drifting)} view of release {facts.newest}")
    return found


def retrain(config: PipelineConfig, store_url: str, dashboard: str) -> RetrainReport:
    """Look for reasons, train, and give the release its first share; writes ``reports/retrain``, whatever comes of it.

    Raises:
        NotReadyError: another one is at work, a rollout runs, or ``retrain.max_wall_s`` has passed.
        DataError: there is a reason, and the lake holds nothing new to train on.
        ArtifactError: a gate did not pass.
    """
    started = time.monotonic()
    owner = f"{who()} on {socket.gethostname()}, process {os.getpid()}"
    with OnlineStore(store_url, config.store.namespace) as store, leased(store, _LEASE, owner) as lease:
        why: list[str] = []
        try:
            with within(config.retrain.max_wall_s):
                _no_rollout(store)
                why = reasons(_facts(config, store), config)
                log.info("retrain: %s", "; ".join(why) or "no reason to")
                if not why:
                    report = RetrainReport((), "nothing_to_do")
                else:
                    release = _train(config)
                    lease.renew()
                    report = _release(replace(config, release=release), store, store_url, dashboard, tuple(why))
        except RecoError as exc:
            _write(config, RetrainReport(tuple(why), "failed", error=str(exc), seconds=time.monotonic() - started))
            raise
    report = replace(report, seconds=round(time.monotonic() - started, 1))
    _write(config, report)
    return report


@contextlib.contextmanager
def within(seconds: float, again_s: float = 10.0) -> Iterator[None]:
    """Interrupt the block when its time is over, by SIGALRM; in another thread than the main one, or for 0, never.

    Args:
        again_s: how often it is repeated, as what it interrupts may take it for an error of its own, and go on.
    Raises: NotReadyError: it is.
    """
    if not seconds or threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(_number: int, _frame: FrameType | None) -> None:
        raise NotReadyError(
            f"retrain: found it unfinished after {seconds:g} s, expected an end; raise retrain.max_wall_s: finished steps stay"
        )

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds, again_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _no_rollout(store: OnlineStore) -> None:
    found = RolloutStore(store).load()
    if found is not None and not (state := State.from_json(found)).status.over:
        raise NotReadyError(
            f"retrain: found rollout {state.rollout_id} of {state.release} {state.status}, expected none; wait for its end, "
            "or `reco rollouts abort`"
        )


def _facts(config: PipelineConfig, store: OnlineStore) -> RetrainFacts:
    published = release_ids(config.root)
    if not published:
        return RetrainFacts()
    newest = published[-1]
    made = datetime.fromisoformat(str(read_manifest(config.root, newest).facts["made_ts"]))
    new_events = 0
    if config.retrain.new_events and tables.exists(config.root, "events"):
        new_events = tables.read(config.root, "events", ["event_id"], pl.col("received_ts") > made).height
    drifting: tuple[str, ...] = ()
    if config.retrain.on_drift:
        try:
            report = report_drift(config, store)
            drifting = tuple(each.view for each in report.drifting if each.release == newest)
        except DataError as exc:
            log.info("retrain: nothing is known of drift: %s", exc)
    return RetrainFacts(newest, (datetime.now(UTC) - made).total_seconds() / 3600, new_events, drifting)


def _train(config: PipelineConfig) -> str:
    before = set(release_ids(config.root))
    release = str(run_steps(replace(config, only=""))["publish_release"].facts["release"])
    if release in before:
        raise DataError(
            f"retrain: found nothing in the lake that release {release} was not made of, expected new events; "
            "run jobs/run_sinks.py or jobs/import_dataset.py, then this again"
        )
    return release


def _release(config: PipelineConfig, store: OnlineStore, store_url: str, dashboard: str, why: tuple[str, ...]) -> RetrainReport:
    if not attaches(config.cluster):  # what it would be loaded on ends with this job
        pass_gates(config, store, config.release)
        return RetrainReport(why, "gated", config.release)
    if not read_roles(config, store).champion:
        deploy_release(config, store_url, dashboard)
        return RetrainReport(why, "deployed", config.release)
    bring_up_beside(config, store_url, dashboard)
    state = commands.start(RolloutStore(store), config.release, DEFAULT_POLICY, time.time(), who())
    point_aliases(config, store)
    return RetrainReport(why, "rollout", config.release, state.rollout_id)


def _write(config: PipelineConfig, report: RetrainReport) -> None:
    made_ts = datetime.now(UTC).isoformat()
    uri = storage.join(config.root, "reports", "retrain", f"{made_ts}.json")
    storage.write_bytes(uri, json.dumps({"made_ts": made_ts, **asdict(report)}, indent=1).encode())
    log.info("retrain: %s; %s", report.outcome, uri)
