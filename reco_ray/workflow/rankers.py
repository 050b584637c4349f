"""The steps that make the ranker: a training set of what recall returned, and the models that learn from it."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, replace

import polars as pl

from reco_ray.config import GroupKind, HybridConfig, NeuralConfig, PipelineConfig, RankKind, SplitKind
from reco_ray.errors import DataError
from reco_ray.features import Catalogue, vocabulary_of
from reco_ray.hashing import digest
from reco_ray.lake import storage, tables
from reco_ray.lake.cohorts import cohorts
from reco_ray.rank.cuts import balanced, groups_of_exposures, groups_of_users
from reco_ray.rank.features import PAIR_COLUMNS, view_columns
from reco_ray.rank.hybrid import check_criterion
from reco_ray.rank.sensitive import check_declared
from reco_ray.rank.stage import COLUMNS_FILE, MODEL_FILE, VOCABULARY_FILE
from reco_ray.rank.training_set import TABLE, TrainingSet, write_training_set
from reco_ray.release import open_release
from reco_ray.workflow.graph import Output, Step, Work
from reco_ray.workflow.snapshots import label_rows, snapshot_rows, stages, trained_sources, user_rows
from reco_ray.workflow.tracking import lake_versions, tracked_run

__all__ = ["RANKER_STEPS", "policy", "start", "training_set"]

log = logging.getLogger(__name__)


def _check_columns(config: PipelineConfig) -> None:
    check_declared(view_columns(), config.rank.declared_sensitive)
    if config.rank.kind is RankKind.hybrid:
        check_criterion(config.rank.hybrid)


def _build_training_set(work: Work) -> Mapping[str, object]:
    from reco_ray.rank.flow import build_training_set

    config, features = work.config, work.inputs["build_features"]
    groups = _groups(config, features)
    if config.rank.balance:
        groups = balanced(groups, cohorts(config.root, config.rank.balance, groups["user_id"], "rank.balance"))
    vocabulary = vocabulary_of(groups["context"])
    with stages(work, "fit", with_ranker=False) as folder:
        batches, columns = build_training_set(folder, user_rows(config, features, "fit"), groups, vocabulary)
        tally = write_training_set(config.root, work.key, batches)
    (work.folder / COLUMNS_FILE).write_text(json.dumps(columns))
    (work.folder / VOCABULARY_FILE).write_text(json.dumps(vocabulary))
    return {
        "content": digest(tally.content(), *columns, json.dumps(vocabulary, sort_keys=True)),
        "rows": tally.rows,
        "groups": len(tally.useful[False]),
        "held_out_groups": len(tally.useful[True]),
        "kind": config.rank.groups.value,
        "lake_versions": lake_versions(config),
    }


def _groups(config: PipelineConfig, features: Output) -> pl.DataFrame:
    """The groups that the ranker learns from, as `rank.flow.build_training_set` takes them."""
    share = config.rank.validation_share
    if config.rank.groups is GroupKind.users:
        return groups_of_users(label_rows(config, features, "rank"), share, config.seed)
    split: Mapping[str, object] = features.facts["split"]  # type: ignore[assignment]
    if split["kind"] != SplitKind.global_time.value:
        raise DataError(
            f"rank.groups=exposures: found a split of kind {split['kind']}, expected global_time, as exposures belong to "
            "one cut for all; give split=global_time or rank.groups=users"
        )
    as_of: Mapping[str, int] = features.facts["as_of"]  # type: ignore[assignment]
    start, end = (pl.lit(as_of[name]).cast(pl.Datetime("us", "UTC")) for name in ("fit", "eval"))
    between = (pl.col("ts") > start) & (pl.col("ts") <= end)
    columns = ("request_id", "user_id", "ts", "item_id", "position", "grade", "consent")
    feedback = tables.read(config.root, "feedback", columns, between)
    return groups_of_exposures(feedback, tables.read(config.root, "exposures", ("request_id", "context"), between), share)


def _training_set_stands(config: PipelineConfig, output: Output) -> bool:
    return tables.has_partition(config.root, TABLE, output.key)


def training_set(config: PipelineConfig, made: Output) -> TrainingSet:
    """Where the output of ``build_training_set`` lies."""
    columns, vocabulary = (json.loads((made.folder() / name).read_text()) for name in (COLUMNS_FILE, VOCABULARY_FILE))
    rows, groups, held_out = (int(str(made.facts[name])) for name in ("rows", "groups", "held_out_groups"))
    return TrainingSet(config.root, made.key, tuple(columns), vocabulary, rows, groups, held_out)


def _train_ranker(work: Work) -> Mapping[str, object]:
    from reco_ray.rank.trainer import train_ranker

    config, made = work.config, work.inputs["build_training_set"]
    given = training_set(config, made)
    with tracked_run(config, "train_ranker", work.key, {**vars(config.rank), "columns": len(given.columns)}) as run:
        train = storage.join(config.root, "train")
        name = f"train_ranker-{work.key}"
        start = _ranker_to_start_from(config, list(given.columns), given.vocabulary)
        result = train_ranker(given, config.rank, config.cluster, config.seed, name, train, work.folder, start)
        run.metrics({"valid_ndcg10": result.valid_ndcg10, "rounds": result.rounds, "rows": given.rows})
        run.metrics({"ece_before": result.ece_before, "ece_after": result.ece_after})
    return {
        "training_set": made.content,
        "rows": given.rows,
        "groups": given.groups,
        "rounds": result.rounds,
        "started": start is not None,
        "valid_ndcg10": result.valid_ndcg10,
        "ece_before": result.ece_before,
        "ece_after": result.ece_after,
    }


def _ranker_to_start_from(config: PipelineConfig, columns: object, vocabulary: object) -> bytes | None:
    """The trees of ``warm_start``, where they were made of the same columns."""
    if not config.warm_start:
        return None
    folder = open_release(config.root, config.warm_start)
    if not (folder / MODEL_FILE).is_file():
        log.warning("release %s has no ranker to start from; it starts anew", config.warm_start)
        return None
    if [json.loads((folder / name).read_text()) for name in (COLUMNS_FILE, VOCABULARY_FILE)] != [columns, vocabulary]:
        log.warning("the ranker of release %s knows other columns or contexts; it starts anew", config.warm_start)
        return None
    return (folder / MODEL_FILE).read_bytes()


def _train_neural_ranker(work: Work) -> Mapping[str, object]:
    from reco_ray.rank.neural.trainer import Items, train_neural_ranker
    from reco_ray.rank.neural.vectors import trained_vectors

    config, made, features = work.config, work.inputs["build_training_set"], work.inputs["build_features"]
    models, sources = work.inputs.get("train_embeddings"), [name.value for name in trained_sources(config)]
    catalogue = Catalogue.build(tables.read(config.root, "items"), snapshot_rows(config, features, "features_items", "fit"))
    vectors = trained_vectors(models.folder() if models else None, sources, catalogue)
    items = Items(catalogue.keys, vectors, sources, f"{features.key}-fit")
    given, settings = training_set(config, made), config.rank.neural
    with tracked_run(config, "train_neural_ranker", work.key, {**vars(settings), "columns": len(given.columns)}) as run:

        def on_epoch(epoch: dict[str, float]) -> None:
            run.metrics({k: v for k, v in epoch.items() if k != "epoch"}, int(epoch["epoch"]))

        train, name = storage.join(config.root, "train"), f"train_neural_ranker-{work.key}"
        result = train_neural_ranker(given, items, settings, config.cluster, config.seed, name, train, work.folder, on_epoch)
        run.metrics({"ece_before": result.ece_before, "ece_after": result.ece_after})
    return {"training_set": made.content, "rows": given.rows, "groups": given.groups, **asdict(result)}


def start(config: PipelineConfig) -> tuple[str, ...]:
    """What models start from, where they do."""
    return (config.warm_start,) if config.warm_start else ()


def policy(config: PipelineConfig) -> tuple[object, ...]:
    """Which ranker scores a request."""
    rank = config.rank
    return (rank.kind, rank.hybrid) if rank.kind is RankKind.hybrid else (rank.kind,)


def _of_groups(config: PipelineConfig) -> object:
    """What decides the groups of a training set and their weights; also which exposures and attributes the lake holds."""
    rank = config.rank
    joined = rank.groups is GroupKind.exposures and tables.exists(config.root, "feedback")
    now = tables.version(config.root, "feedback") if joined else -1
    told = tables.version(config.root, "users") if rank.balance else -1
    return (rank.groups, rank.validation_share, rank.declared_sensitive, now, rank.balance, told)


RANKER_STEPS = (
    Step(
        "build_training_set",
        ("build_features", "train_embeddings"),
        lambda c: (_of_groups(c), PAIR_COLUMNS, c.recall, c.rerank.seen_items_return, c.seed),
        _build_training_set,
        needed=lambda c: c.rank.kind is not RankKind.none,
        check=_check_columns,
        stands=_training_set_stands,
    ),
    Step(
        "train_ranker",
        ("build_training_set",),
        lambda c: (replace(c.rank, kind=RankKind.xgboost, neural=NeuralConfig(), hybrid=HybridConfig()), c.seed, *start(c)),
        _train_ranker,
        needed=lambda c: c.rank.kind in (RankKind.xgboost, RankKind.hybrid),
    ),
    Step(
        "train_neural_ranker",
        ("build_features", "train_embeddings", "build_training_set"),
        lambda c: (c.rank.neural, trained_sources(c), c.seed),
        _train_neural_ranker,
        needed=lambda c: c.rank.kind in (RankKind.neural, RankKind.hybrid),
    ),
)
"""In order, between those of recall and those of the release."""
