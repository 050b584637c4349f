"""Fit the heavy ranker with Ray Train: the training loop of the embedding models, on whole groups."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import ray
import ray.train
from numpy.typing import NDArray

from reco_ray.config import ClusterConfig, NeuralConfig
from reco_ray.errors import DataError
from reco_ray.lake import tables
from reco_ray.rank.calibration import fit_and_judge
from reco_ray.rank.neural.forward import Weights, score
from reco_ray.rank.neural.groups import Histories, pack, pack_histories
from reco_ray.rank.neural.stage import About, save
from reco_ray.rank.neural.trainee import NeuralTrainee
from reco_ray.rank.plausible import refuse_implausible
from reco_ray.rank.training_set import TrainingSet
from reco_ray.recall.trainer import fit_on_workers
from reco_ray.recall.training.epochs import Schedule

__all__ = ["Items", "NeuralResult", "train_neural_ranker"]

_JUDGES = 1_000


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """What the model sees of items and of users' histories.

    Attributes:
        keys: of the items, ascending. vectors: shape (n, v). sources: names of the recall sources they are of.
        users: snapshot of the table ``features_users`` that holds the histories.
    """

    keys: NDArray[np.uint64]
    vectors: NDArray[np.float32]
    sources: Sequence[str]
    users: str


@dataclass(frozen=True, slots=True)
class NeuralResult:
    """How the training went, as `rank.trainer.RankerResult`; ``epochs`` are those up to the one that was kept."""

    epochs: int
    valid_ndcg10: float
    memory_mb: float
    ece_before: float
    ece_after: float


def train_neural_ranker(
    given: TrainingSet,
    items: Items,
    config: NeuralConfig,
    cluster: ClusterConfig,
    seed: int,
    name: str,
    storage: str,
    target: Path,
    on_epoch: Callable[[dict[str, float]], None] = lambda _: None,
) -> NeuralResult:
    """Train on groups that hold at least one positive; writes model, what it is about and calibration into ``target``.

    Args:
        name: of the run; one of the same name that was interrupted goes on from its last epoch.
        storage: URI for Ray Train's own files. on_epoch: called with each epoch's metrics, after the run.
    Raises: DataError: too few groups hold a positive; or a column knows the labels.
    """
    workers = cluster.train_workers
    if given.groups < 2 * workers or given.held_out_groups < workers:
        raise DataError(
            f"heavy ranker: found {given.groups} groups with items that recall had found too, and {given.held_out_groups} held "
            f"out, expected at least {2 * workers} and {workers}; import more events, raise recall.quotas or "
            "rank.validation_share, or use rank.kind=none"
        )
    refuse_implausible(next(given.read(False), pl.DataFrame()), given.columns)
    settings = {
        "given": given,
        "model": asdict(config),
        "seed": seed,
        "keys": ray.put(items.keys),
        "vectors": ray.put(items.vectors),
        "users": items.users,
    }
    state, memory_mb = fit_on_workers(_trainee, settings, cluster, name, storage)
    for epoch in state["epochs"]:
        on_epoch(epoch)
    weights: Weights = {name: tensor.float().numpy() for name, tensor in state["best_model"].items()}
    held_out = pl.concat(given.read(True, useful=False))
    histories = _histories(given.root, items.users, items.keys, config.history, held_out["user_id"].unique().to_list())
    scores = _scored(weights, held_out, items, histories)
    calibration, before, after = fit_and_judge(scores, held_out["label"].to_numpy() > 0, held_out["user_id"], seed)
    save(target, weights, About(list(given.columns), given.vocabulary, list(items.sources)), calibration)
    best = state["epochs"][state["best_epoch"]]
    return NeuralResult(state["best_epoch"] + 1, best["valid_ndcg10"], memory_mb, before, after)


def _scored(weights: Weights, rows: pl.DataFrame, items: Items, histories: Histories) -> NDArray[np.float32]:
    """Score rows of a training set as a release does."""
    groups = pack(rows, items.keys, histories)
    vectors = np.concatenate([items.vectors, np.zeros((1, items.vectors.shape[1]), np.float32)])
    found = []
    for at, user in enumerate(groups.users):
        of, size = slice(groups.offsets[at], groups.offsets[at + 1]), histories.sizes[user]
        past, strengths = vectors[histories.rows[user, :size]], histories.strengths[user, :size]
        found.append(score(weights, groups.features[of], vectors[groups.items[of]], past, strengths))
    return np.concatenate(found)


def _histories(root: str, snapshot: str, keys: NDArray[np.uint64], most: int, users: Sequence[str]) -> Histories:
    of_these = (pl.col("snapshot") == snapshot) & pl.col("user_id").is_in(users)
    return pack_histories(tables.read(root, "features_users", ("user_id", "history", "weights"), of_these), keys, most)


def _trainee(settings: dict[str, Any], device: str) -> tuple[NeuralTrainee, Schedule]:
    """What each worker trains."""
    given: TrainingSet = settings["given"]
    config, seed = NeuralConfig(**settings["model"]), settings["seed"]
    keys, vectors = ray.get(settings["keys"]), ray.get(settings["vectors"])
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    users = {user for held_out in (False, True) for frame in given.read(held_out, rank, world) for user in frame["user_id"]}
    trainee = NeuralTrainee(
        lambda held_out: given.read(held_out, rank, world),
        next(given.read(False)),
        keys,
        vectors,
        _histories(given.root, settings["users"], keys, config.history, sorted(users)),
        config,
        seed,
        given.held_out_groups >= _JUDGES,
        device,
    )
    schedule = Schedule("rank.neural", config.epochs, config.patience, config.learning_rate, config.weight_decay, seed)
    return trainee, schedule
