"""The sequential source: what a self-attentive model says comes after the history and the session.

`recall.trainer` fits the weights with torch (`training.sequence_model`); here the same forward pass stands in NumPy for one
history, of the last block only the newest place. A test holds the two equal.
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

__all__ = ["INDEX", "SequentialSource", "load_model", "load_weights", "next_vector", "save_model", "unit_vectors"]

Weights = dict[str, NDArray[np.float32]]

INDEX = "sequential"
_FILE = "sequential.safetensors"
_KEYS = "sequential_keys.npy"


def next_vector(weights: Weights, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Unit vector of what comes next, shape (d,).

    Args:
        rows: table rows of the history, oldest first, at least one; older ones than the model sees are left out.
    """
    rows = rows[-weights["blocks.0.lag_bias"].shape[1] :]
    table = weights["item.weight"]
    x = table[rows] * np.float32(table.shape[1] ** 0.5)
    layers = sum(name.endswith(".lag_bias") for name in weights)
    for layer in range(layers):
        prefix = f"blocks.{layer}."
        block = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
        x = _block(block, x, newest_only=layer == layers - 1)
    return unit_vectors(_norm(x[-1], weights["norm.weight"], weights["norm.bias"]))


def _block(w: Weights, x: NDArray[np.float32], newest_only: bool) -> NDArray[np.float32]:
    n, d = x.shape
    heads, kernel = w["lag_bias"].shape[0], w["recent"].shape[0]
    h = _norm(x, w["before.weight"], w["before.bias"])
    asking = np.arange(n - 1 if newest_only else 0, n)
    weights, biases = np.split(w["qkv.weight"], 3), np.split(w["qkv.bias"], 3)
    q, k, v = (
        _linear(of, weight, bias).reshape(of.shape[0], heads, -1).transpose(1, 0, 2)
        for of, weight, bias in zip((h[asking], h, h), weights, biases, strict=True)
    )
    lag = asking[:, None] - np.arange(n)[None, :]
    logits = q @ k.transpose(0, 2, 1) / np.float32((d // heads) ** 0.5) + w["lag_bias"][:, np.maximum(lag, 0)]
    logits = np.where(lag >= 0, logits, -np.inf)
    share = np.exp(logits - logits.max(axis=-1, keepdims=True))
    share /= share.sum(axis=-1, keepdims=True)
    mixed = _linear((share @ v).transpose(1, 0, 2).reshape(asking.size, d), w["attended.weight"], w["attended.bias"])
    past = np.concatenate([np.zeros((kernel - 1, d), np.float32), h])
    for back in range(kernel):
        mixed = mixed + past[asking + kernel - 1 - back] * w["recent"][back]
    x = x[asking] + mixed
    wide = _linear(_norm(x, w["between.weight"], w["between.bias"]), w["wide.weight"], w["wide.bias"])
    return np.asarray(x + _linear(_gelu(wide), w["narrow.weight"], w["narrow.bias"]), np.float32)


def _linear(x: NDArray[np.float32], weight: NDArray[np.float32], bias: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(x @ weight.T + bias, np.float32)


def _norm(x: NDArray[np.float32], weight: NDArray[np.float32], bias: NDArray[np.float32]) -> NDArray[np.float32]:
    centred = x - x.mean(axis=-1, keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5) * weight + bias, np.float32)


def _gelu(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The tanh form, which NumPy has the functions for; training uses the same."""
    return np.asarray(0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x**3))), np.float32)


def unit_vectors(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1; rows of zeros stay."""
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12), np.float32)


def save_model(folder: Path, weights: Weights, keys: NDArray[np.uint64]) -> None:
    """Write trained weights, and the keys of the items that rows 1 and up of their item table stand for, ascending."""
    _save_weights(folder, weights)
    np.save(folder / _KEYS, keys)


def load_model(folder: Path) -> tuple[Weights, NDArray[np.uint64]]:
    """Read what `save_model` wrote.

    Raises: ArtifactError: the files are not there.
    """
    return load_weights(folder), np.load(folder / _KEYS, allow_pickle=False)


def _save_weights(folder: Path, weights: Weights) -> None:
    save_file({name: np.ascontiguousarray(w) for name, w in sorted(weights.items())}, str(folder / _FILE))


def load_weights(folder: Path) -> Weights:
    """The weights alone, of a model or of a release; raises as `load_model`."""
    if not (folder / _FILE).is_file():
        raise ArtifactError(f"{folder}: found no {_FILE}, expected a trained next-item model; run train_embeddings")
    return load_file(str(folder / _FILE))


class SequentialSource:
    """Items whose vectors are nearest to what the model says comes next; of an item never seen in training it knows nothing.

    Args:
        weights: of the model, whose item table stands in the order of the catalogue: row = item_idx + 1.
            An item that it never learnt has zeros.
        index: over the unit vectors of the catalogue's items, in its order.
    """

    def __init__(self, weights: Weights, index: VectorIndex) -> None:
        self._weights, self._index = weights, index
        self._probe: Probe | None = None
        self._known = np.asarray(weights["item.weight"].any(axis=1), np.bool_)

    @classmethod
    def build(cls, models: Path, catalogue: Catalogue, config: RecallConfig) -> "SequentialSource":
        """Line the trained item table up with the catalogue and index it."""
        weights, keys = load_model(models)
        rows = lookup(keys, catalogue.keys) + 1
        table = weights["item.weight"][np.concatenate([[0], rows])]
        index = VectorIndex.build(unit_vectors(table[1:]), config.exact_below, config.recall_target)
        return cls(weights | {"item.weight": table}, index)

    def save(self, folder: Path) -> None:
        """Write weights and index into a release's folder."""
        _save_weights(folder, self._weights)
        self._index.save(folder, INDEX)

    @classmethod
    def load(cls, folder: Path) -> "SequentialSource":
        """Read what `save` wrote."""
        return cls(load_weights(folder), VectorIndex.load(folder, INDEX))

    def watch(self, report: Report) -> None:
        """Contract of `query.Watched`."""
        self._probe = Probe(self._index, report)

    def put(self, catalogue: Catalogue, growth: Growth) -> None:
        """Contract of `query.Live`; new items have nothing that it goes by."""
        put_back(self._index, growth.put)

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Contract of `query.Live`."""
        self._index.remove(rows)

    def recall(self, queries: list[Query], k: int) -> list[Hits]:
        """Search once for all personal queries of whose history the model knows some; contract of `query.Source`."""
        empty: Hits = (np.empty(0, np.int64), np.empty(0, np.float32))
        histories = [self._table_rows(query) for query in queries]
        known = [i for i, rows in enumerate(histories) if rows.size]
        out = [empty] * len(queries)
        if known:
            users = np.stack([next_vector(self._weights, histories[i]) for i in known])
            for i, hits in zip(known, nearest(self._index, users, [queries[i] for i in known], k, self._probe), strict=True):
                told = self._known[hits[0] + 1]
                out[i] = hits[0][told], hits[1][told]
        return out

    def _table_rows(self, query: Query) -> NDArray[np.int64]:
        if query.similar_to is not None:
            return np.empty(0, np.int64)
        rows = query.history + 1
        rows = rows[rows < self._known.size]
        return rows[self._known[rows]]
