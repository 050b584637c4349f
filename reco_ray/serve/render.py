"""The whole Serve config, rendered from ours: what `serve deploy` takes and what `deploy.py` puts."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from reco_ray.config import DeploymentConfig, PipelineConfig, ServeConfig, Topology
from reco_ray.serve.args import GatewayArgs, ReleaseArgs, RolloutArgs, Scaling, Size
from reco_ray.serve.sizing import SIZE_FIELDS, gateway_options, release_options, rollout_options

__all__ = ["GATEWAY", "ROLLOUTS", "application_name", "render", "to_yaml"]

GATEWAY, ROLLOUTS = "gateway", "rollouts"


def application_name(release_id: str) -> str:
    """Name of a release's Serve application."""
    return f"release-{release_id}"


def render(config: PipelineConfig, release_ids: Sequence[str], store_url: str) -> dict[str, Any]:
    """Render the whole Serve config: the gateway, the controller of rollouts, and an application per release
    (none in the fused topology).
    """
    serve = config.serve
    gateway = GatewayArgs(
        root=config.root,
        store_url=store_url,
        namespace=config.store.namespace,
        store_timeout_ms=config.store.timeout_ms,
        topology=serve.topology.value,
        deadline_ms=serve.deadline_ms,
        auth=serve.auth.value,
        key_rate=serve.key_rate,
        key_burst=serve.key_burst,
        unprofiled=serve.unprofiled,
        served=serve.served,
        cache=serve.cache,
        precomputed_ttl_days=config.store.precomputed_ttl_days,
        events=config.events,
        exposures=config.exposures,
        request_log=serve.request_log,
        trace_share=serve.trace_share,
        trace_endpoint=serve.trace_endpoint,
        most_at_work=serve.gateway.max_ongoing_requests,
        gateway=_size(serve.gateway),
        scaling=_scaling(serve),
        label_selector=dict(serve.label_selector),
    )
    rollouts = RolloutArgs(
        store_url=store_url, namespace=config.store.namespace, events=config.events, webhook=serve.rollout_webhook
    )
    apps = [
        _app(GATEWAY, "/", "serve_apps.gateway:build", gateway),
        _app(ROLLOUTS, None, "serve_apps.rollouts:build", rollouts),
    ]
    if serve.topology is Topology.staged:
        for release_id in release_ids:
            args = ReleaseArgs(
                root=config.root,
                release_id=release_id,
                store_url=store_url,
                namespace=config.store.namespace,
                recall=_size(serve.recall),
                ranker=_size(serve.ranker),
                reranker=_size(serve.reranker),
                scaling=_scaling(serve),
                label_selector=dict(serve.label_selector),
            )
            apps.append(_app(application_name(release_id), None, "serve_apps.release:build", args))
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": serve.host, "port": serve.port, "keep_alive_timeout_s": 90},
        "logging_config": {"encoding": "JSON", "log_level": "INFO", "enable_access_log": False},
        "applications": apps,
    }


def to_yaml(rendered: Mapping[str, Any]) -> str:
    """Write a rendered config as `serve deploy` reads it."""
    return yaml.safe_dump(dict(rendered), sort_keys=False, width=120)


def _size(config: DeploymentConfig) -> Size:
    return Size(
        min_replicas=config.min_replicas,
        max_replicas=config.max_replicas,
        num_cpus=config.num_cpus,
        max_ongoing_requests=config.max_ongoing_requests,
    )


def _scaling(config: ServeConfig) -> Scaling:
    return Scaling(
        queue_delay_ms=config.queue_delay_ms,
        up_s=config.scale_up_s,
        down_s=config.scale_down_s,
        idle_to_zero_s=config.idle_to_zero_s,
    )


def _app(
    name: str, route_prefix: str | None, import_path: str, args: GatewayArgs | ReleaseArgs | RolloutArgs
) -> dict[str, Any]:
    given = args.model_dump(mode="json", exclude={"loader", *SIZE_FIELDS})
    match args:
        case GatewayArgs():
            options = gateway_options(args)
        case ReleaseArgs():
            options = release_options(args)
        case RolloutArgs():
            options = rollout_options()
    deployments = [{"name": deployment, **each} for deployment, each in options.items()]
    return {
        "name": name,
        "route_prefix": route_prefix,
        "import_path": import_path,
        "args": given,
        "deployments": deployments,
    }
