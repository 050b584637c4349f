"""What runs of training share: where they stand, what they may use, and how often they keep what they have learnt."""

import resource
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import ray
import ray.train
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.collective import broadcast_from_rank_zero
from threadpoolctl import threadpool_limits

from reco_ray.config import ClusterConfig

__all__ = ["Reports", "run_config", "scaling_config", "take_threads"]

_EVERY_S = 10.0


def run_config(name: str, storage: str) -> RunConfig:
    """A run that outlives two deaths of workers; one of the same name that was interrupted goes on from its last checkpoint.

    Args:
        storage: URI for Ray Train's own files.
    """
    return RunConfig(
        name=name,
        storage_path=storage,
        logging_config=LoggingConfig(log_level="WARNING"),
        failure_config=FailureConfig(max_failures=2),
        checkpoint_config=CheckpointConfig(num_to_keep=2),
    )


def scaling_config(cluster: ClusterConfig, gpu: bool = False) -> ScalingConfig:
    """The workers of a configuration, with a GPU each where they are to have one."""
    return ScalingConfig(
        num_workers=cluster.train_workers,
        use_gpu=gpu,
        resources_per_worker={"CPU": cluster.train_cpus_per_worker, **({"GPU": 1} if gpu else {})},
        label_selector=cluster.train_label_selector or None,
    )


def take_threads() -> int:
    """Say how many threads this worker may use, one for each of its CPUs and one at least, and let OpenMP use them.

    The environment of the cluster gives every process one (`cluster.serve_environment`), and XGBoost takes no more than OpenMP
    has, whatever it is told. Holds for the calling thread.
    """
    threads = max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))
    threadpool_limits(threads, "openmp")
    return threads


class Reports:
    """A worker's reports to Ray Train: the first, then one each ten seconds, and the last.

    Its controller takes one report from each worker when it polls, each half second, and a worker that has another waits.
    """

    def __init__(self) -> None:
        self._next = 0.0

    def add(self, metrics: Mapping[str, float], write: Callable[[Path], None], last: bool) -> None:
        """Report, with a checkpoint, when it is time; every worker calls this alike, and the first one's clock counts.

        Args:
            metrics: to which the peak memory of the worker is added, ``peak_memory_mb``.
            write: writes the checkpoint into a folder; called in the first worker.
            last: nothing comes after it.
        """
        context = ray.train.get_context()
        due = last or time.monotonic() >= self._next
        if context.get_world_size() > 1:
            due = broadcast_from_rank_zero(due)
        if not due:
            return
        memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if context.get_world_rank() == 0:
                write(Path(folder))
                checkpoint = Checkpoint.from_directory(folder)
            ray.train.report({**metrics, "peak_memory_mb": memory_mb}, checkpoint=checkpoint)
        self._next = time.monotonic() + _EVERY_S
