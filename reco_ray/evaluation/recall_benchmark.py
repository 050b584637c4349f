"""Measure recall sources on a user's own files: each is fitted, built and asked by the code that makes a release.

Comes in: a `Dataset` divided by a protocol. Goes out: a report as a dictionary, and as a table to read.
"""

import logging
import resource
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reco_ray import recall
from reco_ray.config import BenchmarkConfig, FeaturesConfig, SourceName
from reco_ray.evaluation.datasets import Dataset
from reco_ray.evaluation.metrics import ndcg_at_k, recall_at_k
from reco_ray.evaluation.protocols import Division
from reco_ray.features import ITEM_COLUMNS, Catalogue
from reco_ray.features.pairs import covisit_partials, covisit_rows
from reco_ray.hashing import digest
from reco_ray.recall.query import Query, Source
from reco_ray.recall.sources.segments import NOBODY
from reco_ray.recall.training.chunks import NEXT

__all__ = ["RECALL_AT", "catalogue_of", "compare", "measure", "render"]

log = logging.getLogger(__name__)

RECALL_AT, NDCG_AT = (5, 10, 20, 50, 100), (5, 10, 20, 100)
_ASKED_AT_ONCE = 512


def compare(data: Dataset, division: Division, config: BenchmarkConfig, folder: Path) -> dict[str, Any]:
    """Fit and measure every model that the configuration names, one after the other.

    Args:
        folder: for what is trained and built; a training that was interrupted goes on.
    Returns: see `docs/recall.md`.
    """
    items = data.items.with_columns(year=pl.lit(0, pl.Int32), available=pl.lit(True))
    catalogue = catalogue_of(items, division.train)
    chance = {f"recall@{k}": min(1.0, k / len(catalogue)) for k in RECALL_AT}
    models: dict[str, dict[str, Any]] = {}
    for name in config.models:
        log.info("%s: fitting on %d users, %d items", name.value, division.train.height, len(catalogue))
        started = time.perf_counter()
        source, facts = _fit(name, items, catalogue, division, config, folder)
        fitted = time.perf_counter()
        models[name.value] = measure(source, catalogue, division.cases, config.items_return) | facts
        models[name.value]["fit_seconds"] = round(fitted - started, 1)
        models[name.value]["rank_seconds"] = round(time.perf_counter() - fitted, 1)
        driver_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        models[name.value]["peak_memory_mb"] = round(max(driver_mb, facts.get("worker_memory_mb", 0.0)))
    best = max(models, key=lambda name: models[name]["ndcg@10"])
    return {
        "protocol": config.protocol.value,
        "seed": config.seed,
        "users": division.train.height,
        "items": len(catalogue),
        "events": data.events.height,
        "questions": division.cases.height,
        "withheld_items": len(division.withheld),
        "chance": chance,
        "models": models,
        "best": best,
        "checks": [
            {"name": "recall10", "value": models[best]["recall@10"], "unit": "share"},
            {"name": "ndcg10", "value": models[best]["ndcg@10"], "unit": "share"},
        ],
    }


def catalogue_of(items: pl.DataFrame, train: pl.DataFrame) -> Catalogue:
    """Make a catalogue as a release has one; popularity is the number of events in training, as a sequence has no clock.

    Args:
        items: columns item_id, title, categories, year, available.
    """
    counts = train["item_ids"].explode().value_counts().rename({"item_ids": "item_id", "count": "n"})
    rows = items.select("item_id").join(counts, on="item_id", how="left").with_columns(pl.col("n").fill_null(0).cast(pl.Int64))
    known = {"item_events", "item_decayed", "item_trending"}
    columns = [(pl.col("n") + 1).log().cast(pl.Float32).alias(c.name) for c in ITEM_COLUMNS if c.name in known]
    empty = [pl.lit(c.default, pl.Float32).alias(c.name) for c in ITEM_COLUMNS if c.name not in known]
    return Catalogue.build(items, rows.with_columns(*columns, *empty, n_positive="n"))


def _fit(
    name: SourceName, items: pl.DataFrame, catalogue: Catalogue, division: Division, config: BenchmarkConfig, folder: Path
) -> tuple[Source, dict[str, Any]]:
    from reco_ray.recall.trainer import TRAINED, Run, train_source

    facts: dict[str, Any] = {}
    models = folder / "models"
    models.mkdir(parents=True, exist_ok=True)
    if name in TRAINED:
        sequences = folder / "sequences.parquet"
        kept = [NEXT] if NEXT in division.train.columns else []
        ones = pl.col("item_ids").list.eval(pl.lit(1.0, pl.Float32)).alias("strengths")
        division.train.sort("user_id").select("user_id", "item_ids", ones, *kept).write_parquet(sequences)
        settings = (asdict(getattr(config.recall, name.value)), config.seed, config.history, config.cluster.train_workers)
        run = Run(
            sequences=str(sequences.absolute()),
            keys=catalogue.keys,
            history=config.history,
            items_return=config.items_return,
            cluster=config.cluster,
            seed=config.seed,
            name=f"{name.value}-{digest(repr(settings), _digest(division))}",
            storage=str((folder / "train").absolute()),
        )
        fitted = train_source(name, run, catalogue, config.recall, models)
        facts = {"epochs": len(fitted.epochs), "best_epoch": int(fitted.best["epoch"]), "worker_memory_mb": fitted.memory_mb}
        facts["validation"] = {k: round(v, 4) for k, v in fitted.best.items() if k.startswith("valid_")}
    pairs = (
        _pairs(division.train, catalogue)
        if name is SourceName.covisit
        else pl.DataFrame(schema={"a": pl.String, "b": pl.String, "score": pl.Float32})
    )
    stage = folder / f"stage-{name.value}"
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    alone = type(config.recall)(**{**vars(config.recall), "quotas": {name: RECALL_AT[-1]}})
    recall.build(stage, catalogue, items, NOBODY, pairs, models, alone, config.items_return)
    return recall.load(stage).sources[name.value], facts


def _digest(division: Division) -> str:
    rows = division.train.select("user_id", pl.col("item_ids").list.join(" ")).sort("user_id")
    return digest(*rows["user_id"], *rows["item_ids"])


def _pairs(train: pl.DataFrame, catalogue: Catalogue) -> pl.DataFrame:
    events = train.select("user_id", pl.col("item_ids").alias("item_id")).explode("item_id").with_columns(strength=1.0)
    ids = pl.Series("item_id", catalogue.item_ids).sort()
    return covisit_rows(covisit_partials(events, ids, FeaturesConfig()), ids, FeaturesConfig())


def measure(source: Source, catalogue: Catalogue, cases: pl.DataFrame, items_return: bool) -> dict[str, Any]:
    """Ask a source every question of a protocol, over the whole catalogue.

    Args:
        cases: as in `protocols.Division`.
    Returns: metrics at each k over all questions, and the same under ``slices`` for those that have any.
    """
    offered = []
    for part in cases.iter_slices(_ASKED_AT_ONCE):
        queries = [_query(catalogue.find(history), items_return) for history in part["history"].to_list()]
        offered += [rows[: RECALL_AT[-1]].astype(np.int32) for rows, _ in source.recall(queries, RECALL_AT[-1])]
    relevant = [catalogue.find(items).astype(np.int32) for items in cases["relevant"].to_list()]
    result: dict[str, Any] = _metrics(offered, relevant)
    cold_user = cases["cold_user"].to_numpy()
    unseen = catalogue.events == 0
    cold_items = [rows[unseen[rows]] for rows in relevant]
    slices = {
        "warm_users": [(o, r) for o, r, cold in zip(offered, relevant, cold_user, strict=True) if not cold],
        "cold_users": [(o, r) for o, r, cold in zip(offered, relevant, cold_user, strict=True) if cold],
        "cold_items": [(o, r) for o, r in zip(offered, cold_items, strict=True) if r.size],
    }
    result["slices"] = {
        name: {"questions": len(pairs), **_metrics([o for o, _ in pairs], [r for _, r in pairs])}
        for name, pairs in slices.items()
        if pairs and len(pairs) < cases.height
    }
    return result


def _query(history: NDArray[np.int64], items_return: bool) -> Query:
    known = history[history >= 0]
    hidden = np.empty(0, np.int64) if items_return else np.unique(known)
    return Query(known, np.ones(known.size, np.float32), hidden)


def _metrics(offered: Sequence[NDArray[np.int32]], relevant: Sequence[NDArray[np.int32]]) -> dict[str, float]:
    recalls = {f"recall@{k}": recall_at_k(offered, relevant, k) for k in RECALL_AT}
    gains = {f"ndcg@{k}": ndcg_at_k(offered, relevant, k) for k in NDCG_AT}
    return {name: round(float(values.mean()), 5) for name, values in (recalls | gains).items()}


def render(report: dict[str, Any]) -> str:
    """Write a report as a table."""
    columns = ("recall@5", "recall@10", "recall@100", "ndcg@5", "ndcg@10", "fit_seconds", "rank_seconds", "peak_memory_mb")
    head = f"{'model':<12}" + "".join(f"{name:>15}" for name in columns)
    lines = [
        f"{report['protocol']}, full ranking over {report['items']:,} items, {report['questions']:,} questions, "
        f"seed {report['seed']}",
        head,
    ]
    for name, found in sorted(report["models"].items(), key=lambda pair: pair[1]["ndcg@10"]):
        cells = [f"{found[c]:>15.4f}" if "@" in c else f"{found[c]:>15,.1f}" for c in columns]
        lines.append(f"{name:<12}" + "".join(cells))
    for slice_name in ("warm_users", "cold_users", "cold_items"):
        of = {name: found["slices"][slice_name] for name, found in report["models"].items() if slice_name in found["slices"]}
        if of:
            lines.append(f"{slice_name} ({next(iter(of.values()))['questions']:,} questions), recall@10 and @100:")
            lines += [f"  {name:<10}{found['recall@10']:>15.4f}{found['recall@100']:>15.4f}" for name, found in of.items()]
    return "\n".join(lines)
