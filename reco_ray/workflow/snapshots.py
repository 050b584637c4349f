"""What steps read of those before them: rows of a snapshot, and the stages as they are at its end."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from reco_ray.config import PipelineConfig, RankKind, SourceName
from reco_ray.lake import storage, tables
from reco_ray.rank import measure_policy
from reco_ray.release import assemble
from reco_ray.workflow.graph import Output, Work

__all__ = [
    "FEATURE_TABLES",
    "assemble_snapshot",
    "label_rows",
    "of_snapshot",
    "snapshot_rows",
    "stages",
    "trained_sources",
    "user_rows",
]

FEATURE_TABLES = {
    "features_users": "snapshot",
    "features_items": "snapshot",
    "features_pairs": "snapshot",
    "labels": "part",
}
"""The column of each that names whose rows they are."""

_USERS_COUNTED = 100_000


def of_snapshot(name: str, key: str, value: str) -> pl.Expr:
    """Whether a row of a table is of a snapshot, or part of the labels, of the features output with this key."""
    return pl.col(FEATURE_TABLES[name]) == f"{key}-{value}"


def snapshot_rows(config: PipelineConfig, features: Output, name: str, value: str) -> pl.DataFrame:
    """Rows of a table that are of a snapshot, or part of the labels."""
    return tables.read(config.root, name, where=of_snapshot(name, features.key, value)).drop(FEATURE_TABLES[name])


def user_rows(config: PipelineConfig, features: Output, snapshot: str) -> pl.DataFrame:
    """The user view of a snapshot."""
    return snapshot_rows(config, features, "features_users", snapshot)


def label_rows(config: PipelineConfig, features: Output, part: str) -> pl.DataFrame:
    """What users turned to in a part of the split."""
    return snapshot_rows(config, features, "labels", part)


def _some_users(config: PipelineConfig, features: Output, snapshot: str) -> pl.DataFrame:
    """The user view of 100,000 users or fewer: what recall counts by segment."""
    parts = -(-int(str(features.facts["users"])) // _USERS_COUNTED)
    some = of_snapshot("features_users", features.key, snapshot) & (pl.col("user_id").hash() % parts == 0)
    return tables.read(config.root, "features_users", ("user_id", "history", "seen", "features"), some).sort("user_id")


def assemble_snapshot(work: Work, snapshot: str, folder: Path, with_ranker: bool = True) -> None:
    """Write the stages as they are at the end of a snapshot into an empty folder.

    Args:
        work: with the outputs of the steps before ``evaluate`` as its inputs.
    """
    config, features = work.config, work.inputs["build_features"]
    models, ranker, neural = (work.inputs.get(f"train_{name}") for name in ("embeddings", "ranker", "neural_ranker"))
    hybrid = with_ranker and config.rank.kind is RankKind.hybrid
    assemble(
        folder,
        tables.read(config.root, "items"),
        snapshot_rows(config, features, "features_items", snapshot),
        _some_users(config, features, snapshot),
        snapshot_rows(config, features, "features_pairs", snapshot),
        config.recall,
        config.rerank,
        models.folder() if models else None,
        ranker.folder() if ranker and with_ranker else None,
        neural.folder() if neural and with_ranker else None,
        measure_policy(config.rank.hybrid, _some_users(config, features, "fit")) if hybrid else None,
    )


@contextlib.contextmanager
def stages(work: Work, snapshot: str, with_ranker: bool = True) -> Iterator[str]:
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


def trained_sources(config: PipelineConfig) -> dict[SourceName, object]:
    """Settings of the models that a source with a quota needs."""
    recall = config.recall
    settings = {SourceName.two_tower: recall.two_tower, SourceName.sequential: recall.sequential, SourceName.mf: recall.mf}
    return {name: of for name, of in settings.items() if recall.quotas.get(name, 0) > 0}
