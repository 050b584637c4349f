"""Builders of the Serve applications: they only wire options and arguments."""

from typing import Any

from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
from ray.serve import Application

from reco_ray.serve.args import GatewayArgs, ReleaseArgs, Size
from reco_ray.serve.deployments import Gateway, Ranker, Recall, Reranker

__all__ = ["GatewayArgs", "ReleaseArgs", "build_gateway", "build_release", "serve_client"]


def build_gateway(args: GatewayArgs) -> Application:
    """Build the application that owns HTTP."""
    return _bind(Gateway, args.gateway, args.label_selector, args)


def build_release(args: ReleaseArgs) -> Application:
    """Build the application of one release: three deployments, no route of its own."""
    where = (args.root, args.release_id, args.loader)
    recall = _bind(Recall, args.recall, args.label_selector, *where)
    ranker = _bind(Ranker, args.ranker, args.label_selector, *where)
    return _bind(Reranker, args.reranker, args.label_selector, *where, [recall, ranker])


def serve_client(dashboard: str) -> ServeSubmissionClient:
    """Make a client of Serve's REST API; it brings the cluster's token along where one is needed."""
    return ServeSubmissionClient(dashboard)


def _bind(deployment: Any, size: Size, label_selector: dict[str, str], *args: object) -> Application:
    return deployment.options(**_options(size, label_selector)).bind(*args)


def _options(size: Size, label_selector: dict[str, str]) -> dict[str, Any]:
    actor: dict[str, Any] = {"num_cpus": size.num_cpus}
    if label_selector:
        actor["label_selector"] = dict(label_selector)
    options: dict[str, Any] = {
        "max_ongoing_requests": size.max_ongoing_requests,
        "max_surge_percent": 100,  # Serve's default of 0 stops the old replica before the new one is up
        "ray_actor_options": actor,
        "logging_config": {"enable_access_log": False},
        "health_check_period_s": 5,
        "health_check_timeout_s": 5,  # a stage that hangs blocks its replica's loop; three missed checks replace it
        "graceful_shutdown_timeout_s": 10,
    }
    if size.min_replicas == size.max_replicas:
        return {**options, "num_replicas": size.min_replicas}
    scaling = {"min_replicas": size.min_replicas, "max_replicas": size.max_replicas, "target_ongoing_requests": 4}
    return {**options, "autoscaling_config": scaling}
