"""Sizes of the deployments as Serve's options: in the rendered config they stand beside the arguments, not among them.

Serve builds an application anew, and replaces all its replicas, when its arguments change; options it applies to what runs.
"""

from typing import Any

from reco_ray.serve.args import GatewayArgs, ReleaseArgs, Scaling, Size
from reco_ray.serve.autoscaling import WINDOW_S

__all__ = ["SIZE_FIELDS", "gateway_options", "release_options", "rollout_options"]

SIZE_FIELDS = {"gateway", "recall", "ranker", "reranker", "scaling", "label_selector"}
"""Fields of the arguments that are options."""

# Serve calls this deprecated in favour of environment variables, which 2.60 reads nowhere; without it reports are 10 s apart
_REPORT_S = 1.0
_POLICY = "reco_ray.serve.autoscaling:StagePolicy"
_FULL_AT = 8  # a gateway replica that has an eighth of its most requests under way is busy: its work is short, its waits long


def gateway_options(args: GatewayArgs) -> dict[str, dict[str, Any]]:
    """Options of the gateway by name of the deployment. Requests reach it one by one: it scales on those under way."""
    target = max(1, args.gateway.max_ongoing_requests // _FULL_AT)
    scaling = {**_delays(args.gateway, args.scaling), "target_ongoing_requests": target}
    return {"Gateway": _options(args.gateway, scaling, args.label_selector)}


def release_options(args: ReleaseArgs) -> dict[str, dict[str, Any]]:
    """Options of a release's stages by name of the deployment."""
    sizes = {"Recall": args.recall, "Ranker": args.ranker, "Reranker": args.reranker}
    policy = {"policy_function": _POLICY, "policy_kwargs": {"target_delay_ms": args.scaling.queue_delay_ms}}
    return {
        name: _options(
            size,
            {**_delays(size, args.scaling), "downscale_to_zero_delay_s": args.scaling.idle_to_zero_s, "policy": policy},
            args.label_selector,
        )
        for name, size in sizes.items()
    }


def rollout_options() -> dict[str, dict[str, Any]]:
    """Options of the controller of rollouts, of which there is one: it sleeps most of the time."""
    return {"Rollouts": {"num_replicas": 1, "ray_actor_options": {"num_cpus": 0}}}


def _options(size: Size, scaling: dict[str, Any], label_selector: dict[str, str]) -> dict[str, Any]:
    actor: dict[str, Any] = {"num_cpus": size.num_cpus}
    if label_selector:
        actor["label_selector"] = dict(label_selector)
    # a fixed size is one whose bounds agree: with num_replicas in its place Serve would build the application anew
    return {"max_ongoing_requests": size.max_ongoing_requests, "ray_actor_options": actor, "autoscaling_config": scaling}


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
