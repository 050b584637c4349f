"""The mf source: item factors of a matrix factorisation; a user's are solved for at the request, from the history.

`training.factors` fits the factors; a history that it never saw is folded in by the same ridge problem, which is one solve of a
small system in NumPy.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from reco_ray.arrays import lookup
from reco_ray.config import RecallConfig
from reco_ray.errors import ArtifactError
from reco_ray.features import Catalogue
from reco_ray.recall.index import Probe, Report, VectorIndex, nearest
from reco_ray.recall.query import Hits, Query

__all__ = ["INDEX", "MfSource", "fold_in", "load_factors", "save_factors"]

INDEX = "mf"
_FILE = "mf.safetensors"
_KEYS = "mf_keys.npy"


def fold_in(
    factors: NDArray[np.float32], strengths: NDArray[np.float32], ridge: NDArray[np.float32], alpha: float
) -> NDArray[np.float32]:
    """Factors of a user with this history, shape (d,): the least squares that training solves for each user.

    Args:
        factors: of the history's items, shape (h, d). strengths: of its events, shape (h,).
        ridge: Y'Y + regularization x I over the factors Y of all items, shape (d, d).
    Reference: Hu, Koren and Volinsky 2008, equation 4.
    """
    weighted = factors * (alpha * strengths)[:, None]
    return np.asarray(np.linalg.solve(ridge + weighted.T @ factors, (factors + weighted).sum(axis=0)), np.float32)


def save_factors(
    folder: Path, factors: NDArray[np.float32], keys: NDArray[np.uint64], alpha: float, regularization: float
) -> None:
    """Write fitted factors, the item keys of their rows, ascending, and what `fold_in` needs.

    They are brought to a mean length of 1, which changes no score (the ridge goes along), as the index expects lengths near 1.
    """
    known = np.linalg.norm(factors, axis=1)
    scale = np.float32(1 / max(float(known[known > 0].mean()), 1e-12)) if (known > 0).any() else np.float32(1)
    factors = factors * scale
    ridge = factors.T @ factors + np.float32(regularization) * scale**2 * np.eye(factors.shape[1], dtype=np.float32)
    save_file({"factors": factors, "ridge": ridge, "alpha": np.array([alpha], np.float32)}, str(folder / _FILE))
    np.save(folder / _KEYS, keys)


def load_factors(folder: Path) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.uint64]]:
    """Read what `save_factors` wrote: factors, ridge, alpha (1,); and the keys.

    Raises: ArtifactError: the files are not there.
    """
    return _load(folder), np.load(folder / _KEYS, allow_pickle=False)


def _load(folder: Path) -> dict[str, NDArray[np.float32]]:
    if not (folder / _FILE).is_file():
        raise ArtifactError(f"{folder}: found no {_FILE}, expected fitted factors; run train_embeddings")
    return load_file(str(folder / _FILE))


class MfSource:
    """Items with the largest inner product with the user's factors; of an item that nobody had it knows nothing.

    Args:
        ridge, alpha: of `fold_in`. index: over the factors of the catalogue's items, in its order.
    """

    def __init__(self, ridge: NDArray[np.float32], alpha: float, index: VectorIndex) -> None:
        self._ridge, self._alpha, self._index = ridge, alpha, index
        self._probe: Probe | None = None
        self._known = np.asarray(index.vectors.any(axis=1), np.bool_)

    @classmethod
    def build(cls, models: Path, catalogue: Catalogue, config: RecallConfig) -> "MfSource":
        """Line the factors up with the catalogue and index them."""
        fitted, keys = load_factors(models)
        at = lookup(keys, catalogue.keys)
        factors = np.where(at[:, None] >= 0, fitted["factors"][at], np.float32(0))
        index = VectorIndex.build(factors, config.exact_below, config.recall_target)
        return cls(fitted["ridge"], float(fitted["alpha"][0]), index)

    def save(self, folder: Path) -> None:
        """Write the index and what `fold_in` needs into a release's folder."""
        save_file({"ridge": self._ridge, "alpha": np.array([self._alpha], np.float32)}, str(folder / _FILE))
        self._index.save(folder, INDEX)

    @classmethod
    def load(cls, folder: Path) -> "MfSource":
        """Read what `save` wrote."""
        fitted = _load(folder)
        return cls(fitted["ridge"], float(fitted["alpha"][0]), VectorIndex.load(folder, INDEX))

    def watch(self, report: Report) -> None:
        """Contract of `query.Watched`."""
        self._probe = Probe(self._index, report)

    def recall(self, queries: list[Query], k: int) -> list[Hits]:
        """Search once for all queries of whose history it knows some; contract of `query.Source`."""
        out: list[Hits] = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
        points = [(i, point) for i, query in enumerate(queries) if (point := self._point(query)) is not None]
        if points:
            asked = [queries[i] for i, _ in points]
            found = nearest(self._index, np.stack([point for _, point in points]), asked, k, self._probe)
            for (i, _), (rows, scores) in zip(points, found, strict=True):
                known = self._known[rows]
                out[i] = rows[known], scores[known]
        return out

    def _point(self, query: Query) -> NDArray[np.float32] | None:
        known = query.history < self._known.size
        known[known] = self._known[query.history[known]]
        if not known.any():
            return None
        rows, at = np.unique(query.history[known], return_inverse=True)  # what was had twice counts once, with both strengths
        strengths = np.bincount(at, query.weights[known]).astype(np.float32)
        return fold_in(self._index.vectors[rows], strengths, self._ridge, self._alpha)
