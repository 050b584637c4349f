"""What the gates judge by, collected; results kept in ``reports/gates/<release>.json`` and in the rollouts' audit trail."""

import getpass
import io
import json
import logging
import time
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reco_ray.config import GateName, PipelineConfig
from reco_ray.errors import ArtifactError, DataError
from reco_ray.evaluation.per_user import PER_USER, same_users
from reco_ray.evaluation.smoke import Answers, ask
from reco_ray.features import user_row
from reco_ray.hashing import hash64_many
from reco_ray.lake import storage, tables
from reco_ray.release import Manifest, open_release, verify
from reco_ray.release.shelf import gates_uri, read_manifest, size_bytes
from reco_ray.rollout import commands
from reco_ray.rollout.gates import Facts, GateResult, check, refusal
from reco_ray.slate import Pipeline
from reco_ray.store import OnlineStore, RolloutStore
from reco_ray.types import EMPTY_USER, Request
from reco_ray.workflow import fitness
from reco_ray.workflow.drift import drift_of_both
from reco_ray.workflow.releases import read_roles
from reco_ray.workflow.replay import logged_requests
from reco_ray.workflow.snapshots import of_snapshot

__all__ = ["collect", "pass_gates", "who"]

log = logging.getLogger(__name__)

_K = 10


def pass_gates(config: PipelineConfig, store: OnlineStore, release: str) -> list[GateResult]:
    """Judge a release against the one that has the traffic; keeps the results, whatever they are.

    Raises: ArtifactError: a gate did not pass, and ``force`` is off; it is named with found, expected, remedy.
    """
    champion = read_roles(config, store).champion
    facts = collect(config, release, "" if champion == release else champion)
    results = check(facts, config.gates, config.seed)
    refused = refusal(release, results)
    action = "gates" if not refused else "gates_forced" if config.force else "gates_refused"
    made_ts = datetime.now(UTC).isoformat()
    said = [each.to_json() for each in results]
    content = {"release": release, "champion": facts.champion, "made_ts": made_ts, "action": action, "gates": said}
    uri = gates_uri(config.root, release)
    storage.write_bytes(uri, json.dumps(content, indent=1).encode())
    reason = refused or f"passed {', '.join(each.name for each in results)}"
    commands.note(RolloutStore(store), action, release, reason, time.time(), who(), {"gates": said})
    for each in results:
        log.info("gate %s: %s; found %s", each.name, "passed" if each.passed else "NOT PASSED", each.found)
    if refused and not config.force:
        raise ArtifactError(f"{refused}; see {uri}")
    if refused:
        log.warning("force=true: %s", refused)
    return results


def collect(config: PipelineConfig, release: str, champion: str) -> Facts:
    """Read, load and ask both releases.

    Args:
        champion: empty where there is none.
    Raises: ArtifactError: the release does not exist.
    """
    read_manifest(config.root, release)
    try:
        ours = _loaded(config, release)
    except ArtifactError as exc:
        return Facts(release, champion, damage=str(exc))
    size = size_bytes(config.root, release)
    theirs = None
    if champion:
        try:
            theirs = _loaded(config, champion)
        except ArtifactError as exc:  # it was made under another root, or damaged since: a new one must not wait for it
            log.warning("the release that has the traffic cannot be compared with: %s", exc)
    alone = Facts(
        release,
        sizes=(size, 0),
        train_s=(fitness.train_s(ours[0]), float("nan")),
        parity=fitness.parity(config, ours[0], open_release(config.root, release)),
        approvals=[each["by"] for each in fitness.approvals(config.root, release)],
    )
    if theirs is None:
        return replace(alone, answers=(_answers(config, [ours])[0], None))
    first, second = _answers(config, [ours, theirs])
    ours_and_theirs = _metric(config, ours[0], theirs[0])
    metric, history = (ours_and_theirs[:2], ours_and_theirs[2]) if ours_and_theirs else (None, None)
    policy, missing = fitness.estimate(config, release)
    return replace(
        alone,
        champion=champion,
        answers=(first, second),
        metric=metric,
        history=history,
        sizes=(size, size_bytes(config.root, champion)),
        train_s=(alone.train_s[0], fitness.train_s(theirs[0])),
        drifts=drift_of_both(config, ours[0], theirs[0]) if GateName.drift in config.gates.wanted else None,
        policy=policy,
        policy_missing=missing,
    )


def who() -> str:
    """The user that runs this process; containers may have none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "unknown"


def _loaded(config: PipelineConfig, release: str) -> tuple[Manifest, Pipeline]:
    folder = open_release(config.root, release)
    try:
        return verify(folder), Pipeline.load(folder)
    except ArtifactError:
        raise
    except Exception as exc:  # whatever keeps a stage from loading here keeps a replica from it
        found = f"release {release}: a stage does not load ({type(exc).__name__}: {exc})"
        raise ArtifactError(f"{found}, expected all of them to; publish it again") from exc


def _answers(config: PipelineConfig, both: list[tuple[Manifest, Pipeline]]) -> list[Answers]:
    """To the newest logged requests where all know their rows, else for some users as the features have them."""
    asked: list[list[Request]] = []
    if len(views := {manifest.user_view for manifest, _ in both}) == 1:
        try:
            logged = logged_requests(config, views.pop(), config.gates.requests)
            asked = [[request for request, _ in logged]] * len(both)
        except DataError:
            log.info("gates: found no logged request with its user's row; asking for users of the features")
    asked = asked or _made_requests(config, [manifest for manifest, _ in both])
    return ask([(pipeline, requests) for (_, pipeline), requests in zip(both, asked, strict=True)])


def _made_requests(config: PipelineConfig, releases: list[Manifest]) -> list[list[Request]]:
    """Requests of the same users to each release, by its own features; the last one is of somebody unknown."""
    users: list[str] = []
    if tables.exists(config.root, "features_users"):
        known = tables.read(config.root, "features_users", ["user_id"], _live(releases[0]))["user_id"]
        lots = pl.Series(hash64_many(known.to_list(), "gates"), dtype=pl.UInt64)
        users = known.gather(lots.arg_sort())[: config.gates.requests - 1].to_list()
    found = []
    for manifest in releases:
        rows = {}
        if users:
            theirs = tables.read(config.root, "features_users", where=_live(manifest) & pl.col("user_id").is_in(users))
            rows = {row["user_id"]: user_row(row) for row in theirs.iter_rows(named=True)}
        found.append([Request("", user_id, _K, user=rows.get(user_id, EMPTY_USER)) for user_id in (*users, "")])
    return found


def _live(manifest: Manifest) -> pl.Expr:
    return of_snapshot("features_users", str(manifest.facts.get("features_key", "")), "live")


def _metric(
    config: PipelineConfig, ours: Manifest, theirs: Manifest
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None] | None:
    frames = []
    for manifest in (ours, theirs):
        key = str(manifest.facts.get("evaluation_key", ""))
        uri = storage.join(config.root, "steps", "evaluate", key, PER_USER)
        if not key or not storage.exists(uri):
            return None
        frames.append(pl.read_parquet(io.BytesIO(storage.read_bytes(uri))))
    return same_users(frames[0], frames[1], config.gates.metric)
