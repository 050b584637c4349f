"""Retraining: where there is a reason, train, pass the gates, and start a rollout; one at a time in the whole cluster."""

import json
import logging
import os
import socket
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

import polars as pl

from reco_ray.cluster import attaches, cpus_reserved, ray_session
from reco_ray.config import PipelineConfig, RetrainMode
from reco_ray.errors import DataError, NotReadyError, RecoError
from reco_ray.lake import storage, tables
from reco_ray.release import release_ids
from reco_ray.release.shelf import read_manifest
from reco_ray.rollout import DEFAULT_POLICY, State, commands
from reco_ray.store import OnlineStore, RolloutStore
from reco_ray.store.leases import leased
from reco_ray.workflow.budget import Bill, within
from reco_ray.workflow.deploy import bring_up_beside, deploy_release, run_steps
from reco_ray.workflow.drift import report_drift
from reco_ray.workflow.gates import pass_gates, who
from reco_ray.workflow.releases import point_aliases, read_roles

__all__ = ["LEASE", "RetrainFacts", "RetrainReport", "reasons", "retrain"]

log = logging.getLogger(__name__)

LEASE = "retrain"
_NOTHING_NEW = (
    "retrain: found nothing in the lake that release {} was not made of, expected new events; "
    "run jobs/run_sinks.py or jobs/import_dataset.py, then this again"
)


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
    """What came of it. ``outcome``: nothing_to_do, deployed, rollout, gated (no cluster that stays) or failed.

    ``parents``: the releases whose models it started from. ``cost``: ``cpu_hours`` at the configured price.
    """

    reasons: tuple[str, ...]
    outcome: str
    release: str = ""
    rollout_id: str = ""
    error: str = ""
    seconds: float = 0.0
    mode: str = RetrainMode.full.value
    parents: tuple[str, ...] = ()
    cpu_hours: float = 0.0
    cost: float = 0.0


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


def retrain(config: PipelineConfig, store_url: str) -> RetrainReport:
    """Look for reasons, train, and give the release its first share; writes ``reports/retrain``, whatever comes of it.

    The lock and the reasons come before the cluster: a second one, or one without a reason, starts nothing.

    Raises:
        NotReadyError: another one is at work, a rollout runs, or the budget is spent: ``retrain.max_wall_s``, ``max_cost``.
        DataError: there is a reason, and the lake holds nothing new to train on.
        ArtifactError: a gate did not pass.
    """
    started, wanted = time.monotonic(), config.retrain
    owner = f"{who()} on {socket.gethostname()}, process {os.getpid()}"
    with OnlineStore(store_url, config.store.namespace) as store, leased(store, LEASE, owner) as lease:
        bill = Bill(cpus_reserved, wanted.cpu_hour_price)
        report = RetrainReport((), "nothing_to_do", mode=wanted.mode.value)
        try:
            with within(wanted.max_wall_s, bill=bill, max_cost=wanted.max_cost):
                _no_rollout(store)
                why = tuple(reasons(_facts(config, store), config))
                log.info("retrain: %s", "; ".join(why) or "no reason to")
                if why:
                    parent = _parent(config, store)
                    report = replace(report, reasons=why, parents=(parent,) if parent else ())
                    with ray_session(config.cluster) as dashboard:
                        release = _train(replace(config, warm_start=parent))
                        lease.renew()
                        report = _release(replace(config, release=release), store, store_url, dashboard, report)
        except RecoError as exc:
            _write(config, _spent(replace(report, outcome="failed", error=str(exc)), started, bill))
            raise
    report = _spent(report, started, bill)
    _write(config, report)
    return report


def _spent(report: RetrainReport, started: float, bill: Bill) -> RetrainReport:
    seconds = round(time.monotonic() - started, 1)
    return replace(report, seconds=seconds, cpu_hours=round(bill.cpu_hours, 5), cost=round(bill.cost, 5))


def _parent(config: PipelineConfig, store: OnlineStore) -> str:
    """The release whose models this training starts from; empty: none."""
    if config.retrain.mode is RetrainMode.full:
        return config.warm_start
    published = release_ids(config.root)
    champion = read_roles(config, store).champion
    parent = champion if champion in published else published[-1] if published else ""
    log.info("retrain: %s", f"starts from the models of release {parent}" if parent else "no release to start from")
    return parent


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
    if config.warm_start:  # training goes on for ever, and would make of the same data another release each time
        known = read_manifest(config.root, config.warm_start).facts.get("inputs")
        made_of = known.get("build_features") if isinstance(known, dict) else None
        if made_of == run_steps(replace(config, only="build_features"))["build_features"].content:
            raise DataError(_NOTHING_NEW.format(config.warm_start))
    release = str(run_steps(replace(config, only=""))["publish_release"].facts["release"])
    if release in before:
        raise DataError(_NOTHING_NEW.format(release))
    return release


def _release(
    config: PipelineConfig, store: OnlineStore, store_url: str, dashboard: str, so_far: RetrainReport
) -> RetrainReport:
    if not attaches(config.cluster):  # what it would be loaded on ends with this job
        pass_gates(config, store, config.release)
        return replace(so_far, outcome="gated", release=config.release)
    if not read_roles(config, store).champion:
        deploy_release(config, store_url, dashboard)
        return replace(so_far, outcome="deployed", release=config.release)
    bring_up_beside(config, store_url, dashboard)
    state = commands.start(RolloutStore(store), config.release, DEFAULT_POLICY, time.time(), who())
    point_aliases(config, store)
    return replace(so_far, outcome="rollout", release=config.release, rollout_id=state.rollout_id)


def _write(config: PipelineConfig, report: RetrainReport) -> None:
    made_ts = datetime.now(UTC).isoformat()
    uri = storage.join(config.root, "reports", "retrain", f"{made_ts}.json")
    storage.write_bytes(uri, json.dumps({"made_ts": made_ts, **asdict(report)}, indent=1).encode())
    log.info("retrain: %s; %s", report.outcome, uri)
