"""Runs in MLflow: parameters, metrics, lake versions and commit of each training. Only a job's driver writes to it."""

import contextlib
import logging
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from reco_ray.config import PipelineConfig
from reco_ray.lake import storage, tables

__all__ = ["Run", "commit", "lake_versions", "tracked_run"]


class Run:
    """One MLflow run that is open."""

    def __init__(self, client: object, run_id: str) -> None:
        self._client, self.run_id = client, run_id

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log numbers at a step."""
        for name, value in values.items():
            # MLflow allows no "@" in names
            self._client.log_metric(self.run_id, name.replace("@", "_at_"), float(value), step=step)  # type: ignore[attr-defined]


@contextlib.contextmanager
def tracked_run(config: PipelineConfig, step: str, key: str, params: Mapping[str, object]) -> Iterator[Run]:
    """Open a run named after the step and its key; it is marked failed when the block raises."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    uri = config.tracking.uri or f"sqlite:///{config.root}/mlflow.db"
    if not config.tracking.uri:
        Path(config.root).mkdir(parents=True, exist_ok=True)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    experiment_id = (
        experiment.experiment_id
        if experiment
        else client.create_experiment(config.tracking.experiment, artifact_location=storage.join(config.root, "mlflow"))
    )
    tags = {"step": step, "key": key, "commit": commit(), "mlflow.runName": f"{step}-{key}"}
    run = client.create_run(experiment_id, tags=tags)
    for name, value in {**params, **{f"lake.{t}": v for t, v in lake_versions(config).items()}}.items():
        client.log_param(run.info.run_id, name, value)
    try:
        yield Run(client, run.info.run_id)
    except BaseException:
        client.set_terminated(run.info.run_id, "FAILED")
        raise
    client.set_terminated(run.info.run_id, "FINISHED")


def lake_versions(config: PipelineConfig) -> dict[str, int]:
    """Delta version of each raw table; -1 where it does not exist."""
    return {name: tables.version(config.root, name) for name in ("events", "items", "users")}


def commit() -> str:
    """Commit of the code that runs; empty outside of a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
