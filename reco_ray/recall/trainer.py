"""Fit the embedding models with Ray Train: each worker streams its share; every epoch is a checkpoint to go on from."""

import logging
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import ray.train
import torch
from numpy.typing import NDArray
from ray.train import DataConfig
from ray.train.torch import TorchTrainer, get_device

from reco_ray.config import ClusterConfig, MfConfig, RecallConfig, SequentialConfig, SourceName, TwoTowerConfig
from reco_ray.features import Catalogue
from reco_ray.lake import storage
from reco_ray.recall.sources.mf import save_factors
from reco_ray.recall.sources.sequential import save_model
from reco_ray.recall.sources.two_tower import item_inputs, save_weights
from reco_ray.recall.training.chunks import Chunk, Chunks, pack, validated_share
from reco_ray.recall.training.epochs import Schedule, State, fit_epochs
from reco_ray.recall.training.factors import fit_factors
from reco_ray.recall.training.sequence_fit import SequenceTrainee
from reco_ray.recall.training.starting import set_start
from reco_ray.recall.training.tower_fit import TowerTrainee
from reco_ray.recall.warm import Start, start_of
from reco_ray.training import Reports, run_config, scaling_config, take_threads

__all__ = ["TRAINED", "Fitted", "Run", "fit_on_workers", "train_source"]

TRAINED = (SourceName.two_tower, SourceName.sequential, SourceName.mf)
"""Sources with a model to train, in the order in which they are."""

log = logging.getLogger(__name__)

_USERS_AT_ONCE = 65_536
_STATE = "state.pt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a training run learns from and where it stands.

    Attributes:
        sequences: URI of a parquet file or folder: user_id, item_ids, strengths (oldest first), perhaps `chunks.NEXT`.
        keys: of the catalogue, ascending.
        history: longest history that a model sees.
        items_return: whether finding an item again that a user has had counts, when an epoch is judged.
        name, storage: of the run; one of the same name that was interrupted goes on from its last epoch.
        on_epoch: called in the driver with each epoch's metrics, after the run.
        release: local folder of a release whose models training starts from; None starts anew.
    """

    sequences: str
    keys: NDArray[np.uint64]
    history: int
    items_return: bool
    cluster: ClusterConfig
    seed: int
    name: str
    storage: str
    on_epoch: Callable[[dict[str, float]], None] = lambda _: None
    release: Path | None = None


@dataclass(frozen=True, slots=True)
class Fitted:
    """The weights of the best epoch by name, the metrics of that epoch and of all, and a worker's peak memory in MB.

    ``started``: share of the items' rows that started from a release's.
    """

    weights: dict[str, NDArray[np.float32]]
    best: dict[str, float]
    epochs: list[dict[str, float]]
    memory_mb: float
    started: float = 0.0


def train_source(name: SourceName, run: Run, catalogue: Catalogue, config: RecallConfig, folder: Path) -> Fitted:
    """Train the model of one of `TRAINED` and write it into a folder, from which `recall.build` takes it."""
    if name is SourceName.two_tower:
        fitted, keys = _train_two_tower(run, catalogue, config.two_tower)
        save_weights(folder, fitted.weights, keys)
    elif name is SourceName.mf:
        fitted = _train_factors(run, config.mf, _start(name, run, catalogue, run.keys))
        save_factors(folder, fitted.weights["items"], run.keys, config.mf.alpha, config.mf.regularization)
    else:
        fitted = _fit(run, _sequential, asdict(config.sequential), {}, _start(name, run, catalogue, run.keys))
        learnt = np.flatnonzero(catalogue.events > 0)  # the other rows are still as they were drawn at the start
        table = fitted.weights["item.weight"][np.concatenate([[0], learnt + 1])]
        save_model(folder, fitted.weights | {"item.weight": table}, catalogue.keys[learnt])
    return fitted


def _train_two_tower(run: Run, catalogue: Catalogue, config: TwoTowerConfig) -> tuple[Fitted, NDArray[np.uint64]]:
    """Returns: what was fitted, and the keys of the rows of the id table: the items with events."""
    trained_keys = catalogue.keys[catalogue.events > 0]
    inputs = dict(zip(("id_rows", "content"), item_inputs(catalogue, trained_keys), strict=True))
    start = _start(SourceName.two_tower, run, catalogue, trained_keys)
    refs = {name: ray.put(array) for name, array in inputs.items()}
    return _fit(run, _two_tower, asdict(config), refs, start), trained_keys


def _start(name: SourceName, run: Run, catalogue: Catalogue, keys: NDArray[np.uint64]) -> Start | None:
    start = start_of(name, run.release, catalogue, keys) if run.release else None
    if run.release and start is None:
        log.warning("%s: the release to start from has no such model of these items; it starts anew", name.value)
    return start


def _train_factors(run: Run, config: MfConfig, start: Start | None) -> Fitted:
    """In one task on one node: a whole pass over the users is needed for each solution of the items, and takes seconds."""
    cluster = run.cluster
    task = ray.remote(_factors).options(num_cpus=cluster.train_cpus_per_worker, label_selector=cluster.train_label_selector)
    fitted: Fitted = ray.get(task.remote(run.sequences, run.keys, config, run.seed, start))
    for iteration in fitted.epochs:
        run.on_epoch(iteration)
    return fitted


def _factors(sequences: str, keys: NDArray[np.uint64], config: MfConfig, seed: int, start: Start | None) -> Fitted:
    batches = storage.parquet_batches(sequences, _USERS_AT_ONCE)
    before = start.rows if start is not None else None
    chunks = (pack(pl.DataFrame(b), keys, 0, seed) for b in batches)
    items, iterations = fit_factors(chunks, keys.size, config, seed, before, take_threads())
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return Fitted({"items": items}, iterations[-1], iterations, memory_mb, _started(start))


def _started(start: Start | None) -> float:
    return float(start.known.mean()) if start is not None else 0.0


def _two_tower(settings: dict[str, Any], device: str) -> tuple[TowerTrainee, Schedule]:
    config, chunks = TwoTowerConfig(**settings["model"]), _share_of(settings)
    id_rows, content = ray.get(settings["id_rows"]), ray.get(settings["content"])
    history, items_return, seed = settings["history"], settings["items_return"], settings["seed"]
    trainee = TowerTrainee(chunks, id_rows, content, config, history, items_return, seed, device)
    _begin(trainee.model, settings)
    return trainee, _schedule("recall.two_tower", config, seed)


def _sequential(settings: dict[str, Any], device: str) -> tuple[SequenceTrainee, Schedule]:
    config, chunks = SequentialConfig(**settings["model"]), _share_of(settings)
    history, items_return, seed = settings["history"], settings["items_return"], settings["seed"]
    trainee = SequenceTrainee(chunks, len(ray.get(settings["keys"])), config, history, items_return, seed, device)
    _begin(trainee.model, settings)
    return trainee, _schedule("recall.sequential", config, seed)


def _begin(model: torch.nn.Module, settings: dict[str, Any]) -> None:
    start: Start | None = ray.get(settings["start"])
    if start is not None:
        set_start(model, start)


def _schedule(name: str, config: TwoTowerConfig | SequentialConfig, seed: int) -> Schedule:
    return Schedule(name, config.epochs, config.patience, config.learning_rate, config.weight_decay, seed)


def _fit(run: Run, make: Callable[..., Any], model: dict[str, Any], refs: dict[str, Any], start: Start | None) -> Fitted:
    sequences = ray.data.read_parquet(run.sequences)
    settings = {
        "model": model,
        "history": run.history,
        "items_return": run.items_return,
        "seed": run.seed,
        "share": validated_share(sequences.count()),
        "keys": ray.put(run.keys),
        "start": ray.put(start),
        **refs,
    }
    options = ray.data.ExecutionOptions(preserve_order=True)  # the same share in the same order at each epoch and rerun
    state, memory_mb = fit_on_workers(
        make,
        settings,
        run.cluster,
        run.name,
        run.storage,
        datasets={"sequences": sequences},
        dataset_config=DataConfig(execution_options=options),
    )
    for epoch in state["epochs"]:
        run.on_epoch(epoch)
    weights = {name: tensor.float().numpy() for name, tensor in state["best_model"].items()}
    return Fitted(weights, state["epochs"][state["best_epoch"]], state["epochs"], memory_mb, _started(start))


def fit_on_workers(
    make: Callable[[dict[str, Any], str], tuple[Any, Schedule]],
    settings: dict[str, Any],
    cluster: ClusterConfig,
    name: str,
    storage_path: str,
    **datasets: Any,
) -> tuple[State, float]:
    """Run `training.epochs` on the workers of Ray Train, on GPUs where there is one for each.

    Args:
        make: called in each worker with the settings and its device; gives the `training.epochs.Trainee`.
        name, storage_path: of the run; one of the same name that was interrupted goes on from its last epoch.
        datasets: of `TorchTrainer`, where workers share them out.
    Returns: the last checkpoint's state, and the peak memory of a worker in MB.
    """
    gpu = ray.cluster_resources().get("GPU", 0) >= cluster.train_workers
    result = TorchTrainer(
        partial(_loop, make),
        train_loop_config=settings,
        scaling_config=scaling_config(cluster, gpu),
        run_config=run_config(name, storage_path),
        **datasets,
    ).fit()
    with result.checkpoint.as_directory() as folder:
        state: State = torch.load(Path(folder) / _STATE, weights_only=True, map_location="cpu")
    return state, result.metrics["peak_memory_mb"]


def _loop(make: Callable[[dict[str, Any], str], tuple[Any, Schedule]], settings: dict[str, Any]) -> None:
    """What each worker runs."""
    torch.set_num_threads(take_threads())
    device = str(get_device())
    trainee, schedule = make(settings, device)
    state = None
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder) / _STATE, weights_only=True, map_location=device)
    fit_epochs(trainee, schedule, state, partial(_report, Reports()))


def _share_of(settings: dict[str, Any]) -> Chunks:
    """The worker's share, read anew at each epoch; one that fits into a single chunk is kept."""
    keys, share, seed = ray.get(settings["keys"]), settings["share"], settings["seed"]
    shard = ray.train.get_dataset_shard("sequences")
    kept: list[Chunk] = []

    def read() -> Iterator[Chunk]:
        if kept:
            yield kept[0]
            return
        chunks = 0
        for batch in shard.iter_batches(batch_size=_USERS_AT_ONCE, batch_format="pyarrow"):
            chunk = pack(pl.DataFrame(batch), keys, share, seed)
            chunks += 1
            yield chunk
        if chunks == 1:
            kept.append(chunk)

    return read


def _report(reports: Reports, state: State, last: bool) -> None:
    epoch = state["epochs"][-1]
    if ray.train.get_context().get_world_rank() == 0:
        said = ", ".join(f"{name} {value:.4f}" for name, value in epoch.items() if name != "epoch")
        # Ray Train keeps workers' logs in files; their stderr reaches the one who watches
        sys.stderr.write(f"epoch {epoch['epoch']}: {said}\n")
    reports.add(epoch, lambda folder: torch.save(state, folder / _STATE), last)
