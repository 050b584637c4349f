"""Run the steps, and bring what they left online: users' rows and slates in the online store, the sinks, a release's stages."""

import json
import logging
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reco_ray.cluster import attaches, embedded_store
from reco_ray.config import PipelineConfig
from reco_ray.lake import storage
from reco_ray.release import Manifest, newest, open_release, release_ids, verify
from reco_ray.serve.deploy import DeployReport, deploy
from reco_ray.store import FeatureStore, OnlineStore, registered_views
from reco_ray.workflow.gates import pass_gates
from reco_ray.workflow.graph import Output, run_all
from reco_ray.workflow.items import take_live_items
from reco_ray.workflow.releases import point_aliases
from reco_ray.workflow.sinks import start_sinks
from reco_ray.workflow.steps import STEPS

__all__ = ["bring_up_beside", "deploy_release", "load_precomputed", "materialize_features", "run_pipeline", "run_steps"]

if TYPE_CHECKING:
    from reco_ray.streaming.flow import Rebuilt

log = logging.getLogger(__name__)


def run_pipeline(config: PipelineConfig, dashboard: str) -> dict[str, Output]:
    """Run every step that is not fresh, in order; on a cluster that stays, deploy the release too.

    Args:
        dashboard: HTTP address of the cluster's.
    """
    outputs = run_steps(config)
    if not config.only and attaches(config.cluster):
        config = replace(config, release=str(outputs["publish_release"].facts["release"]))
        with embedded_store(config) as store:
            deploy_release(config, store, dashboard)
            load_precomputed(config, outputs["recommend_batch"], store)
    return outputs


def run_steps(config: PipelineConfig) -> dict[str, Output]:
    """Run every step that is not fresh, in order, and deploy nothing."""
    if config.only != "import_dataset":
        run_all(STEPS, config, upto="import_dataset")
        take_live_items(config)  # before the next step looks at what the lake holds
    return run_all(STEPS, config, upto=config.only)


def deploy_release(config: PipelineConfig, store_url: str, dashboard: str) -> DeployReport:
    """Deploy ``config.release``, or the newest one, and the sinks; deploying what is deployed changes nothing.

    Raises:
        ArtifactError: there is no such release, a gate did not pass, or it was made by code that computed other features.
        NotReadyError: it or a sink does not come up; traffic stays where it was.
    """
    return _deploy(config, store_url, dashboard, beside=False)


def bring_up_beside(config: PipelineConfig, store_url: str, dashboard: str) -> DeployReport:
    """Load ``config.release`` beside the one that has the traffic, which keeps it.

    Raises:
        ArtifactError: there is no such release, a gate did not pass, or it was made by code that computed other features.
        ConfigError: no other release has traffic, or there is no room for two.
        NotReadyError: it or a sink does not come up.
    """
    return _deploy(config, store_url, dashboard, beside=True)


def _deploy(config: PipelineConfig, store_url: str, dashboard: str, *, beside: bool) -> DeployReport:
    release = config.release or newest(config.root)
    with OnlineStore(store_url, config.store.namespace) as store:
        if beside or release not in store.traffic().weights:  # one that is loaded was let in before: a way back is quick
            pass_gates(config, store, release)
    manifest = verify(open_release(config.root, release))
    materialize_features(config, store_url, manifest)
    start_sinks(config, store_url)
    report = deploy(config, release, store_url, dashboard, user_view=manifest.user_view, beside=beside)
    _forget_views(config, store_url)
    if not beside:  # a rollout that starts does it itself
        with OnlineStore(store_url, config.store.namespace) as store:
            point_aliases(config, store)
    made_ts = datetime.now(UTC).isoformat()
    record = json.dumps({**asdict(report), "made_ts": made_ts}, indent=1)
    storage.write_bytes(storage.join(config.root, "reports", "deploy_release", f"{made_ts}.json"), record.encode())
    return report


def materialize_features(config: PipelineConfig, store_url: str, manifest: Manifest, again: bool = False) -> "Rebuilt | None":
    """Fill the online features from the lake, unless they are kept for this release or a later one; then streams keep them.

    A way back is therefore as quick as its stages start: the rows of its view are there.

    Args:
        again: fill them in any case.
    Raises: ArtifactError: it was made by code that computed other features. NotReadyError: the store or the bus is away.
    """
    from reco_ray.streaming.flow import rebuild

    with OnlineStore(store_url, config.store.namespace) as store:
        of = registered_views(store).get(manifest.user_view, {})
        known = release_ids(config.root)
        since = known[known.index(manifest.release_id) :]  # this one and those published after it
        kept = of.get("root") == config.root and of.get("release") in since
        features = FeatureStore(store, manifest.user_view, 1)
        kept = kept and all(features.position(at) is not None for at in range(config.events.bus.partitions))
    return None if kept and not again else rebuild(config, manifest.release_id, store_url)


def _forget_views(config: PipelineConfig, store_url: str) -> None:
    """Stop keeping features that no release in the traffic record reads."""
    from reco_ray.streaming.flow import forget_view

    with OnlineStore(store_url, config.store.namespace) as store:
        unread = set(registered_views(store)) - set(store.traffic().user_views.values())
    for view in sorted(unread):
        forget_view(config, view, store_url)
        log.info("user view %s is read by no release any more", view)


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
