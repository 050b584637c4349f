"""What the gates on cost, data and approval judge by, read from the lake and from reports."""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from reco_ray.config import GateName, PipelineConfig
from reco_ray.errors import ArtifactError, ConfigError, DataError
from reco_ray.evaluation.policy_report import PolicyReport
from reco_ray.events.bus import EVENTS
from reco_ray.features import Catalogue
from reco_ray.features.skew import SkewReport, compare, streamed
from reco_ray.hashing import digest, hash64_many
from reco_ray.lake import storage, tables
from reco_ray.release import Manifest, features_of
from reco_ray.release.shelf import gates_uri, read_manifest
from reco_ray.workflow.policy import judge_release

__all__ = ["approvals", "approve", "estimate", "parity", "train_s"]

log = logging.getLogger(__name__)

_ALL = 2**63 - 1


def parity(config: PipelineConfig, manifest: Manifest, folder: Path) -> SkewReport | None:
    """Compare rows of some users, made by the code of the streams and by that of the batch; None without events."""
    if GateName.parity not in config.gates.wanted or not tables.exists(config.root, EVENTS):
        return None
    known = tables.read(config.root, EVENTS, ["user_id"]).unique("user_id")["user_id"].sort()
    lots = pl.Series(hash64_many(known.to_list(), "parity"), dtype=pl.UInt64)
    users = known.gather(lots.arg_sort())[: config.gates.parity_users].to_list()
    catalogue = Catalogue.load(folder)
    try:
        made_with = features_of(manifest)
    except ArtifactError as exc:  # of before; it cannot be brought online either
        log.warning("gate parity: %s", exc)
        return None
    items = catalogue.facts()
    rows = streamed(config.root, users, items, made_with)
    return compare(config.root, rows, [_ALL], items, catalogue.categories, made_with)


def estimate(config: PipelineConfig, release: str) -> tuple[PolicyReport | None, str]:
    """What a release would have earned, or why nobody can say."""
    if GateName.off_policy not in config.gates.wanted:
        return None, "not asked for"
    try:
        return judge_release(config, release), ""
    except DataError as exc:
        return None, str(exc)


def train_s(manifest: Manifest) -> float:
    """Seconds that training its models took; NaN where that is not on record."""
    seconds = manifest.facts.get("seconds")
    if not isinstance(seconds, dict):
        return float("nan")
    return float(sum(took for step, took in seconds.items() if step.startswith("train_")))


def approvals(root: str, release: str) -> list[dict[str, str]]:
    """Who approved of a release, when, and what they said; oldest first."""
    folder = storage.join(root, "reports", "approvals", release)
    names = storage.listing(folder) if storage.exists(folder) else []
    found = [json.loads(storage.read_bytes(storage.join(folder, name))) for name in names]
    return sorted(found, key=lambda each: (each["ts"], each["by"]))


def approve(root: str, release: str, by: str, note: str, *, withdraw: bool = False) -> list[dict[str, str]]:
    """Put a name to a release, or take it back; returns the approvals then. One name counts once.

    Raises: ArtifactError: there is no such release. ConfigError: no name, or one to take back that did not approve.
    """
    read_manifest(root, release)
    if not by.strip():
        raise ConfigError("approval: found no name, expected whoever answers for it; give --by NAME")
    uri = storage.join(root, "reports", "approvals", release, f"{digest(by)}.json")
    if not withdraw:
        record = {"by": by, "note": note, "ts": datetime.now(UTC).isoformat(timespec="seconds")}
        storage.write_bytes(uri, json.dumps(record).encode())
    elif storage.exists(uri):
        storage.remove(uri)
        storage.remove(gates_uri(root, release))  # they counted it; who starts a rollout has to ask them again
    else:
        raise ConfigError(f"approval: found none of {by}, expected one of {[each['by'] for each in approvals(root, release)]}")
    return approvals(root, release)
