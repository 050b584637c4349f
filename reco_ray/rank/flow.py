"""Build the ranker's training set by Ray Data: for each user the candidates that recall really returns, labelled by what came.

A group is one user at the cut between the fit and the rank part: features as of the cut, labels from after it, the context of
the first of these. A fifth of the groups goes without a context, so that the model knows requests without one.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import ray

from reco_ray.features import Vocabulary, past_request
from reco_ray.hashing import unit_interval
from reco_ray.lake import storage
from reco_ray.rank.stage import rank_features
from reco_ray.recall import load as load_recall
from reco_ray.types import Request

__all__ = ["build_training_set"]

_USERS_PER_BATCH = 64
_WITHOUT_CONTEXT = 0.2


def build_training_set(
    folder: str, users: pl.DataFrame, labels: pl.DataFrame, vocabulary: Vocabulary
) -> tuple[pl.DataFrame, list[str]]:
    """Return rows (user_id, item_id, label, features) and the names of the features.

    Args:
        folder: with the recall stage of the fit snapshot; a folder or URI that every node can read.
        users: rows of the user view of that snapshot.
        labels: rows of `schema.LABELS` of the rank part.
        vocabulary: of the context view.
    """
    joined = users.join(labels, on="user_id").sort("user_id")
    dataset = ray.data.from_arrow(joined.to_arrow()).repartition(max(1, joined.height // _USERS_PER_BATCH))
    rows = dataset.map_batches(
        _Candidates,
        fn_constructor_kwargs={"folder": folder, "vocabulary": vocabulary},
        batch_size=_USERS_PER_BATCH,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=2),
        num_cpus=0.5,
    )
    frame = pl.concat([pl.DataFrame(b) for b in rows.iter_batches(batch_size=None, batch_format="pyarrow") if b.num_rows])
    return frame.sort("user_id", "place"), rank_features(storage.fetch(folder)).columns


def training_request(row: Mapping[str, Any]) -> Request:
    """The request of a group, for a fifth of the users without its context; the same ones each time.

    Args:
        row: as `features.past_request` takes it.
    """
    request = past_request(row)
    if unit_interval(request.user_id, "without_context") < _WITHOUT_CONTEXT:
        return replace(request, at_us=0, context={}, surface="")
    return request


class _Candidates:
    """Loaded once per actor: recalls for users and makes the ranker's features."""

    def __init__(self, folder: str, vocabulary: Vocabulary) -> None:
        local = storage.fetch(folder)
        self._recall, self._features = load_recall(local), rank_features(local, vocabulary)

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.to_pylist()
        requests = [training_request(row) for row in rows]
        frames = []
        for row, request, candidates in zip(rows, requests, self._recall.recall(requests), strict=True):
            grades = dict(zip(row["item_ids"], row["grades"], strict=True))
            item_ids = [self._recall.catalogue.item_ids[i] for i in candidates.item_idx]
            label = [_label(grades.get(item_id, 0.0)) for item_id in item_ids]
            matrix = self._features.matrix(request, candidates)
            frames.append(
                pl.DataFrame(
                    {
                        "user_id": [row["user_id"]] * len(item_ids),
                        "place": np.arange(len(item_ids), dtype=np.int32),
                        "item_id": item_ids,
                        "label": np.array(label, np.int32),
                        "features": pl.Series(matrix, dtype=pl.Array(pl.Float32, matrix.shape[1])).arr.to_list(),
                    }
                )
            )
        return pl.concat(frames).to_arrow()


def _label(grade: float) -> int:
    """Bin an event's strength to a small grade: nothing or disliked 0, viewed 1, carted 2, bought or liked 3."""
    return 0 if grade < 0.5 else 1 if grade < 0.7 else 2 if grade < 1.0 else 3
