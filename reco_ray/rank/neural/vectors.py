"""The item vectors that the heavy ranker sees: those of all trained recall sources of its release, side by side."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reco_ray.arrays import lookup
from reco_ray.errors import ArtifactError
from reco_ray.features import Catalogue
from reco_ray.rank.features import RankFeatures
from reco_ray.recall.index import vectors_file
from reco_ray.recall.sources import mf, sequential, two_tower

__all__ = ["ReleasedVectors", "trained_vectors"]


def trained_vectors(models: Path | None, sources: Sequence[str], catalogue: Catalogue) -> NDArray[np.float32]:
    """Vectors of the catalogue's items by embedding models, as a release has them; shape (n_items, d), 0 where unknown.

    Args:
        sources: names, of `recall.trainer.TRAINED`; with none d is 0.
    """
    parts = [np.empty((len(catalogue), 0), np.float32)]
    for name in sources:
        assert models is not None
        if name == two_tower.INDEX:
            weights, trained_keys = two_tower.load_weights(models)
            parts.append(two_tower.embed_items(weights, *two_tower.item_inputs(catalogue, trained_keys)))
        elif name == mf.INDEX:
            fitted, keys = mf.load_factors(models)
            parts.append(_lined_up(fitted["factors"], keys, catalogue))
        else:
            weights, keys = sequential.load_model(models)
            parts.append(_lined_up(sequential.unit_vectors(weights["item.weight"][1:]), keys, catalogue))
    return np.concatenate(parts, axis=1)


def _lined_up(table: NDArray[np.float32], keys: NDArray[np.uint64], catalogue: Catalogue) -> NDArray[np.float32]:
    at = lookup(keys, catalogue.keys)
    return np.where(at[:, None] >= 0, table[at], np.float32(0))


class ReleasedVectors:
    """The same vectors in a release, by row; towers know items that came since, the other sources do not.

    Args:
        folder: of the release. sources: as the ranker was trained with. features: of the same release.
    Raises: ArtifactError: the release lacks a source.
    """

    def __init__(self, folder: Path, sources: Sequence[str], features: RankFeatures) -> None:
        self._features = features
        self._parts: list[NDArray[np.float32] | None] = []
        for name in sources:
            if not (stored := vectors_file(folder, name)).is_file():
                raise ArtifactError(
                    f"{folder}: the ranker was trained with item vectors of {name}, found no {stored.name}; train it on this "
                    f"recall stage, or give recall.quotas.{name}"
                )
            self._parts.append(None if name == two_tower.INDEX else np.load(stored, allow_pickle=False))

    def __call__(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of rows, shape (m, d); 0 for what is not known."""
        return np.concatenate([np.empty((rows.size, 0), np.float32), *(self._of(part, rows) for part in self._parts)], axis=1)

    def _of(self, part: NDArray[np.float32] | None, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        table = self._features.vectors if part is None else part
        assert table is not None
        found = table[np.minimum(rows, len(table) - 1)]
        found[rows >= len(table)] = 0
        return found
