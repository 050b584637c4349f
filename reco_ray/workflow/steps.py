"""The bodies of the steps: each takes finished inputs, calls the rooms, and leaves files, tables and facts."""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reco_ray import __version__
from reco_ray.config import PipelineConfig, RankKind
from reco_ray.errors import DataError
from reco_ray.evaluation.per_user import HISTORY
from reco_ray.features import ITEM_COLUMNS, SNAPSHOTS, Catalogue, user_view_version
from reco_ray.hashing import digest
from reco_ray.lake import sources, storage, tables
from reco_ray.recall.index import index_facts
from reco_ray.release import open_release, release_uri, seal
from reco_ray.release.bundle import MANIFEST
from reco_ray.release.card import CARD, model_card
from reco_ray.release.registry import Registry
from reco_ray.schema import LABELS
from reco_ray.workflow.erased import erased_users
from reco_ray.workflow.graph import Output, Step, Work
from reco_ray.workflow.rankers import RANKER_STEPS, policy, start
from reco_ray.workflow.report import write_report
from reco_ray.workflow.snapshots import (
    FEATURE_TABLES,
    assemble_snapshot,
    label_rows,
    snapshot_rows,
    stages,
    trained_sources,
    user_rows,
)
from reco_ray.workflow.tracking import Run as TrackedRun
from reco_ray.workflow.tracking import commit, lake_versions, tracked_run

__all__ = ["STEPS"]

log = logging.getLogger(__name__)

_RAW = ("user_id", "item_id", "ts", "type", "value", "event_id", "consent")


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
    column = FEATURE_TABLES[name]
    at = rows.schema.get_field_index(column)

    def keyed(batch: pa.RecordBatch) -> pa.RecordBatch:
        text = pc.binary_join_element_wise(f"{key}-", batch.column(at).cast(pa.string()), "")
        return batch.set_column(at, column, text)

    schema = rows.schema.set(at, pa.field(column, pa.string()))
    reader = pa.RecordBatchReader.from_batches(schema, (keyed(batch) for batch in rows))
    wanted = ", ".join(f"'{key}-{value}'" for value in values)
    tables.replace(root, name, reader, f"{column} IN ({wanted})")


def _views(config: PipelineConfig) -> tuple[object, ...]:
    """What the views mean."""
    return user_view_version(config.features, []), *(column.name for column in ITEM_COLUMNS)


def _features_stand(config: PipelineConfig, output: Output) -> bool:
    return all(tables.has_partition(config.root, name, f"{output.key}-") for name in FEATURE_TABLES)


def _train_embeddings(work: Work) -> Mapping[str, object]:
    from reco_ray.recall.trainer import Run, train_source

    config, features = work.config, work.inputs["build_features"]
    catalogue = Catalogue.build(tables.read(config.root, "items"), snapshot_rows(config, features, "features_items", "fit"))
    facts: dict[str, object] = {}
    for name, settings in trained_sources(config).items():
        with tracked_run(config, f"train_{name.value}", work.key, vars(settings)) as tracked:

            def on_epoch(epoch: dict[str, float], tracked: TrackedRun = tracked) -> None:
                tracked.metrics({k: v for k, v in epoch.items() if k != "epoch"}, int(epoch["epoch"]))

            run = Run(
                sequences=storage.join(features.uri, "sequences.parquet"),
                keys=catalogue.keys,
                history=min(config.recall.history, config.features.history),
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


def _evaluate(work: Work) -> Mapping[str, object]:
    from reco_ray.evaluation.flow import run_stages

    config, features = work.config, work.inputs["build_features"]
    with stages(work, "eval") as folder:
        labels = label_rows(config, features, "test")
        answered = run_stages(folder, user_rows(config, features, "eval"), labels, config.seed, config.evaluation.k)
        with tracked_run(config, "evaluate", work.key, {"k": config.evaluation.k, "seed": config.seed}) as run:
            local = storage.fetch(folder)
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


STEPS = (
    Step("import_dataset", (), lambda c: (c.source, c.seed, _fingerprint(c)), _import_dataset, stands=_lake_stands),
    Step(
        "build_features",
        ("import_dataset",),
        lambda c: (_views(c), c.split, c.rerank.seen_items_return, LABELS.names, _lake_content(c)),
        _build_features,
        stands=_features_stand,
    ),
    Step(
        "train_embeddings",
        ("build_features",),
        lambda c: (trained_sources(c), c.features, c.recall.history, c.rerank.seen_items_return, c.seed, *start(c)),
        _train_embeddings,
        needed=lambda c: bool(trained_sources(c)),
    ),
    *RANKER_STEPS,
    Step(
        "evaluate",
        ("build_features", "train_embeddings", "train_ranker", "train_neural_ranker"),
        lambda c: (c.evaluation, c.recall, *policy(c), c.rerank, c.seed, HISTORY),
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
