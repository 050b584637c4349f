"""Builders of the Serve applications: they only wire options and arguments."""

from typing import Any

from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
from ray.serve import Application

from reco_ray.serve.args import GatewayArgs, ReleaseArgs, Scaling, Size
from reco_ray.serve.autoscaling import WINDOW_S
from reco_ray.serve.deployments import Gateway, Ranker, Recall, Reranker

__all__ = ["GatewayArgs", "ReleaseArgs", "build_gateway", "build_release", "serve_client"]

# Serve calls this deprecated in favour of environment variables, which 2.60 reads nowhere; without it reports are 10 s apart
_REPORT_S = 1.0
_POLICY = "reco_ray.serve.autoscaling:StagePolicy"
_FULL_AT = 8  # a gateway replica that has an eighth of its most requests under way is busy: its work is short, its waits long


def build_gateway(args: GatewayArgs) -> Application:
    """Build the application that owns HTTP. Requests reach it one by one, so it scales on those under way."""
    scaling = {
        **_delays(args.gateway, args.scaling),
        "target_ongoing_requests": max(1, args.gateway.max_ongoing_requests // _FULL_AT),
    }
    return _bind(Gateway, args.gateway, scaling, args.label_selector, args)


def build_release(args: ReleaseArgs) -> Application:
    """Build the application of one release: three deployments, no route of its own."""
    where = (args.root, args.release_id, args.loader)
    recall = _bind(Recall, args.recall, _stage_scaling(args.recall, args.scaling), args.label_selector, *where)
    ranker = _bind(Ranker, args.ranker, _stage_scaling(args.ranker, args.scaling), args.label_selector, *where)
    scaling = _stage_scaling(args.reranker, args.scaling)
    return _bind(Reranker, args.reranker, scaling, args.label_selector, *where, [recall, ranker])


def serve_client(dashboard: str) -> ServeSubmissionClient:
    """Make a client of Serve's REST API; it brings the cluster's token along where one is needed."""
    return ServeSubmissionClient(dashboard)


def _bind(deployment: Any, size: Size, scaling: dict[str, Any], label_selector: dict[str, str], *args: object) -> Application:
    return deployment.options(**_options(size, scaling, label_selector)).bind(*args)


def _options(size: Size, scaling: dict[str, Any], label_selector: dict[str, str]) -> dict[str, Any]:
    actor: dict[str, Any] = {"num_cpus": size.num_cpus}
    if label_selector:
        actor["label_selector"] = dict(label_selector)
    options: dict[str, Any] = {
        "max_ongoing_requests": size.max_ongoing_requests,
        "max_surge_percent": 100,  # Serve's default of 0 stops the old replica before the new one is up
        "ray_actor_options": actor,
        # Serve makes a log record per request and drops it; this package's own log is not affected
        "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
        "health_check_period_s": 2,  # a replica that was killed is noticed, and replaced, by its health check only
        "health_check_timeout_s": 5,  # a stage that hangs blocks its replica's loop; three missed checks replace it
        "graceful_shutdown_timeout_s": 10,
    }
    if size.min_replicas == size.max_replicas:
        return {**options, "num_replicas": size.min_replicas}
    return {**options, "autoscaling_config": scaling}


def _stage_scaling(size: Size, scaling: Scaling) -> dict[str, Any]:
    policy = {"policy_function": _POLICY, "policy_kwargs": {"target_delay_ms": scaling.queue_delay_ms}}
    return {**_delays(size, scaling), "downscale_to_zero_delay_s": scaling.idle_to_zero_s, "policy": policy}


def _delays(size: Size, scaling: Scaling) -> dict[str, Any]:
    # one that may go to zero shows first that it comes up; for others a start value would undo what was scaled, at each change
    initial = {"initial_replicas": 1} if size.min_replicas == 0 else {}
    return {
        **initial,
        "min_replicas": size.min_replicas,
        "max_replicas": size.max_replicas,
        "upscale_delay_s": scaling.up_s,
        "downscale_delay_s": scaling.down_s,
        "look_back_period_s": WINDOW_S,
        "metrics_interval_s": _REPORT_S,
    }
