"""What the builders take: sizes, places and times. Model knobs travel in the release.

Serve ignores unknown keys; these models do not.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reco_ray.config import CacheConfig, EventsConfig, ExposuresConfig, ServedConfig, UnprofiledConfig

__all__ = ["GatewayArgs", "ReleaseArgs", "RolloutArgs", "Scaling", "Size"]

LOADER = "reco_ray.serve.path.loading:ReleaseLoader"


class Args(BaseModel):
    """Base: an unknown key is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Size(Args):
    """Size of one deployment; ``config.DeploymentConfig`` as Serve args."""

    min_replicas: Annotated[int, Field(ge=0)] = 1
    max_replicas: Annotated[int, Field(ge=1)] = 1
    num_cpus: Annotated[float, Field(gt=0)] = 0.1
    max_ongoing_requests: Annotated[int, Field(ge=1)] = 64

    @model_validator(mode="after")
    def _ordered(self) -> "Size":
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"found max_replicas={self.max_replicas} below min_replicas={self.min_replicas}; raise it")
        return self


class Scaling(Args):
    """When deployments whose ``max_replicas`` exceeds their ``min_replicas`` change size; see ``config.ServeConfig``."""

    queue_delay_ms: Annotated[float, Field(gt=0)] = 20
    up_s: Annotated[float, Field(ge=0)] = 2
    down_s: Annotated[float, Field(ge=0)] = 60
    idle_to_zero_s: Annotated[float, Field(ge=5)] = 600


class GatewayArgs(Args):
    """Arguments of the gateway application.

    Attributes:
        root: where releases and the lake lie; the fused topology and explanations read it.
        auth: "keys" asks for an API key; "off" is for a loopback interface.
        key_rate, key_burst: requests per second, and at once, of a key that names none, in each gateway replica.
        deadline_ms: budget of a request that names none; a caller may ask for up to ``max_deadline_ms``.
        batch_rows: requests per batch.
        unprofiled: surfaces and regions whose requests are those of nobody.
        cache, precomputed_ttl_days: of the slate cache and of precomputed slates.
        served: for how long items that a user was served do not return.
        events: the bus, and what is admitted to it.
        exposures: of the record of each decision.
        request_log: whether each request leaves a line in requests.jsonl beside the replica's log.
        trace_share, trace_endpoint: share of the requests that are traced, and where OTLP over HTTP goes; without an
            endpoint, to spans.jsonl beside the replica's log.
        most_at_work: requests that a replica takes before it sheds; it sheds earlier where they wait.
        loader: import path of what loads stages, ``module:Class``.
    """

    root: str
    store_url: str
    namespace: str = "reco"
    store_timeout_ms: Annotated[int, Field(ge=1)] = 50
    topology: Literal["staged", "fused"] = "staged"
    deadline_ms: Annotated[int, Field(ge=1)] = 150
    max_deadline_ms: Annotated[int, Field(ge=1)] = 2000
    auth: Literal["off", "keys"] = "off"
    key_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 100.0
    key_burst: Annotated[int, Field(ge=1)] = 200
    batch_rows: Annotated[int, Field(ge=1, le=256)] = 32
    unprofiled: UnprofiledConfig = UnprofiledConfig()
    cache: CacheConfig = CacheConfig()
    served: ServedConfig = ServedConfig()
    precomputed_ttl_days: Annotated[int, Field(ge=1)] = 7
    events: EventsConfig = EventsConfig()
    exposures: ExposuresConfig = ExposuresConfig()
    request_log: bool = True
    trace_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    trace_endpoint: str = ""
    most_at_work: Annotated[int, Field(ge=1)] = 256
    gateway: Size = Size(min_replicas=2, max_replicas=2, num_cpus=0.2, max_ongoing_requests=256)
    scaling: Scaling = Scaling()
    label_selector: dict[str, str] = {}
    loader: str = LOADER


class ReleaseArgs(Args):
    """Arguments of a release's application.

    Attributes:
        store_url: of the online store, from which the stages learn which items came and went, and the ranker its items'
            features; empty: all stays as published.
    """

    root: str
    release_id: Annotated[str, Field(min_length=1)]
    store_url: str = ""
    namespace: str = "reco"
    recall: Size = Size()
    ranker: Size = Size()
    reranker: Size = Size()
    scaling: Scaling = Scaling()
    label_selector: dict[str, str] = {}
    loader: str = LOADER


class RolloutArgs(Args):
    """Arguments of the controller of rollouts.

    Attributes:
        webhook: address that gets each decision; empty: none.
    """

    store_url: str
    namespace: str = "reco"
    events: EventsConfig = EventsConfig()
    webhook: str = ""
