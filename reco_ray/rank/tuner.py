"""Search the ranker's settings with Ray Tune: random draws, of which poor ones stop early (ASHA, Li et al. 2020).

Held-out groups are halved by a hash of their user: one half chooses among the draws, the other judges the chosen one against
the configured settings, as the best of many draws looks better than it is to those who chose it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import ray
import xgboost
from numpy.typing import NDArray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import BasicVariantGenerator

from reco_ray.config import ClusterConfig, RankConfig, TuneConfig
from reco_ray.errors import DataError
from reco_ray.hashing import unit_interval
from reco_ray.lake import storage as files
from reco_ray.rank.groups import quantile_matrices
from reco_ray.rank.parameters import parameters
from reco_ray.rank.rounds import STRETCH, fit_rounds
from reco_ray.rank.training_set import TrainingSet
from reco_ray.training import take_threads

__all__ = ["Found", "search"]

_JUDGES = 20
_K = 10


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a search found.

    Attributes:
        best: the settings that did best for the half that chooses, by name. chosen_by: their NDCG@10 there.
        trials: draws that were tried.
        configured, tuned: NDCG@10 of each group of the half that judges, by the configured and the best settings, shape (G,).
    """

    best: Mapping[str, float]
    chosen_by: float
    trials: int
    configured: NDArray[np.float64]
    tuned: NDArray[np.float64]


def search(
    given: TrainingSet,
    config: RankConfig,
    search_config: TuneConfig,
    cluster: ClusterConfig,
    seed: int,
    name: str,
    storage: str,
) -> Found:
    """Try draws of four settings, and compare the best with the configured ones.

    Args:
        name: of the search; one of the same name that was interrupted keeps the trials that ended, and makes the others anew.
        storage: URI for Ray Tune's own files.
    Raises: DataError: too few held-out groups to tell settings apart at all.
    """
    if given.held_out_groups < 2 * _JUDGES:
        raise DataError(
            f"tune_ranker: found {given.held_out_groups} held-out groups, expected at least {2 * _JUDGES} to tell settings "
            "apart; import more events or raise rank.validation_share"
        )
    resources = {"cpu": cluster.train_cpus_per_worker}
    trial = tune.with_resources(tune.with_parameters(_trial, given=given, config=config, seed=seed), resources)
    path = files.join(storage, name)
    if tune.Tuner.can_restore(path):
        tuner = tune.Tuner.restore(path, trial, resume_errored=True)
    else:
        stretches = -(-config.rounds // STRETCH)
        tuner = tune.Tuner(
            trial,
            param_space={
                "max_depth": tune.randint(2, 9),
                "learning_rate": tune.loguniform(0.01, 0.3),
                "min_child_weight": tune.loguniform(1.0, 100.0),
                "colsample": tune.uniform(0.3, 1.0),
            },
            tune_config=tune.TuneConfig(
                metric="valid",
                mode="max",
                num_samples=search_config.trials,
                scheduler=ASHAScheduler(max_t=max(stretches, 2), grace_period=max(1, stretches // 4), reduction_factor=2),
                search_alg=BasicVariantGenerator(max_concurrent=search_config.at_once, random_state=seed),
            ),
            run_config=tune.RunConfig(name=name, storage_path=storage, verbose=0),
        )
    results = tuner.fit()
    best = results.get_best_result("valid", "max")
    judge = ray.remote(_judged).options(num_cpus=cluster.train_cpus_per_worker)
    both = [judge.remote(given, settings, seed) for settings in (config, replace(config, **best.config))]
    configured, tuned = ray.get(both)
    return Found(best.config, best.metrics["valid"], len(results), configured, tuned)


def _trial(draw: dict[str, Any], given: TrainingSet, config: RankConfig, seed: int) -> None:
    _fit(given, replace(config, **draw), seed, lambda _model, metrics, _last: tune.report(metrics))


def _judged(given: TrainingSet, settings: RankConfig, seed: int) -> NDArray[np.float64]:
    model = _fit(given, settings, seed, lambda *_: None)
    found = []
    for frame in given.read(True):
        judges = frame.filter(_judges(frame))
        if judges.height:
            matrix = np.asarray(judges["features"].list.to_array(len(given.columns)).to_numpy(), np.float32)
            scored = judges.select("group_id", "label", pl.Series("score", model.inplace_predict(matrix)))
            found += [ndcg(*(of[name].to_numpy() for name in ("label", "score"))) for of in scored.partition_by("group_id")]
    return np.array(found)


def _fit(
    given: TrainingSet, settings: RankConfig, seed: int, on_stretch: Callable[[xgboost.Booster, dict[str, float], bool], None]
) -> xgboost.Booster:
    threads = take_threads()
    train, valid = quantile_matrices(_without_judges(given), threads)
    params = parameters(settings, seed) | {"nthread": threads}
    return fit_rounds(params, train, valid, settings.rounds, 0, None, on_stretch)


def ndcg(labels: NDArray[np.int32], scores: NDArray[np.float32]) -> float:
    """NDCG@10 of one group with a positive, with gains 2^label - 1 as XGBoost has them."""
    discount = 1 / np.log2(np.arange(2, _K + 2))
    gains = 2.0**labels - 1

    def dcg(order: NDArray[np.intp]) -> float:
        top = gains[order[:_K]]
        return float(top @ discount[: top.size])

    return dcg(np.argsort(-scores, kind="stable")) / dcg(np.argsort(-gains, kind="stable"))


def _without_judges(given: TrainingSet) -> Iterator[pl.DataFrame]:
    for frame in given.read(None):
        yield frame.filter(~(pl.col("held_out") & _judges(frame)))


def _judges(frame: pl.DataFrame) -> pl.Expr:
    users = frame.filter("held_out")["user_id"].unique()
    return pl.col("user_id").is_in([user for user in users if unit_interval(user, "tune") < 0.5])
