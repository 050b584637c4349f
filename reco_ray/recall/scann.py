"""Nearest vectors by inner product: a ScaNN index for large catalogues, exact search for small ones.

ScaNN's searcher holds rows in our order and we never delete from it here, so its row number is the item_idx.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reco_ray.errors import NotReadyError

__all__ = ["VectorIndex"]

_FOLDER = "scann"


class VectorIndex:
    """Search over the rows of a matrix of vectors, shape (n, d).

    Args:
        vectors: unit length, float32.
        searcher: ScaNN's, or None for exact search.
    """

    def __init__(self, vectors: NDArray[np.float32], searcher: Any = None) -> None:
        self._vectors, self._searcher = vectors, searcher

    @classmethod
    def build(cls, vectors: NDArray[np.float32], exact_below: int) -> "VectorIndex":
        """Index the vectors; below ``exact_below`` of them search is exact.

        About sqrt(n) leaves of which one in four is searched, 2 dimensions per block with anisotropic quantization, and the
        best 4 k rescored exactly.
        Reference: Guo et al. 2020, Accelerating Large-Scale Inference with Anisotropic Vector Quantization.
        """
        n = vectors.shape[0]
        if n < exact_below:
            return cls(vectors)
        leaves = int(np.sqrt(n))
        builder = _scann().builder(vectors, 100, "dot_product")
        builder = builder.tree(
            num_leaves=leaves, num_leaves_to_search=max(1, leaves // 4), training_sample_size=min(n, 250_000)
        )
        searcher = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(400).build()
        return cls(vectors, searcher)

    def save(self, folder: Path) -> None:
        """Write the vectors and the index into a release's folder."""
        np.save(folder / "item_vectors.npy", self._vectors)
        if self._searcher is not None:
            target = folder / _FOLDER
            target.mkdir()
            # absolute here, relative inside: otherwise the index would not load from another place
            self._searcher.serialize(str(target.absolute()), relative_path=True)

    @classmethod
    def load(cls, folder: Path) -> "VectorIndex":
        """Read what `save` wrote.

        Raises: NotReadyError: this CPU cannot run ScaNN.
        """
        vectors = np.load(folder / "item_vectors.npy", allow_pickle=False)
        target = folder / _FOLDER
        return cls(vectors, _scann().load_searcher(str(target.absolute())) if target.is_dir() else None)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """The indexed vectors, shape (n, d)."""
        return self._vectors

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the best ``k`` rows and inner products per query, shapes (q, k); -1 pads short answers."""
        k = min(k, self._vectors.shape[0])
        if self._searcher is None:
            products = queries @ self._vectors.T
            top = np.argpartition(-products, k - 1, axis=1)[:, :k]
            scores = np.take_along_axis(products, top, axis=1)
            order = np.argsort(-scores, axis=1, kind="stable")
            return np.take_along_axis(top, order, axis=1), np.take_along_axis(scores, order, axis=1)
        rows, scores = self._searcher.search_batched(queries, final_num_neighbors=k, pre_reorder_num_neighbors=max(400, 2 * k))
        found = rows.astype(np.int64)
        return np.where(np.isfinite(scores), found, -1), scores


def _scann() -> Any:
    try:
        from scann.scann_ops.py import scann_ops_pybind
    except ImportError as exc:
        raise NotReadyError(
            f"scann cannot be imported ({exc}); expected Linux with an x86-64 CPU with AVX or an ARM64 one; "
            "use such a machine, or set recall.exact_below above the catalogue's size"
        ) from exc
    return scann_ops_pybind
