"""Fit the ranker with Ray Train's XGBoostTrainer: LambdaMART on whole groups, each group on one worker."""

import json
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import ray.train
import xgboost
from ray.train import Checkpoint, CheckpointConfig, DataConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.xgboost import XGBoostTrainer

from reco_ray.config import ClusterConfig, RankConfig
from reco_ray.errors import DataError
from reco_ray.features import Vocabulary
from reco_ray.hashing import hash64, unit_interval
from reco_ray.rank.calibration import expected_error, fit_calibration
from reco_ray.rank.plausible import refuse_implausible
from reco_ray.rank.stage import COLUMNS_FILE, MODEL_FILE, VOCABULARY_FILE

__all__ = ["RankerResult", "calibrate", "grouped", "parameters", "train_ranker", "worker_part"]


@dataclass(frozen=True, slots=True)
class RankerResult:
    """How the training went; the model lies in the folder that was asked for.

    Attributes:
        ece_before, ece_after: expected calibration error of the logistic function of the scores, and of the calibrated ones, on
            held-out users that neither the model nor the calibration has seen; NaN with fewer than two such users.
    """

    rounds: int
    valid_ndcg10: float
    groups: int
    rows: int
    ece_before: float
    ece_after: float


def train_ranker(
    rows: pl.DataFrame,
    columns: list[str],
    vocabulary: Vocabulary,
    config: RankConfig,
    cluster: ClusterConfig,
    seed: int,
    storage: str,
    target: Path,
) -> RankerResult:
    """Train on groups that hold at least one positive; writes model, column names, vocabulary and calibration into ``target``.

    Args:
        rows: of `flow.build_training_set`.
        columns: names of the features, in order. vocabulary: of the context view, that the rows were made with.
        storage: URI for Ray Train's own files.
    Raises: DataError: no group holds a positive, so there is nothing to learn from; or a column knows the labels.
    """
    refuse_implausible(rows, columns)
    useful = rows.filter((pl.col("label") > 0).any().over("user_id"))
    groups = useful["user_id"].n_unique() if useful.height else 0
    if groups < 2 * cluster.train_workers:
        raise DataError(
            f"ranker: found {groups} users whose later items recall had found, expected at least {2 * cluster.train_workers}; "
            "import more events, raise recall.quotas, or use rank.kind=none"
        )
    users = useful["user_id"].unique().sort()
    validation = {user for user in users if _held_out(user, seed, config.validation_share)} or {users[0]}
    result = XGBoostTrainer(
        _loop,
        train_loop_config={
            "params": parameters(config, seed),
            "rounds": config.rounds,
        },
        datasets={
            "train": ray.data.from_arrow(useful.filter(~pl.col("user_id").is_in(list(validation))).to_arrow()),
            "valid": ray.data.from_arrow(useful.filter(pl.col("user_id").is_in(list(validation))).to_arrow()),
        },
        # every worker reads all rows and keeps its groups: Ray's own split would cut groups and drop rows
        dataset_config=DataConfig(datasets_to_split=[]),
        scaling_config=ScalingConfig(
            num_workers=cluster.train_workers,
            resources_per_worker={"CPU": cluster.train_cpus_per_worker},
            label_selector=cluster.train_label_selector or None,
        ),
        run_config=RunConfig(
            name=f"train_ranker-{uuid.uuid4().hex[:8]}",
            storage_path=storage,
            logging_config=LoggingConfig(log_level="WARNING"),
            failure_config=FailureConfig(max_failures=2),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    ).fit()
    with result.checkpoint.as_directory() as folder:
        (target / MODEL_FILE).write_bytes((Path(folder) / MODEL_FILE).read_bytes())
    (target / COLUMNS_FILE).write_text(json.dumps(columns))
    (target / VOCABULARY_FILE).write_text(json.dumps(vocabulary))
    # of all users, also those of whose later items recall found none: leaving them out would promise too much
    unseen = [u for u in rows["user_id"].unique().sort() if u in validation or _held_out(u, seed, config.validation_share)]
    before, after = calibrate(rows.filter(pl.col("user_id").is_in(unseen)), seed, target)
    metrics = result.metrics
    return RankerResult(metrics["rounds"], metrics["valid_ndcg10"], groups, useful.height, before, after)


def parameters(config: RankConfig, seed: int) -> dict[str, Any]:
    """XGBoost's parameters of a configuration."""
    return {
        "objective": "rank:ndcg",
        "eval_metric": "ndcg@10",
        "lambdarank_pair_method": "topk",
        "lambdarank_num_pair_per_sample": 20,
        "tree_method": "hist",
        "max_depth": config.max_depth,
        "learning_rate": config.learning_rate,
        "min_child_weight": config.min_child_weight,
        "subsample": config.subsample,
        "colsample_bytree": config.colsample,
        "reg_lambda": config.reg_lambda,
        "seed": seed,
    }


def calibrate(held_out: pl.DataFrame, seed: int, target: Path) -> tuple[float, float]:
    """Fit the calibration of the model in ``target`` on users unseen in training, and write it beside the model.

    Args:
        held_out: rows of `flow.build_training_set`.
    Returns: expected calibration error before and after, where one half of the users is fitted on and the other judged; what
        is written is fitted on all of them.
    """
    model = xgboost.Booster()
    model.load_model(str(target / MODEL_FILE))
    matrix = np.asarray(held_out["features"].list.to_array(len(held_out["features"][0])).to_numpy(), np.float32)
    scores, taken = model.inplace_predict(matrix), held_out["label"].to_numpy() > 0
    fit_calibration(scores, taken).save(target)
    half = np.array([unit_interval(user, f"calibration:{seed}") < 0.5 for user in held_out["user_id"]])
    if half.all() or not half.any():
        return float("nan"), float("nan")
    raw = 1 / (1 + np.exp(-scores[~half].astype(np.float64)))
    fitted = fit_calibration(scores[half], taken[half]).probabilities(scores[~half])
    return expected_error(raw, taken[~half]), expected_error(fitted, taken[~half])


def _held_out(user: str, seed: int, share: float) -> bool:
    return unit_interval(user, f"validation:{seed}") < share


def _loop(loop_config: dict[str, Any]) -> None:
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    train, valid = (_matrix(name, rank, world) for name in ("train", "valid"))
    history: dict[str, Any] = {}
    model = xgboost.train(
        loop_config["params"] | {"nthread": 1},
        train,
        num_boost_round=loop_config["rounds"],
        evals=[(valid, "valid")],
        evals_result=history,
        verbose_eval=False,
    )
    metrics = {"rounds": model.num_boosted_rounds(), "valid_ndcg10": float(history["valid"]["ndcg@10"][-1])}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if rank == 0:
            model.save_model(str(Path(folder) / MODEL_FILE))
            checkpoint = Checkpoint.from_directory(folder)
        ray.train.report(metrics, checkpoint=checkpoint)


def _matrix(name: str, rank: int, world: int) -> xgboost.DMatrix:
    """Rows of this worker's groups, as XGBoost wants them."""
    shard = ray.train.get_dataset_shard(name)
    frame = pl.concat([pl.DataFrame(b) for b in shard.iter_batches(batch_size=None, batch_format="pyarrow")])
    part = worker_part(frame, rank, world)
    if part.is_empty():
        raise DataError(f"ranker: worker {rank} of {world} got no {name} group; use fewer workers (cluster.train_workers)")
    return grouped(part)


def worker_part(frame: pl.DataFrame, rank: int, world: int) -> pl.DataFrame:
    """Rows of one worker's groups, whole and sorted by group, in whichever order and batches they come."""
    owner = {user: hash64(user, "worker") % world for user in frame["user_id"].unique()}
    mine = pl.col("user_id").replace_strict(owner, return_dtype=pl.Int64) == rank
    return frame.filter(mine).sort("user_id", "place")


def grouped(part: pl.DataFrame) -> xgboost.DMatrix:
    """Make the matrix of rows that stand group by group.

    Raises: DataError: a group comes in two pieces, of which XGBoost would silently make two.
    """
    group = part["user_id"].rle_id().to_numpy().astype(np.uint32)
    matrix = np.asarray(part["features"].list.to_array(len(part["features"][0])).to_numpy(), np.float32)
    made = xgboost.DMatrix(matrix, label=part["label"].to_numpy(), qid=group)
    found, users = made.get_uint_info("group_ptr").size - 1, part["user_id"].n_unique()
    if found != users:
        raise DataError(f"ranker: found {found} groups of {users} users, expected one each; sort the rows by user")
    return made
