"""Builders of the Serve applications: they only wire options and arguments."""

from collections.abc import Mapping
from typing import Any

from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
from ray.serve import Application

from reco_ray.rollout.deployments import Rollouts
from reco_ray.serve.args import GatewayArgs, ReleaseArgs, RolloutArgs
from reco_ray.serve.deployments import Gateway, Ranker, Recall, Reranker
from reco_ray.serve.sizing import gateway_options, release_options, rollout_options

__all__ = [
    "GatewayArgs",
    "ReleaseArgs",
    "RolloutArgs",
    "build_gateway",
    "build_release",
    "build_rollouts",
    "serve_client",
]

_FIXED: dict[str, Any] = {
    "max_surge_percent": 100,  # Serve's default of 0 stops the old replica before the new one is up
    # Serve makes a log record per request and drops it; this package's own log is not affected
    "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
    "health_check_period_s": 2,  # a replica that was killed is noticed, and replaced, by its health check only
    "health_check_timeout_s": 5,  # a stage that hangs blocks its replica's loop; three missed checks replace it
    "graceful_shutdown_timeout_s": 10,
}


def build_gateway(args: GatewayArgs) -> Application:
    """Build the application that owns HTTP."""
    return _bind(Gateway, gateway_options(args), args)


def build_release(args: ReleaseArgs) -> Application:
    """Build the application of one release: three deployments, no route of its own."""
    where, options = (args.root, args.release_id, args.loader, args.store_url, args.namespace), release_options(args)
    recall, ranker = _bind(Recall, options, *where), _bind(Ranker, options, *where)
    return _bind(Reranker, options, *where, [recall, ranker])


def build_rollouts(args: RolloutArgs) -> Application:
    """Build the application of the controller of rollouts."""
    return _bind(Rollouts, rollout_options(), args.events, args.namespace, args.store_url, args.webhook)


def serve_client(dashboard: str) -> ServeSubmissionClient:
    """Make a client of Serve's REST API; it brings the cluster's token along where one is needed."""
    return ServeSubmissionClient(dashboard)


def _bind(deployment: Any, options: Mapping[str, dict[str, Any]], *args: object) -> Application:
    return deployment.options(**_FIXED, **options[deployment.name]).bind(*args)
