"""Where everything stands: shares and roles, the rollout, and what the last retraining and the last gates came to."""

import json
from typing import Any

from reco_ray.config import PipelineConfig
from reco_ray.lake import storage
from reco_ray.store import OnlineStore, RolloutStore
from reco_ray.store.leases import holder
from reco_ray.workflow.releases import read_roles
from reco_ray.workflow.retrain import LEASE

__all__ = ["last_report", "read_status"]


def read_status(config: PipelineConfig, store: OnlineStore) -> dict[str, Any]:
    """As plain values; None where there was no such thing yet.

    Raises: NotReadyError: the store is away.
    """
    return {
        "traffic": dict(store.traffic().weights),
        "roles": read_roles(config, store).by_name(),
        "rollout": RolloutStore(store).load(),
        "retrain_running": holder(store, LEASE),
        "retrain": last_report(config, "retrain"),
        "gates": last_report(config, "gates"),
    }


def last_report(config: PipelineConfig, kind: str) -> dict[str, Any] | None:
    """The report of a kind that was written last."""
    folder = storage.join(config.root, "reports", kind)
    found = [json.loads(storage.read_bytes(storage.join(folder, name))) for name in _newest(kind, storage.listing(folder))]
    return max(found, key=lambda each: str(each["made_ts"]), default=None)


def _newest(kind: str, names: list[str]) -> list[str]:
    """Names that hold the newest report; those of retraining tell it by themselves."""
    return sorted(names)[-1:] if kind == "retrain" else names
