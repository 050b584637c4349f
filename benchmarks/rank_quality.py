"""The ranker against what it has to beat, over seeds, and where its gain comes from.

    python benchmarks/rank_quality.py --out FILE [--datasets movielens,completejourney] [--seeds 7,8,9] [--root FOLDER]
        [--parts again,alone]

Per data set and seed the pipeline runs up to the rankers (``rank=hybrid``). NDCG@10 on the test part of each recall source
alone, of their union in recall's order, of XGBoost, of the heavy ranker and of both by the release's policy. The part ``again``
trains rankers once more, in this process: on all columns, with XGBoost's ``lambdarank_unbiased`` (which takes recall's order
for the displayed one), without a group of columns, and on one alone. The part ``alone`` is the sequential model as a release
without a ranker has it. What was made and measured lies under ``FOLDER`` and is used again, so that a cut
loses one step. A seed decides everything random: models, held-out users, ids. A user's NDCG is the mean over seeds; intervals
(95%) and paired differences are over users.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import typer
import xgboost
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from reco_ray.cluster import ray_session
from reco_ray.compose import compose_config
from reco_ray.config import PipelineConfig
from reco_ray.evaluation import confidence_interval, ndcg_at_k, paired_difference
from reco_ray.evaluation.flow import relevant_rows, tested_users
from reco_ray.features import CONTEXT_COLUMNS, ITEM_COLUMNS, USER_COLUMNS, past_request
from reco_ray.hashing import digest
from reco_ray.lake import sources, tables
from reco_ray.lake.sources.identity import permuted
from reco_ray.rank import HybridRanker
from reco_ray.rank.parameters import parameters
from reco_ray.rank.rounds import fit_rounds
from reco_ray.rank.stage import load as load_rank
from reco_ray.rank.training_set import TABLE
from reco_ray.recall import Recall
from reco_ray.recall import load as load_recall
from reco_ray.slate import RankStage
from reco_ray.types import Request
from reco_ray.workflow.graph import Output, Work, run_all
from reco_ray.workflow.snapshots import assemble_snapshot, label_rows, user_rows
from reco_ray.workflow.steps import STEPS

app = typer.Typer(add_completion=False, help=__doc__)
console = Console(width=None if sys.stdout.isatty() else 150)

K = 10
_NAMES = {"movielens": "movielens", "completejourney": "retail"}  # of the checks
_BATCH = 64
_ORDERS = ("recall", "xgboost", "neural", "hybrid")
SEQUENTIAL = ["recall=alone", "recall.quotas.repeat=0", "rank=none"]
_ALONE = "sequential alone"
Floats = NDArray[np.float64]
Ways = Iterable[tuple[str, Callable[[], list[NDArray[np.int32]]]]]
"""Names of ways to order, and what makes the best rows of each user by it."""


@dataclass(frozen=True, slots=True, eq=False)
class Tested:
    """Some test users, what they ask as of the end of the part before, and the rows that they took; each as many."""

    users: pl.Series
    requests: list[Request]
    relevant: list[NDArray[np.int32]]


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """The test users of one seed: what recall found for them, and what they took.

    Attributes:
        users: ids of the source, shape (U,). relevant: rows that each took.
        lists: best rows by recall source, by ``recall`` and by each of the release's rankers, K or fewer.
        candidates: rows found for each. matrix: of all of them, one user after the other.
    """

    users: list[str]
    relevant: list[NDArray[np.int32]]
    lists: dict[str, list[NDArray[np.int32]]]
    candidates: list[NDArray[np.int32]]
    matrix: NDArray[np.float32]


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="The result as JSON.")],
    datasets: Annotated[str, typer.Option(help=f"Of {', '.join(_NAMES)}.")] = "movielens,completejourney",
    seeds: str = "7,8,9",
    root: Annotated[Path | None, typer.Option(help="Keeps what the pipeline makes; without one it is made anew.")] = None,
    override: Annotated[list[str] | None, typer.Option(help="Of the configuration, key=value.")] = None,
    parts: Annotated[str, typer.Option(help="Beside the rankers; empty leaves them out.")] = "again,alone",
) -> None:
    """Measure and write; what is done is written at once."""
    given = override or ["recall=wide"]
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="rank-quality-", ignore_cleanup_errors=True) as scratch:
        for dataset in datasets.split(","):
            by_seed: dict[int, dict[str, Any]] = {}
            for seed in map(int, seeds.split(",")):
                home = (root or Path(scratch)) / f"{dataset}-{seed}"
                fixed = [f"source={dataset}", f"seed={seed}", f"root={home}"]
                configs = compose_config([*fixed, "rank=hybrid", *given]), compose_config([*fixed, *SEQUENTIAL])
                for by_seed[seed] in _measure(*configs, home / f"quality-{digest(*given)}.json", parts.split(",")):
                    found[dataset] = _together(by_seed)
                    _write(out, {"k": K, "overrides": given, "load": os.getloadavg(), "datasets": found})
            _show(dataset, found[dataset])


def _measure(config: PipelineConfig, sequential: PipelineConfig, kept: Path, parts: list[str]) -> Iterator[dict[str, Any]]:
    """NDCG@10 of each user by each way to order, of one seed; again with each that was added.

    Args:
        sequential: of a release of the next-item model alone.
        kept: file of what was measured before, and is not measured again.
    """
    measured: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {"parts": []}
    if "ndcg" in measured:
        yield measured
    if not set(parts) - {"", *measured["parts"]} and "ndcg" in measured:
        return
    with ray_session(config.cluster):
        outputs = run_all(STEPS, config, upto="train_neural_ranker")
    with tempfile.TemporaryDirectory(prefix="stages-") as folder:
        asked = _ask(config, outputs, Path(folder))
    facts, heavy = outputs["train_ranker"].facts, outputs["train_neural_ranker"]
    if "ndcg" not in measured:
        measured |= {
            "users": asked.users,
            "ndcg": {name: ndcg_at_k(lists, asked.relevant, K).tolist() for name, lists in asked.lists.items()},
            "trained": {name: facts[name] for name in ("rows", "groups", "rounds", "valid_ndcg10")}
            | {"neural_s": heavy.seconds, "neural_epochs": heavy.facts["epochs"]},
            "sources": [name for name in asked.lists if name not in _ORDERS],
        }
        kept.write_text(json.dumps(measured))
        yield measured

    of_parts: dict[str, Callable[[], Ways]] = {
        "again": lambda: _trained_again(config, outputs, asked),
        "alone": lambda: [(_ALONE, partial(_alone, sequential))],
    }
    for part in filter(None, parts):
        for name, lists in of_parts[part]():
            if name not in measured["ndcg"]:
                measured["ndcg"][name] = ndcg_at_k(lists(), asked.relevant, K).tolist()
                kept.write_text(json.dumps(measured))
                yield measured
        measured["parts"] = sorted({*measured["parts"], part})
        kept.write_text(json.dumps(measured))


def tested(config: PipelineConfig, outputs: dict[str, Output], recall: Recall) -> Iterator[Tested]:
    """The test users, some at a time."""
    features = outputs["build_features"]
    rows = tested_users(user_rows(config, features, "eval"), label_rows(config, features, "test"))
    for part in rows.iter_slices(_BATCH):
        said = part.to_dicts()
        relevant = [relevant_rows(recall.catalogue, row["relevant"]).astype(np.int32) for row in said]
        yield Tested(part["user_id"], [past_request(row, K) for row in said], relevant)


def _ask(config: PipelineConfig, outputs: dict[str, Output], folder: Path) -> Asked:
    assemble_snapshot(Work(config, outputs, "", folder), "eval", folder)
    recall, ranker = load_recall(folder), load_rank(folder)
    assert isinstance(ranker, HybridRanker)
    rankers: dict[str, RankStage] = {"xgboost": ranker.light, "neural": ranker.heavy, "hybrid": ranker}
    lists: dict[str, list[NDArray[np.int32]]] = {name: [] for name in (*recall.sources, "recall", *rankers)}
    relevant: list[NDArray[np.int32]] = []
    found: list[NDArray[np.int32]] = []
    users, matrices = [], []
    for part in tested(config, outputs, recall):
        users.append(part.users)
        candidates = recall.recall(part.requests)
        relevant.extend(part.relevant)
        for name in recall.sources:
            lists[name].extend(item_idx.astype(np.int32) for item_idx, _ in recall.alone(name, part.requests, K))
        lists["recall"].extend(c.item_idx[:K] for c in candidates)
        for name, each in rankers.items():
            scores = each.score(part.requests, candidates)
            lists[name].extend(best(c.item_idx, s) for c, s in zip(candidates, scores, strict=True))
        found.extend(c.item_idx for c in candidates)
        matrices += [ranker.features.matrix(r, c) for r, c in zip(part.requests, candidates, strict=True)]
    return Asked(source_ids(config, pl.concat(users)), relevant, lists, found, np.concatenate(matrices))


def _alone(config: PipelineConfig) -> list[NDArray[np.int32]]:
    """Best rows of each user by a release without a ranker; its catalogue is that of the others."""
    with ray_session(config.cluster):
        outputs = run_all(STEPS, config, upto="train_embeddings")
    with tempfile.TemporaryDirectory(prefix="stages-") as name:
        folder = Path(name)
        assemble_snapshot(Work(config, outputs, "", folder), "eval", folder)
        recall = load_recall(folder)
    return [c.item_idx[:K] for part in tested(config, outputs, recall) for c in recall.recall(part.requests)]


def source_ids(config: PipelineConfig, users: pl.Series) -> list[str]:
    """The ids before they were permuted, which differs by seed."""
    events = sources.open_source(config.source).events
    assert isinstance(events, pl.DataFrame)
    old = events.select(pl.col("user_id").cast(pl.String)).unique()
    new = old.select(permuted(pl.col("user_id"), "user", config.source, config.seed))["user_id"]
    return users.replace_strict(new, old["user_id"]).to_list()


def _trained_again(config: PipelineConfig, outputs: dict[str, Output], asked: Asked) -> Ways:
    """Names of rankers that are trained again, as the release's was but for the named, and what makes one's best rows."""
    made = outputs["build_training_set"]
    columns: list[str] = json.loads((made.folder() / "ranker_columns.json").read_text())
    rows = tables.read(config.root, TABLE, where=pl.col("snapshot") == made.key)
    rows = rows.sort("user_bucket", "user_id", "group_id", "place").filter((pl.col("label") > 0).any().over("group_id"))
    x = np.asarray(rows["features"].list.to_array(len(columns)).to_numpy(), np.float32)
    held_out, label, group = rows["held_out"].to_numpy(), rows["label"].to_numpy(), rows["group_id"].rle_id().to_numpy()
    params = parameters(config.rank, config.seed) | {"nthread": os.cpu_count()}
    ends = np.cumsum([c.size for c in asked.candidates])[:-1]

    def lists(kept: NDArray[np.int64], **changed: bool) -> list[NDArray[np.int32]]:
        train, valid = (xgboost.QuantileDMatrix(x[of][:, kept], label=label[of], qid=group[of]) for of in (~held_out, held_out))
        model = fit_rounds(params | changed, train, valid, config.rank.rounds, 0, None, lambda *_: None)
        scores = model.inplace_predict(np.ascontiguousarray(asked.matrix[:, kept]))
        return [best(c, s) for c, s in zip(asked.candidates, np.split(scores, ends), strict=True)]

    varies = np.nan_to_num(x, nan=-1e30).max(axis=0) > np.nan_to_num(x, nan=-1e30).min(axis=0)
    groups = np.array([group_of(name) for name in columns])
    everything = np.arange(len(columns))
    yield "all columns", partial(lists, everything)
    yield "unbiased", partial(lists, everything, lambdarank_unbiased=True)
    for name in dict.fromkeys(groups[varies].tolist()):
        yield f"without {name}", partial(lists, everything[groups != name])
    yield "recall evidence only", partial(lists, everything[groups == "recall evidence"])


def group_of(column: str) -> str:
    """What a column of the ranker is about."""
    for name, view in (("item", ITEM_COLUMNS), ("user", USER_COLUMNS), ("context", CONTEXT_COLUMNS)):
        if column in [c.name for c in view]:
            return name
    if column.startswith("had_"):
        return "what the user has had"
    return "recall evidence" if column == "recall_place" or column.endswith(("_inverse_rank", "_score")) else "user x item"


def best(rows: NDArray[np.int32], scores: NDArray[np.float32]) -> NDArray[np.int32]:
    """The K rows of the highest scores."""
    return rows[np.argsort(-scores, kind="stable")[:K]]


def _together(by_seed: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds of the users that all of them tested, with intervals over users."""
    users = sorted(set.intersection(*(set(one["users"]) for one in by_seed.values())))
    seed, first = next(iter(by_seed.items()))
    places = {s: [one["users"].index(user) for user in users] for s, one in by_seed.items()}
    names = [name for name in first["ndcg"] if all(name in one["ndcg"] for one in by_seed.values())]
    ndcg = {name: np.mean([np.array(one["ndcg"][name])[places[s]] for s, one in by_seed.items()], axis=0) for name in names}
    single = max(first["sources"], key=lambda name: float(ndcg[name].mean()))
    baseline = max((single, "recall"), key=lambda name: float(ndcg[name].mean()))
    pairs = [("xgboost", baseline), ("xgboost", "popular"), ("recall", single)]
    pairs += [("neural", "recall"), ("neural", "xgboost"), ("hybrid", "xgboost"), ("hybrid", "neural")]
    pairs += [("xgboost", _ALONE)]
    pairs += [
        (name, "all columns") for name in ndcg if name.startswith("without") or name in ("unbiased", "recall evidence only")
    ]

    def interval(values: Floats) -> dict[str, float]:
        found = confidence_interval(values, seed)
        return {"ndcg10": round(found.mean, 5), "low": round(found.low, 5), "high": round(found.high, 5)}

    def difference(a: str, b: str) -> dict[str, Any]:
        found = paired_difference(ndcg[a], ndcg[b], seed)
        return {"of": a, "to": b, "ndcg10": round(found.mean, 5), "low": round(found.low, 5), "high": round(found.high, 5)}

    return {
        "seeds": list(by_seed),
        "users": len(users),
        "best_source": single,
        "baseline": baseline,
        "ratio": float(ndcg["xgboost"].mean() / ndcg[baseline].mean()),
        "trained": [one["trained"] for one in by_seed.values()],
        "ndcg10": {name: interval(values) for name, values in ndcg.items()},
        "by_seed": {name: [float(np.mean(one["ndcg"][name])) for one in by_seed.values()] for name in ndcg},
        "differences": [difference(a, b) for a, b in pairs if a in ndcg and b in ndcg],
    }


def _write(out: Path, found: dict[str, Any]) -> None:
    checks = [
        {"name": f"xgb_vs_recall_ndcg10_{_NAMES[dataset]}", "value": round(one["ratio"], 4), "unit": "ratio"}
        for dataset, one in found["datasets"].items()
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"checks": checks, **found}, indent=1))


def _show(dataset: str, found: dict[str, Any]) -> None:
    title = f"{dataset}: {found['users']} users, seeds {found['seeds']}, best source {found['best_source']}"
    table = Table("order", "NDCG@10", "low", "high", title=title)
    for name, row in found["ndcg10"].items():
        table.add_row(name, *(f"{row[each]:.4f}" for each in ("ndcg10", "low", "high")))
    for row in found["differences"]:
        table.add_row(f"{row['of']} - {row['to']}", *(f"{row[each]:+.4f}" for each in ("ndcg10", "low", "high")))
    console.print(table)
    console.print(f"ratio to {found['baseline']}: {found['ratio']:.4f}")


if __name__ == "__main__":
    app()
