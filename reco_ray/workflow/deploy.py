"""Bring what the steps left online: users' rows and slates into the online store, the sinks, a release's stages."""

import json
import logging
from dataclasses import asdict
from datetime import UTC, datetime

import polars as pl

from reco_ray.config import PipelineConfig
from reco_ray.errors import ArtifactError
from reco_ray.features import user_row
from reco_ray.lake import storage, tables
from reco_ray.release import newest, open_release, verify
from reco_ray.serve.deploy import DeployReport, deploy
from reco_ray.store import OnlineStore
from reco_ray.workflow.graph import Output
from reco_ray.workflow.sinks import start_sinks

__all__ = ["deploy_release", "load_precomputed"]

log = logging.getLogger(__name__)


def deploy_release(config: PipelineConfig, store_url: str, dashboard: str) -> DeployReport:
    """Deploy ``config.release``, or the newest one, and the sinks; deploying what is deployed changes nothing.

    Raises:
        ArtifactError: there is no such release, or the user rows it was made with are gone.
        NotReadyError: it or a sink does not come up; traffic stays where it was.
    """
    release = config.release or newest(config.root)
    manifest = verify(open_release(config.root, release))
    snapshot = f"{manifest.facts['features_key']}-live"
    users = tables.read(config.root, "features_users", where=pl.col("snapshot") == snapshot)
    if users.is_empty():
        raise ArtifactError(
            f"release {release}: found no rows of snapshot {snapshot} in features_users, expected its users; "
            "run build_features and publish_release again"
        )
    with OnlineStore(store_url, config.store.namespace, config.store.ttl_days * 86_400) as store:
        rows = ((row["user_id"], user_row(row)) for row in users.iter_rows(named=True))
        written = store.write_users(rows, manifest.user_view)
    log.info("release %s: %d user rows in the online store", release, written)
    start_sinks(config, store_url)
    report = deploy(config, release, store_url, dashboard, user_view=manifest.user_view)
    made_ts = datetime.now(UTC).isoformat()
    record = json.dumps({**asdict(report), "users": written, "made_ts": made_ts}, indent=1)
    storage.write_bytes(storage.join(config.root, "reports", "deploy_release", f"{made_ts}.json"), record.encode())
    return report


def load_precomputed(config: PipelineConfig, slates: Output, store_url: str) -> int:
    """Load the slates of `recommend_batch` into the online store, where the gateway finds them when the stages cannot answer.

    Not a part of that step: what is in the store may be gone while the step's output still stands. Doing it again does no harm.
    """
    from reco_ray.slate.flow import load_slates

    taken = load_slates(
        str(slates.facts["slates"]), store_url, config.store.namespace, config.store.precomputed_ttl_days * 86_400
    )
    log.info("release %s: %d precomputed slates taken by the online store", slates.facts["release"], taken)
    return taken
