"""The bodies of the steps: each takes finished inputs, calls the rooms, and leaves files, tables and facts."""

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reco_ray import __version__
from reco_ray.config import GroupKind, NeuralConfig, PipelineConfig, RankKind, SourceName, SplitKind
from reco_ray.errors import DataError
from reco_ray.evaluation.per_user import HISTORY
from reco_ray.features import SNAPSHOTS, Catalogue, user_view_version, vocabulary_of
from reco_ray.hashing import digest
from reco_ray.lake import sources, storage, tables
from reco_ray.lake.cohorts import cohorts
from reco_ray.rank.cuts import balanced, groups_of_exposures, groups_of_users
from reco_ray.rank.features import PAIR_COLUMNS, view_columns
from reco_ray.rank.sensitive import check_declared
from reco_ray.rank.stage import COLUMNS_FILE, MODEL_FILE, VOCABULARY_FILE
from reco_ray.rank.training_set import TABLE, TrainingSet, write_training_set
from reco_ray.recall.index import index_facts
from reco_ray.release import assemble, open_release, release_uri, seal
from reco_ray.release.bundle import MANIFEST
from reco_ray.release.card import CARD, model_card
from reco_ray.release.registry import Registry
from reco_ray.schema import LABELS
from reco_ray.workflow.erased import erased_users
from reco_ray.workflow.graph import Output, Step, Work
from reco_ray.workflow.report import write_report
from reco_ray.workflow.tracking import Run as TrackedRun
from reco_ray.workflow.tracking import commit, lake_versions, tracked_run

__all__ = ["STEPS", "assemble_snapshot", "label_rows", "of_snapshot", "training_set", "user_rows"]

log = logging.getLogger(__name__)

_RAW = ("user_id", "item_id", "ts", "type", "value", "event_id", "consent")
_USERS_COUNTED = 100_000
_FEATURE_TABLES = {
    "features_users": "snapshot",
    "features_items": "snapshot",
    "features_pairs": "snapshot",
    "labels": "part",
}


def _fingerprint(config: PipelineConfig) -> str:
    """Hash of the raw data themselves, so that a changed file is another input."""
    parts = []
    for path in sources.raw_paths(config.source):
        with Path(path).open("rb") as file:
            parts.append(hashlib.file_digest(file, "blake2b").hexdigest())
    return digest(*parts)


def _lake_content(config: PipelineConfig) -> str:
    if not tables.exists(config.root, "events"):
        return ""
    events = tables.content_hash(tables.read(config.root, "events", _RAW), ["event_id"])
    items = tables.content_hash(tables.read(config.root, "items"), ["item_id"]) if tables.exists(config.root, "items") else ""
    return digest(events, items)


def _import_dataset(work: Work) -> Mapping[str, object]:
    from reco_ray.events.flow import import_dataset

    with erased_users(work.config) as fence:
        report = import_dataset(work.config, fence)
    return {
        "content": _lake_content(work.config),
        "events_read": report.events_read,
        "events_new": report.events_new,
        "refused": report.refused,
        "fenced": report.fenced,
        "items": report.items,
        "users": report.users,
        "versions": lake_versions(work.config),
    }


def _lake_stands(config: PipelineConfig, output: Output) -> bool:
    return all(tables.exists(config.root, name) for name in ("events", "items", "users"))


def _build_features(work: Work) -> Mapping[str, object]:
    from reco_ray.features import flow
    from reco_ray.features.leakage import message

    config, root = work.config, work.config.root
    items = tables.read(root, "items")
    categories = Catalogue.vocabulary(items)
    facts = items.select("item_id", "year", "categories").sort("item_id")
    plan = flow.survey(flow.BuildPlan(root, config.features, facts, config.rerank.seen_items_return, categories), config.split)
    split = plan.split
    assert split is not None
    if leaking := flow.find_leaks(plan):
        raise DataError(message(leaking, split))
    scratch = storage.join(root, "tmp", f"features-{work.key}")
    storage.remove(scratch)  # what a killed run left
    views = flow.build_views(plan, scratch)
    pairs = flow.build_pairs(plan)
    _replace(root, "features_users", work.key, views.users.batches(), SNAPSHOTS)
    _replace(root, "labels", work.key, views.labels.batches(), flow.LABEL_PARTS)
    _replace(root, "features_items", work.key, views.items.to_arrow().to_reader(), SNAPSHOTS)
    _replace(root, "features_pairs", work.key, pairs.to_arrow().to_reader(), SNAPSHOTS)
    with pq.ParquetWriter(work.folder / "sequences.parquet", (sequences := views.sequences.batches()).schema) as writer:
        for batch in sequences:
            writer.write_batch(batch)
    storage.remove(scratch)
    hashes = [
        *(part.content for part in (views.users, views.labels, views.sequences)),
        tables.content_hash(views.items, ["snapshot", "item_id"]),
        tables.content_hash(pairs, ["snapshot", "a", "b"]),
    ]
    counts = views.events
    return {
        "content": digest(*hashes),
        "user_view": user_view_version(config.features, categories),
        "split": {
            "kind": split.kind.value,
            "sentence": split.sentence,
            "warm_test_users": split.warm_test_users,
            "cold_test_users": split.cold_test_users,
            "events": {"fit": counts.get(0, 0), "rank": counts.get(1, 0), "test": counts.get(2, 0)},
        },
        "as_of": views.as_of,
        "users": views.people,
        "items": items.height,
        "pairs": pairs.height,
    }


def _replace(root: str, name: str, key: str, rows: pa.RecordBatchReader, values: Iterable[str]) -> None:
    """Write a step's rows into its partitions of a table: ``{key}-{value}``."""
    column = _FEATURE_TABLES[name]
    at = rows.schema.get_field_index(column)

    def keyed(batch: pa.RecordBatch) -> pa.RecordBatch:
        text = pc.binary_join_element_wise(f"{key}-", batch.column(at).cast(pa.string()), "")
        return batch.set_column(at, column, text)

    schema = rows.schema.set(at, pa.field(column, pa.string()))
    reader = pa.RecordBatchReader.from_batches(schema, (keyed(batch) for batch in rows))
    wanted = ", ".join(f"'{key}-{value}'" for value in values)
    tables.replace(root, name, reader, f"{column} IN ({wanted})")


def _features_stand(config: PipelineConfig, output: Output) -> bool:
    return all(tables.has_partition(config.root, name, f"{output.key}-") for name in _FEATURE_TABLES)


def of_snapshot(name: str, key: str, value: str) -> pl.Expr:
    """Whether a row of a table is of a snapshot, or part of the labels, of the features output with this key."""
    return pl.col(_FEATURE_TABLES[name]) == f"{key}-{value}"


def _rows(config: PipelineConfig, features: Output, name: str, value: str) -> pl.DataFrame:
    return tables.read(config.root, name, where=of_snapshot(name, features.key, value)).drop(_FEATURE_TABLES[name])


def user_rows(config: PipelineConfig, features: Output, snapshot: str) -> pl.DataFrame:
    """The user view of a snapshot."""
    return _rows(config, features, "features_users", snapshot)


def label_rows(config: PipelineConfig, features: Output, part: str) -> pl.DataFrame:
    """What users turned to in a part of the split."""
    return _rows(config, features, "labels", part)


def _some_users(config: PipelineConfig, features: Output, snapshot: str) -> pl.DataFrame:
    """What recall counts by segment: of 100,000 users or fewer."""
    parts = -(-int(str(features.facts["users"])) // _USERS_COUNTED)
    some = of_snapshot("features_users", features.key, snapshot) & (pl.col("user_id").hash() % parts == 0)
    return tables.read(config.root, "features_users", ("user_id", "seen", "features"), some).sort("user_id")


def assemble_snapshot(work: Work, snapshot: str, folder: Path, with_ranker: bool = True) -> None:
    """Write the stages as they are at the end of a snapshot into an empty folder.

    Args:
        work: with the outputs of the steps before ``evaluate`` as its inputs.
    """
    config, features = work.config, work.inputs["build_features"]
    models, ranker, neural = (work.inputs.get(f"train_{name}") for name in ("embeddings", "ranker", "neural_ranker"))
    assemble(
        folder,
        tables.read(config.root, "items"),
        _rows(config, features, "features_items", snapshot),
        _some_users(config, features, snapshot),
        _rows(config, features, "features_pairs", snapshot),
        config.recall,
        config.rerank,
        models.folder() if models else None,
        ranker.folder() if ranker and with_ranker else None,
        neural.folder() if neural and with_ranker else None,
    )


@contextlib.contextmanager
def _stages(work: Work, snapshot: str, with_ranker: bool = True) -> Iterator[str]:
    """The stages of a snapshot at a URI that every node can read, for as long as the block lasts."""
    uri = storage.join(work.config.root, "tmp", f"stages-{work.key}-{snapshot}")
    folder = work.folder.with_name("stages")
    folder.mkdir()
    assemble_snapshot(work, snapshot, folder, with_ranker)
    storage.publish(folder, uri, "recall.json")
    try:
        yield uri
    finally:
        storage.remove(uri)


def _train_embeddings(work: Work) -> Mapping[str, object]:
    from reco_ray.recall.trainer import Run, train_source

    config, features = work.config, work.inputs["build_features"]
    catalogue = Catalogue.build(tables.read(config.root, "items"), _rows(config, features, "features_items", "fit"))
    facts: dict[str, object] = {}
    for name, settings in _trained_sources(config).items():
        with tracked_run(config, f"train_{name.value}", work.key, vars(settings)) as tracked:

            def on_epoch(epoch: dict[str, float], tracked: TrackedRun = tracked) -> None:
                tracked.metrics({k: v for k, v in epoch.items() if k != "epoch"}, int(epoch["epoch"]))

            run = Run(
                sequences=storage.join(features.uri, "sequences.parquet"),
                keys=catalogue.keys,
                history=config.features.history,
                items_return=config.rerank.seen_items_return,
                cluster=config.cluster,
                seed=config.seed,
                name=f"train_{name.value}-{work.key}",
                storage=storage.join(config.root, "train"),
                on_epoch=on_epoch,
                release=open_release(config.root, config.warm_start) if config.warm_start else None,
            )
            fitted = train_source(name, run, catalogue, config.recall, work.folder)
            facts |= {f"{name.value}_started": fitted.started} if config.warm_start else {}
        facts |= {f"{name.value}_epochs": len(fitted.epochs), **{f"{name.value}_{k}": v for k, v in fitted.best.items()}}
    return facts


def _build_training_set(work: Work) -> Mapping[str, object]:
    from reco_ray.rank.flow import build_training_set

    config, features = work.config, work.inputs["build_features"]
    check_declared(view_columns(), config.rank.declared_sensitive)
    groups = _groups(config, features)
    if config.rank.balance:
        groups = balanced(groups, cohorts(config.root, config.rank.balance, groups["user_id"], "rank.balance"))
    vocabulary = vocabulary_of(groups["context"])
    with _stages(work, "fit", with_ranker=False) as stages:
        batches, columns = build_training_set(stages, user_rows(config, features, "fit"), groups, vocabulary)
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
    models, sources = work.inputs.get("train_embeddings"), [name.value for name in _trained_sources(config)]
    catalogue = Catalogue.build(tables.read(config.root, "items"), _rows(config, features, "features_items", "fit"))
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


def _evaluate(work: Work) -> Mapping[str, object]:
    from reco_ray.evaluation.flow import run_stages

    config, features = work.config, work.inputs["build_features"]
    with _stages(work, "eval") as stages:
        labels = label_rows(config, features, "test")
        answered = run_stages(stages, user_rows(config, features, "eval"), labels, config.seed, config.evaluation.k)
        with tracked_run(config, "evaluate", work.key, {"k": config.evaluation.k, "seed": config.seed}) as run:
            local = storage.fetch(stages)
            facts = write_report(work.folder, answered, local, config, features, commit(), lake_versions(config))
            run.metrics({name: value for name, value in facts.items() if isinstance(value, float)})
    return facts


def _publish_release(work: Work) -> Mapping[str, object]:
    config, features, evaluated = work.config, work.inputs["build_features"], work.inputs["evaluate"]
    bundle = work.folder / "bundle"
    bundle.mkdir()
    assemble_snapshot(work, "live", bundle)
    settings = repr((config.recall, config.rank, config.rerank, config.features))
    release_id = digest(
        "release", __version__, settings, *(f"{n}={o.content}" for n, o in sorted(work.inputs.items()) if n != "evaluate")
    )
    facts = {
        "inputs": {name: output.content for name, output in work.inputs.items()},
        "features_key": features.key,
        "evaluation_key": evaluated.key,
        **({"parents": [config.warm_start]} if config.warm_start else {}),
        "features": asdict(config.features),
        "sensitive_columns": sorted(config.rank.declared_sensitive) if config.rank.kind is not RankKind.none else [],
        "indexes": index_facts(bundle),
        "metrics": {k: v for k, v in evaluated.facts.items() if isinstance(v, float)},
        "lake_versions": lake_versions(config),
        "seconds": {name: output.seconds for name, output in work.inputs.items()},
        "commit": commit(),
        "made_ts": datetime.now(UTC).isoformat(),
    }
    report = json.loads((evaluated.folder() / "report.json").read_text())
    (bundle / CARD).write_text(model_card(release_id, facts, config, report))
    manifest = seal(bundle, release_id, str(features.facts["user_view"]), facts)
    storage.publish(bundle, release_uri(config.root, release_id), MANIFEST)
    open_release(config.root, release_id)  # what cannot be opened was not published
    Registry(config.root, config.tracking).register(manifest)
    return {"content": release_id, "release": release_id, "user_view": features.facts["user_view"]}


def _release_stands(config: PipelineConfig, output: Output) -> bool:
    return storage.exists(storage.join(release_uri(config.root, str(output.facts["release"])), MANIFEST))


def _recommend_batch(work: Work) -> Mapping[str, object]:
    from reco_ray.slate.flow import write_slates

    config, release = work.config, str(work.inputs["publish_release"].facts["release"])
    users = user_rows(config, work.inputs["build_features"], "live")
    if config.batch.users:
        users = users.filter(pl.col("user_id").is_in(config.batch.users))
    target = storage.join(config.root, "slates", work.key)
    storage.remove(target)  # what a killed run left
    rows = write_slates(config.root, release, users, config.batch.k, config.batch.users_per_task, target)
    return {"content": digest(release, repr(config.batch)), "release": release, "users": rows, "slates": target}


def _trained_sources(config: PipelineConfig) -> dict[SourceName, object]:
    """Settings of the models that a source with a quota needs."""
    recall = config.recall
    settings = {SourceName.two_tower: recall.two_tower, SourceName.sequential: recall.sequential, SourceName.mf: recall.mf}
    return {name: of for name, of in settings.items() if recall.quotas.get(name, 0) > 0}


def _start(config: PipelineConfig) -> tuple[str, ...]:
    """What models start from, where they do."""
    return (config.warm_start,) if config.warm_start else ()


def _of_groups(config: PipelineConfig) -> object:
    """What decides the groups of a training set and their weights; also which exposures and attributes the lake holds."""
    rank = config.rank
    joined = rank.groups is GroupKind.exposures and tables.exists(config.root, "feedback")
    now = tables.version(config.root, "feedback") if joined else -1
    told = tables.version(config.root, "users") if rank.balance else -1
    return (rank.groups, rank.validation_share, rank.declared_sensitive, now, rank.balance, told)


STEPS = (
    Step("import_dataset", (), lambda c: (c.source, c.seed, _fingerprint(c)), _import_dataset, stands=_lake_stands),
    Step(
        "build_features",
        ("import_dataset",),
        lambda c: (c.features, c.split, c.rerank.seen_items_return, LABELS.names, _lake_content(c)),
        _build_features,
        stands=_features_stand,
    ),
    Step(
        "train_embeddings",
        ("build_features",),
        lambda c: (_trained_sources(c), c.features, c.rerank.seen_items_return, c.seed, *_start(c)),
        _train_embeddings,
        needed=lambda c: bool(_trained_sources(c)),
    ),
    Step(
        "build_training_set",
        ("build_features", "train_embeddings"),
        lambda c: (_of_groups(c), PAIR_COLUMNS, c.recall, c.rerank.seen_items_return, c.seed),
        _build_training_set,
        needed=lambda c: c.rank.kind is not RankKind.none,
        stands=_training_set_stands,
    ),
    Step(
        "train_ranker",
        ("build_training_set",),
        lambda c: (replace(c.rank, kind=RankKind.xgboost, neural=NeuralConfig()), c.seed, *_start(c)),
        _train_ranker,
        needed=lambda c: c.rank.kind is RankKind.xgboost,
    ),
    Step(
        "train_neural_ranker",
        ("build_features", "train_embeddings", "build_training_set"),
        lambda c: (c.rank.neural, _trained_sources(c), c.seed),
        _train_neural_ranker,
        needed=lambda c: c.rank.kind is RankKind.neural,
    ),
    Step(
        "evaluate",
        ("build_features", "train_embeddings", "train_ranker", "train_neural_ranker"),
        lambda c: (c.evaluation, c.recall, c.rank.kind, c.rerank, c.seed, HISTORY),
        _evaluate,
    ),
    Step(
        "publish_release",
        ("build_features", "train_embeddings", "train_ranker", "train_neural_ranker", "evaluate"),
        lambda c: (c.recall, c.rank, c.rerank, c.features),
        _publish_release,
        stands=_release_stands,
    ),
    Step(
        "recommend_batch",
        ("build_features", "publish_release"),
        lambda c: c.batch,
        _recommend_batch,
        stands=lambda _, output: storage.exists(str(output.facts["slates"])),
    ),
)
"""In order; `graph.run_all` walks them."""
