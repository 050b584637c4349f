"""Nearest vectors by inner product with ScaNN: a quantized tree for large catalogues, brute force for small ones.

ScaNN's searcher holds rows in our order and we never delete from it here, so its row number is the item_idx.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reco_ray.errors import NotReadyError

__all__ = ["VectorIndex", "vectors_file"]


def vectors_file(folder: Path, name: str) -> Path:
    """Where the vectors of an index stand in a release's folder, as a NumPy file."""
    return folder / f"{name}_vectors.npy"


class VectorIndex:
    """Search over the rows of a matrix of vectors, shape (n, d).

    Args:
        vectors: unit length, float32.
        searcher: ScaNN's over these vectors.
    """

    def __init__(self, vectors: NDArray[np.float32], searcher: Any) -> None:
        self._vectors, self._searcher = vectors, searcher

    @classmethod
    def build(cls, vectors: NDArray[np.float32], exact_below: int) -> "VectorIndex":
        """Index the vectors; below ``exact_below`` of them by brute force, which is exact and the same in every build.

        Above: about sqrt(n) leaves of which one in four is searched, 2 dimensions per block with anisotropic quantization, and
        twice the wanted number rescored exactly.
        Reference: Guo et al. 2020, Accelerating Large-Scale Inference with Anisotropic Vector Quantization.
        """
        n = vectors.shape[0]
        builder = _scann().builder(vectors, min(100, n), "dot_product")
        if n < exact_below:
            return cls(vectors, builder.score_brute_force().build())
        leaves = int(np.sqrt(n))
        builder = builder.tree(
            num_leaves=leaves, num_leaves_to_search=max(1, leaves // 4), training_sample_size=min(n, 250_000)
        )
        return cls(vectors, builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(400).build())

    def save(self, folder: Path, name: str) -> None:
        """Write the vectors and the index into a release's folder, where several indexes may stand under their names."""
        np.save(vectors_file(folder, name), self._vectors)
        target = folder / f"{name}_index"
        target.mkdir()
        # absolute here, relative inside: otherwise the index would not load from another place
        self._searcher.serialize(str(target.absolute()), relative_path=True)

    @classmethod
    def load(cls, folder: Path, name: str) -> "VectorIndex":
        """Read what `save` wrote.

        Raises: NotReadyError: this CPU cannot run ScaNN.
        """
        vectors = np.load(vectors_file(folder, name), allow_pickle=False)
        return cls(vectors, _scann().load_searcher(str((folder / f"{name}_index").absolute())))

    @property
    def vectors(self) -> NDArray[np.float32]:
        """The indexed vectors, shape (n, d)."""
        return self._vectors

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the best ``k`` rows and inner products per query, shapes (q, k); -1 pads short answers."""
        k = min(k, self._vectors.shape[0])
        rows, scores = self._searcher.search_batched(queries, final_num_neighbors=k, pre_reorder_num_neighbors=2 * k)
        found = rows.astype(np.int64)
        return np.where(np.isfinite(scores), found, -1), scores


def _scann() -> Any:
    try:
        from scann.scann_ops.py import scann_ops_pybind
    except ImportError as exc:
        raise NotReadyError(
            f"scann cannot be imported ({exc}); expected Linux with an x86-64 CPU with AVX or an ARM64 one; "
            "use such a machine, or leave the two_tower source out (recall.quotas.two_tower=0)"
        ) from exc
    return scann_ops_pybind
