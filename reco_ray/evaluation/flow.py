"""Run every stage over the test users by Ray Data: the same stage code that answers HTTP requests."""

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import ray
from numpy.typing import NDArray

from reco_ray.config import Diversify
from reco_ray.evaluation.lists import StageLists
from reco_ray.evaluation.slices import auc
from reco_ray.evaluation.variety import PLACES
from reco_ray.features import Catalogue, past_request
from reco_ray.hashing import hash64
from reco_ray.lake import storage
from reco_ray.recall import load as load_recall
from reco_ray.rerank import Rerank
from reco_ray.slate import load_rank, load_rerank

__all__ = ["relevant_rows", "run_stages", "tested_users"]

_DEPTH = 500  # of the candidate lists kept for the recall curve
_LIST = 50  # of the ranked lists


def run_stages(folder: str, users: pl.DataFrame, labels: pl.DataFrame, seed: int, k: int) -> StageLists:
    """Answer for every user that has a positive in the test part, at the first of its labels.

    Args:
        folder: stages assembled from the snapshot before the test part; a folder or URI that every node can read.
        users: rows of the user view of that snapshot. labels: rows of `schema.LABELS` of the test part.
    """
    joined = tested_users(users, labels)
    dataset = ray.data.from_arrow(joined.to_arrow()).repartition(max(1, joined.height // 64))
    answered = dataset.map_batches(
        _Stages,
        fn_constructor_kwargs={"folder": folder, "seed": seed, "k": k},
        batch_size=64,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=2),
        num_cpus=0.5,
    )
    frame = pl.concat([pl.DataFrame(b) for b in answered.iter_batches(batch_size=None, batch_format="pyarrow") if b.num_rows])
    frame = frame.sort("user_id")

    def column(name: str) -> list[NDArray[np.int32]]:
        return [np.asarray(rows, np.int32) for rows in frame[name].to_list()]

    scored = {n.removeprefix("auc:"): frame[n].to_numpy().astype(np.float64) for n in frame.columns if n.startswith("auc:")}
    history = frame["history_size"].to_numpy().astype(np.int64)
    frame = frame.drop("history_size", *(name for name in frame.columns if name.startswith("auc:")))
    # a source that answered nobody has nothing to show
    frame = frame.select(name for name in frame.columns if name == "user_id" or frame[name].list.len().sum() > 0)
    lists = {name.removeprefix("list:"): column(name) for name in frame.columns if name.startswith("list:")}
    candidates = {name.removeprefix("candidates:"): column(name) for name in frame.columns if name.startswith("candidates:")}
    spread = {_place(name): column(name) for name in frame.columns if name.startswith("spread:")}
    return StageLists(column("relevant"), lists, candidates, history, scored, tuple(frame["user_id"].to_list()), spread)


def _place(name: str) -> tuple[str, float]:
    _, kind, at = name.split(":")
    return kind, float(at)


def tested_users(users: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
    """Rows of the user view that have a positive among the labels, with column relevant, and ts and context of the labels."""
    positive = labels.explode("item_ids", "grades").filter(pl.col("grades") >= 0.5)
    relevant = positive.group_by("user_id", maintain_order=True).agg(pl.col("item_ids").alias("relevant"))
    return users.join(relevant, on="user_id").join(labels.select("user_id", "ts", "context"), on="user_id").sort("user_id")


def relevant_rows(catalogue: Catalogue, item_ids: list[str]) -> NDArray[np.int64]:
    """Rows of items; one outside the snapshot gets a row of its own past its end: nobody can find it, it counts as missed."""
    found = catalogue.find(item_ids)
    unknown = found < 0
    return np.where(unknown, len(catalogue) + np.cumsum(unknown) - 1, found)


class _Stages:
    def __init__(self, folder: str, seed: int, k: int) -> None:
        path = storage.fetch(folder)
        self._recall, self._rank, self._rerank = load_recall(path), load_rank(path), load_rerank(path)
        self._seed, self._k = seed, k
        self._spread: dict[str, Rerank] = {}
        if isinstance(self._rerank, Rerank):
            self._spread["spread:none:0"] = self._rerank.spread(Diversify.mmr, 0.0)
            self._spread |= {f"spread:{kind.name}:{at}": self._rerank.spread(kind, at) for kind, at in PLACES}

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.to_pylist()
        requests = [past_request(row, self._k) for row in rows]
        recall, catalogue = self._recall, self._recall.catalogue
        candidates = recall.recall(requests)
        scores = self._rank.score(requests, candidates)
        slates = self._rerank.arrange(requests, candidates, scores)
        columns: dict[str, list[NDArray[Any]]] = {}
        columns["relevant"] = [relevant_rows(catalogue, r["relevant"]) for r in rows]
        columns["list:random"] = [self._random(r["user_id"], len(catalogue)) for r in rows]
        for name in recall.sources:
            hits = [item_idx for item_idx, _ in recall.alone(name, requests, _DEPTH)]
            columns[f"candidates:{name}"] = hits
            columns[f"list:{name}"] = [h[:_LIST] for h in hits]
        columns["candidates:union"] = [c.item_idx[:_DEPTH] for c in candidates]
        columns["list:recall"] = [c.item_idx[:_LIST] for c in candidates]
        ranked = [c.item_idx[np.argsort(-s, kind="stable")] for c, s in zip(candidates, scores, strict=True)]
        columns["list:recall+rank"] = [r[:_LIST] for r in ranked]
        columns["list:+rerank"] = [catalogue.find(s.item_ids) for s in slates]
        for name, stage in self._spread.items():
            columns[name] = [catalogue.find(s.item_ids) for s in stage.arrange(requests, candidates, scores)]
        wanted = [np.isin(c.item_idx, r) for c, r in zip(candidates, columns["relevant"], strict=True)]
        by_recall = [c.scores for c in candidates]
        single: dict[str, list[Any]] = {
            "user_id": [r["user_id"] for r in rows],
            "history_size": [len(request.user.history) for request in requests],
            **{
                f"auc:{stage}": [auc(s, w) for s, w in zip(of, wanted, strict=True)]
                for stage, of in (("recall", by_recall), ("recall+rank", scores))
            },
        }
        arrays = {name: pa.array([v.tolist() for v in values], pa.list_(pa.int32())) for name, values in columns.items()}
        return pa.table(single | arrays)

    def _random(self, user_id: str, n_items: int) -> NDArray[np.int64]:
        return np.random.default_rng([self._seed, hash64(user_id) % 2**32]).permutation(n_items)[:_LIST]
