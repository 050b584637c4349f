"""Where a job runs and what it reaches: the Ray cluster, the online store, run tracking."""

from dataclasses import dataclass, field

from reco_ray.config.checks import between
from reco_ray.errors import ConfigError

__all__ = ["ClusterConfig", "StoreConfig", "TrackingConfig"]


@dataclass(kw_only=True)
class ClusterConfig:
    """The Ray cluster a job runs on. A job submitted to a cluster, or given an address, attaches; otherwise it starts one.

    ``num_cpus`` counts logical CPUs of a cluster started here; Serve replicas and training workers share them. The label
    selectors name the nodes that training workers and Ray Data's tasks ask for, so that the autoscaler adds the right kind.
    """

    address: str = ""
    num_cpus: int = 4
    object_store_mb: int = 512
    dashboard_port: int = 8265
    auth_mode: str = "token"
    train_workers: int = 1
    train_cpus_per_worker: float = 0.5
    train_label_selector: dict[str, str] = field(default_factory=dict)
    data_label_selector: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.auth_mode not in ("token", "disabled"):
            raise ConfigError(f"cluster.auth_mode: found {self.auth_mode!r}, expected 'token' or 'disabled'")
        between("cluster.train_workers", self.train_workers, 1, 1024)


@dataclass(kw_only=True)
class StoreConfig:
    """The online store. Without a ``url`` a Valkey server is started beside the job, under ``root``.

    Attributes:
        ttl_days: life of a user's row that is not written again.
        precomputed_ttl_days: age at which a precomputed slate is no answer any more.
    """

    url: str = ""
    port: int = 6390
    namespace: str = "reco"
    ttl_days: int = 30
    precomputed_ttl_days: int = 7
    timeout_ms: int = 50


@dataclass(kw_only=True)
class TrackingConfig:
    """MLflow. Without a ``uri``, runs go to an SQLite file under ``root``; a remote root needs a tracking server."""

    uri: str = ""
    experiment: str = "reco_ray"
