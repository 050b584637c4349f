"""Build the ranker's training set by Ray Data: groups of candidates as recall brings them, labelled by what came.

A group is either one user at the cut between the fit and the rank part, with all that recall returns, or one exposure of the
rank part, with what was shown, in that order. Features are as of the cut, labels from after it, the context is that of the
exposure or of the first label. A fifth of the users goes without a context, so that the model knows requests without one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import ray
from numpy.typing import NDArray

from reco_ray.arrays import best_first
from reco_ray.features import Vocabulary, past_request
from reco_ray.hashing import unit_interval, user_bucket
from reco_ray.lake import storage
from reco_ray.rank.features import RankFeatures
from reco_ray.rank.stage import rank_features
from reco_ray.recall import load as load_recall
from reco_ray.types import Candidates, Request

__all__ = ["build_training_set"]

_GROUPS_PER_BATCH = 64
_WITHOUT_CONTEXT = 0.2


def build_training_set(
    folder: str, users: pl.DataFrame, groups: pl.DataFrame, vocabulary: Vocabulary
) -> tuple[Iterator[pa.Table], list[str]]:
    """Return the rows in order of user bucket, user, group and place, as they are made, and the names of the features.

    Args:
        folder: with the recall stage of the fit snapshot; a folder or URI that every node can read.
        users: rows of the user view of that snapshot.
        groups: of `groups_of_users` or `groups_of_exposures`, with columns held_out and weight.
        vocabulary: of the context view.
    """
    buckets = pl.DataFrame({"user_id": users["user_id"], "user_bucket": map(user_bucket, users["user_id"])})
    joined = users.join(buckets, on="user_id").join(groups, on="user_id").sort("user_bucket", "user_id", "group_id")
    dataset = ray.data.from_arrow(joined.to_arrow()).repartition(max(1, joined.height // _GROUPS_PER_BATCH))
    rows = dataset.map_batches(
        _Candidates,
        fn_constructor_kwargs={"folder": folder, "vocabulary": vocabulary},
        batch_size=_GROUPS_PER_BATCH,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=2),
        num_cpus=0.5,
    )
    rows.context.execution_options.preserve_order = True
    batches = (b for b in rows.iter_batches(batch_size=None, batch_format="pyarrow") if b.num_rows)
    return batches, rank_features(storage.fetch(folder)).columns


def training_request(row: Mapping[str, Any]) -> Request:
    """The request of a group, for a fifth of the users without its context; the same ones each time.

    Args:
        row: as `features.past_request` takes it.
    """
    request = past_request(row)
    if unit_interval(request.user_id, "without_context") < _WITHOUT_CONTEXT:
        return replace(request, at_us=0, context={}, surface="")
    return request


def evidence(features: RankFeatures, request: Request, shown: Candidates) -> NDArray[np.float32]:
    """The matrix of items that were shown, in their order, in which nothing tells that order: a click may come of the place.

    Args:
        shown: what `Recall.recall` says of items of the caller's own.
    """
    fused = features.fused(shown)
    order = best_first(fused, features.catalogue.keys[shown.item_idx])  # ties as `recall.merge` breaks them
    columns = ("item_idx", "sources", "source_ranks", "source_scores")
    merged = replace(shown, scores=fused[order], **{name: getattr(shown, name)[order] for name in columns})
    matrix = np.empty((len(shown), len(features.columns)), np.float32)
    matrix[order] = features.matrix(replace(request, items=(), item_scores=np.empty(0, np.float32)), merged)
    return matrix


class _Candidates:
    """Loaded once per actor: recalls for users and makes the ranker's features."""

    def __init__(self, folder: str, vocabulary: Vocabulary) -> None:
        local = storage.fetch(folder)
        self._recall, self._features = load_recall(local), rank_features(local, vocabulary)

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.to_pylist()
        requests = [self._request(row) for row in rows]
        made = [self._rows(*each) for each in zip(rows, requests, self._recall.recall(requests), strict=True)]
        return pl.concat(made).to_arrow()

    def _request(self, row: Mapping[str, Any]) -> Request:
        request = training_request(row)
        if not row["shown"]:
            return request
        items = tuple(row["item_ids"])
        return replace(request, items=items, item_scores=np.full(len(items), np.nan, np.float32), k=len(items))

    def _rows(self, row: Mapping[str, Any], request: Request, candidates: Candidates) -> pl.DataFrame:
        grades = dict(zip(row["item_ids"], row["grades"], strict=True))
        item_ids = [self._recall.catalogue.item_ids[i] for i in candidates.item_idx]
        matrix = (evidence if row["shown"] else RankFeatures.matrix)(self._features, request, candidates)
        n = len(item_ids)
        return pl.DataFrame(
            {
                "group_id": [row["group_id"]] * n,
                "user_id": [row["user_id"]] * n,
                "user_bucket": np.full(n, row["user_bucket"], np.int32),
                "held_out": np.full(n, row["held_out"], np.bool_),
                "weight": np.full(n, row["weight"], np.float32),
                "place": np.arange(n, dtype=np.int32),
                "item_id": pl.Series(item_ids, dtype=pl.String),
                "label": np.array([_label(grades.get(item_id, 0.0)) for item_id in item_ids], np.int32),
                "features": pl.Series(matrix, dtype=pl.Array(pl.Float32, matrix.shape[1])).arr.to_list(),
            },
            schema_overrides={"group_id": pl.String, "user_id": pl.String},
        )


def _label(grade: float) -> int:
    """Bin an event's strength to a small grade: nothing or disliked 0, viewed 1, carted 2, bought or liked 3."""
    return 0 if grade < 0.5 else 1 if grade < 0.7 else 2 if grade < 1.0 else 3
