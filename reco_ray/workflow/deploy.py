"""Bring a published release online: its users' rows into the online store, its stages behind the gateway."""

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

__all__ = ["deploy_release"]

log = logging.getLogger(__name__)


def deploy_release(config: PipelineConfig, store_url: str, dashboard: str) -> DeployReport:
    """Deploy ``config.release``, or the newest one; deploying what is deployed changes nothing.

    Raises:
        ArtifactError: there is no such release, or the user rows it was made with are gone.
        NotReadyError: it does not come up; traffic stays where it was.
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
    report = deploy(config, release, store_url, dashboard, user_view=manifest.user_view)
    made_ts = datetime.now(UTC).isoformat()
    record = json.dumps({**asdict(report), "users": written, "made_ts": made_ts}, indent=1)
    storage.write_bytes(storage.join(config.root, "reports", "deploy_release", f"{made_ts}.json"), record.encode())
    return report
