"""What the builders take: sizes, places and times. Model knobs travel in the release.

Serve ignores unknown keys; these models do not.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["GatewayArgs", "ReleaseArgs", "Scaling", "Size"]

LOADER = "reco_ray.serve.loading:ReleaseLoader"


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
        root: where releases lie; only the fused topology reads it.
        auth: "off" is for a loopback interface.
        deadline_ms: budget of a request that names none; a caller may ask for up to ``max_deadline_ms``.
            batch_rows: requests per batch.
        loader: import path of what loads stages, ``module:Class``.
    """

    root: str
    store_url: str
    namespace: str = "reco"
    store_timeout_ms: Annotated[int, Field(ge=1)] = 50
    topology: Literal["staged", "fused"] = "staged"
    deadline_ms: Annotated[int, Field(ge=1)] = 150
    max_deadline_ms: Annotated[int, Field(ge=1)] = 2000
    auth: Literal["off"] = "off"
    batch_rows: Annotated[int, Field(ge=1, le=256)] = 32
    gateway: Size = Size(min_replicas=2, max_replicas=2, num_cpus=0.2, max_ongoing_requests=256)
    scaling: Scaling = Scaling()
    label_selector: dict[str, str] = {}
    loader: str = LOADER


class ReleaseArgs(Args):
    """Arguments of a release's application."""

    root: str
    release_id: Annotated[str, Field(min_length=1)]
    recall: Size = Size()
    ranker: Size = Size()
    reranker: Size = Size()
    scaling: Scaling = Scaling()
    label_selector: dict[str, str] = {}
    loader: str = LOADER
