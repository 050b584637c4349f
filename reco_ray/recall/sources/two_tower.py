"""The two-tower source: an item tower over id, categories and year; a user tower over the vectors of the history.

`recall.trainer` fits the weights with torch (`training.tower.TwoTower`); here the same forward pass stands in NumPy, because
a replica answers in a tenth of a millisecond with it and needs no torch. A test holds the two equal.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from reco_ray.arrays import lookup
from reco_ray.config import RecallConfig
from reco_ray.errors import ArtifactError
from reco_ray.features import Catalogue, Growth
from reco_ray.recall.index import Probe, Report, VectorIndex, nearest, put_back
from reco_ray.recall.query import Hits, Query

__all__ = ["INDEX", "TwoTowerSource", "embed_items", "embed_new", "embed_users", "item_inputs", "load_weights", "save_weights"]

Weights = dict[str, NDArray[np.float32]]

INDEX = "two_tower"
_FILE = "two_tower.safetensors"
_KEYS = "two_tower_keys.npy"


def item_inputs(catalogue: Catalogue, trained_keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Inputs of the item tower.

    Args:
        trained_keys: keys of the items with a row in the id table, ascending.
    Returns: id row, 0 for an item the model was not trained on, shape (n,); content: categories and year, shape (n, C + 2).
    """
    return lookup(trained_keys, catalogue.keys) + 1, _content(catalogue, np.arange(len(catalogue)))


def _content(catalogue: Catalogue, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    decade = catalogue.column("item_year")[rows, None]
    has_year = (catalogue.years[rows, None] > 0).astype(np.float32)
    return np.concatenate([catalogue.in_category[rows], decade, has_year], axis=1).astype(np.float32)


def embed_items(weights: Weights, id_rows: NDArray[np.int64], content: NDArray[np.float32]) -> NDArray[np.float32]:
    """Item tower: unit vectors, shape (n, d)."""
    x = np.concatenate([weights["item_id.weight"][id_rows], content], axis=1)
    hidden = np.maximum(x @ weights["item_hidden.weight"].T + weights["item_hidden.bias"], 0)
    out = weights["item_id.weight"][id_rows] + hidden @ weights["item_out.weight"].T + weights["item_out.bias"]
    return _unit(out)


def embed_new(weights: Weights, catalogue: Catalogue, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Item tower for rows that the model was not trained on: by their content alone. Unit vectors, shape (m, d)."""
    return embed_items(weights, np.zeros(rows.size, np.int64), _content(catalogue, rows))


def embed_users(
    weights: Weights, vectors: list[NDArray[np.float32]], strengths: list[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """User tower: unit vectors, shape (q, d).

    Args:
        vectors: per user the item vectors of the history, oldest first, shape (h, d), h >= 1.
        strengths: per user the strengths of these events, shape (h,).
    """
    return np.stack([_embed_user(weights, v, s) for v, s in zip(vectors, strengths, strict=True)])


def _embed_user(weights: Weights, vectors: NDArray[np.float32], strengths: NDArray[np.float32]) -> NDArray[np.float32]:
    lag_bias = weights["lag_bias"]
    vectors, strengths = vectors[-lag_bias.size :], strengths[-lag_bias.size :]
    logits = vectors @ weights["attention"] + weights["strength_scale"] * strengths + lag_bias[: strengths.size][::-1]
    share = np.exp(logits - logits.max())
    pooled = (share / share.sum()) @ vectors
    hidden = np.maximum(weights["user_hidden.weight"] @ np.concatenate([pooled, vectors[-1]]) + weights["user_hidden.bias"], 0)
    return _unit(pooled + weights["user_out.weight"] @ hidden + weights["user_out.bias"])


def _unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12), np.float32)


def save_weights(folder: Path, weights: Weights, trained_keys: NDArray[np.uint64]) -> None:
    """Write the weights and the keys of the id table's rows."""
    save_file({name: np.ascontiguousarray(w) for name, w in sorted(weights.items())}, str(folder / _FILE))
    np.save(folder / _KEYS, trained_keys)


def load_weights(folder: Path) -> tuple[Weights, NDArray[np.uint64]]:
    """Read what `save_weights` wrote.

    Raises: ArtifactError: the files are not there.
    """
    if not (folder / _FILE).is_file():
        raise ArtifactError(f"{folder}: found no {_FILE}, expected trained towers; run train_embeddings")
    return load_file(str(folder / _FILE)), np.load(folder / _KEYS, allow_pickle=False)


class TwoTowerSource:
    """Items whose vectors are nearest to the user's.

    Args:
        weights: of both towers. index: over the vectors of the catalogue's items, in its order.
        trained_keys: of the rows of the id table, for who goes on from these weights.
    """

    def __init__(self, weights: Weights, index: VectorIndex, trained_keys: NDArray[np.uint64]) -> None:
        self._weights, self._index, self._released = weights, index, len(index.vectors)
        self._trained_keys = trained_keys
        self._probe: Probe | None = None

    @classmethod
    def build(cls, towers: Path, catalogue: Catalogue, config: RecallConfig) -> "TwoTowerSource":
        """Embed the catalogue with trained towers and index it."""
        weights, trained_keys = load_weights(towers)
        expected = weights["item_hidden.weight"].shape[1] - weights["item_id.weight"].shape[1]
        id_rows, content = item_inputs(catalogue, trained_keys)
        if content.shape[1] != expected:
            raise ArtifactError(
                f"towers take {expected} content columns, the catalogue has {content.shape[1]}: its categories changed; "
                "run train_embeddings again"
            )
        vectors = embed_items(weights, id_rows, content)
        return cls(weights, VectorIndex.build(vectors, config.exact_below, config.recall_target), trained_keys)

    def save(self, folder: Path) -> None:
        """Write weights, vectors and index into a release's folder."""
        save_weights(folder, self._weights, self._trained_keys)
        self._index.save(folder, INDEX)

    @classmethod
    def load(cls, folder: Path) -> "TwoTowerSource":
        """Read what `save` wrote."""
        weights, trained_keys = load_weights(folder)
        return cls(weights, VectorIndex.load(folder, INDEX), trained_keys)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Item vectors by item_idx, shape (n_items, d)."""
        return self._index.vectors

    def watch(self, report: Report) -> None:
        """Contract of `query.Watched`."""
        self._probe = Probe(self._index, report)

    def put(self, catalogue: Catalogue, growth: Growth) -> None:
        """Contract of `query.Live`."""
        put_back(self._index, growth.put[growth.put < self._released])
        new = growth.put[growth.put >= self._released]
        self._index.put(new, embed_new(self._weights, catalogue, new))

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Contract of `query.Live`."""
        self._index.remove(rows)

    def recall(self, queries: list[Query], k: int) -> list[Hits]:
        """Search once for all queries that have a history; contract of `query.Source`."""
        out: list[Hits] = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
        n = len(self._index.vectors)
        known = [i for i, query in enumerate(queries) if (query.history < n).any()]
        points = {i: point for i in known if (point := self._point(queries[i], self._index.vectors)).any()}
        if points:
            asked = [queries[i] for i in points]
            found = nearest(self._index, np.stack(list(points.values())), asked, k, self._probe)
            for i, hits in zip(points, found, strict=True):
                out[i] = hits
        return out

    def _point(self, query: Query, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        if query.similar_to is not None:
            return np.asarray(vectors[query.similar_to])
        known = query.history < len(vectors)
        return _embed_user(self._weights, vectors[query.history[known]], query.weights[known])
