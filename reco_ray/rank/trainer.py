"""Fit the ranker with Ray Train's XGBoostTrainer: LambdaMART on whole groups, each group on one worker."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import ray.train
import xgboost
from ray.train.xgboost import XGBoostTrainer

from reco_ray.config import ClusterConfig, RankConfig
from reco_ray.errors import DataError
from reco_ray.rank.calibration import fit_and_judge
from reco_ray.rank.groups import quantile_matrices
from reco_ray.rank.parameters import parameters
from reco_ray.rank.plausible import refuse_implausible
from reco_ray.rank.rounds import best_rounds, fit_rounds, started_from
from reco_ray.rank.stage import COLUMNS_FILE, MODEL_FILE, VOCABULARY_FILE
from reco_ray.rank.training_set import TrainingSet
from reco_ray.training import Reports, run_config, scaling_config, take_threads

__all__ = ["RankerResult", "calibrate", "fit_model", "train_ranker"]

_JUDGES = 1_000


@dataclass(frozen=True, slots=True)
class RankerResult:
    """How the training went; the model lies in the folder that was asked for.

    Attributes:
        rounds: trees of the model. memory_mb: peak of the largest worker.
        ece_before, ece_after: expected calibration error of the logistic function of the scores, and of the calibrated ones, on
            held-out users that neither the model nor the calibration has seen; NaN with fewer than two such users.
    """

    rounds: int
    valid_ndcg10: float
    memory_mb: float
    ece_before: float = float("nan")
    ece_after: float = float("nan")


def train_ranker(
    given: TrainingSet,
    config: RankConfig,
    cluster: ClusterConfig,
    seed: int,
    name: str,
    storage: str,
    target: Path,
    start: bytes | None = None,
) -> RankerResult:
    """Train on groups that hold at least one positive; writes model, column names, vocabulary and calibration into ``target``.

    Args:
        name: of the run; one of the same name that was interrupted goes on from its last checkpoint.
        storage: URI for Ray Train's own files.
        start: file of a model with the same columns, which ``config.more_rounds`` are added to; None starts anew.
    Raises: DataError: no group holds a positive, so there is nothing to learn from; or a column knows the labels.
    """
    refuse_implausible(next(given.read(False), pl.DataFrame()), given.columns)
    fitted = fit_model(given, config, cluster, seed, name, storage, target, start)
    (target / COLUMNS_FILE).write_text(json.dumps(given.columns))
    (target / VOCABULARY_FILE).write_text(json.dumps(given.vocabulary))
    # of all groups, also those of whose later items recall found none: leaving them out would promise too much
    before, after = calibrate(pl.concat(given.read(True, useful=False)), seed, target)
    return RankerResult(fitted.rounds, fitted.valid_ndcg10, fitted.memory_mb, before, after)


def fit_model(
    given: TrainingSet,
    config: RankConfig,
    cluster: ClusterConfig,
    seed: int,
    name: str,
    storage: str,
    target: Path,
    start: bytes | None = None,
) -> RankerResult:
    """Train, and write the model alone into ``target``; see `train_ranker`."""
    workers = cluster.train_workers
    if given.groups < 2 * workers or given.held_out_groups < workers:
        raise DataError(
            f"ranker: found {given.groups} groups with items that recall had found too, and {given.held_out_groups} held out, "
            f"expected at least {2 * workers} and {workers}; import more events, raise recall.quotas or rank.validation_share, "
            "or use rank.kind=none"
        )
    result = XGBoostTrainer(
        _loop,
        train_loop_config={
            "given": given,
            "params": parameters(config, seed),
            "rounds": config.rounds if start is None else config.more_rounds,
            "start": start,
            "patience": config.patience if given.held_out_groups >= _JUDGES else 0,
        },
        scaling_config=scaling_config(cluster),
        run_config=run_config(name, storage),
    ).fit()
    with result.checkpoint.as_directory() as folder:
        model = xgboost.Booster(model_file=str(Path(folder) / MODEL_FILE))
    best = best_rounds(model) if given.held_out_groups >= _JUDGES else model.num_boosted_rounds()
    model[:best].save_model(str(target / MODEL_FILE))
    return RankerResult(best, result.metrics["valid"], result.metrics["peak_memory_mb"])


def calibrate(held_out: pl.DataFrame, seed: int, target: Path) -> tuple[float, float]:
    """Fit the calibration of the model in ``target`` on users unseen in training, and write it beside the model.

    Args:
        held_out: rows of a training set.
    Returns: expected calibration error before and after, where one half of the users is fitted on and the other judged; what
        is written is fitted on all of them.
    """
    model = xgboost.Booster()
    model.load_model(str(target / MODEL_FILE))
    matrix = np.asarray(held_out["features"].list.to_array(len(held_out["features"][0])).to_numpy(), np.float32)
    scores, taken = model.inplace_predict(matrix), held_out["label"].to_numpy() > 0
    calibration, before, after = fit_and_judge(scores, taken, held_out["user_id"], seed)
    calibration.save(target)
    return before, after


def _loop(settings: dict[str, Any]) -> None:
    """What each worker runs."""
    given: TrainingSet = settings["given"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    threads = take_threads()
    train, valid = quantile_matrices(given.read(None, rank, world), threads)
    params, rounds, start = settings["params"] | {"nthread": threads}, settings["rounds"], settings["start"]
    if start is not None:
        start, before = started_from(params, train, valid, start)
        rounds += before
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            start = (Path(folder) / MODEL_FILE).read_bytes()
    reports = Reports()

    def report(model: xgboost.Booster, metrics: dict[str, float], last: bool) -> None:
        reports.add(metrics, lambda folder: model.save_model(str(folder / MODEL_FILE)), last)

    fit_rounds(params, train, valid, rounds, settings["patience"], start, report)
