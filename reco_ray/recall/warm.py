"""Starting points: the weights of a release, for the training of the next one, lined up where the vocabularies overlap.

Items are found again by their keys and categories by their names. What the release does not know starts as it would anyway.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reco_ray.arrays import lookup
from reco_ray.config import SourceName
from reco_ray.features import Catalogue
from reco_ray.recall.index import vectors_file
from reco_ray.recall.sources import mf, sequential, two_tower

__all__ = ["Start", "start_of"]

Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """Weights to start from.

    Attributes:
        weights: by name, without the table; a name that the new model lacks, or has in another shape, is passed over by it.
        table: name of the table of items. rows: for each row of the new one what it starts from, shape (n, d).
        known: which of these rows the release knew, shape (n,).
    """

    weights: Weights
    table: str
    rows: NDArray[np.float32]
    known: NDArray[np.bool_]


def start_of(name: SourceName, release: Path, catalogue: Catalogue, keys: NDArray[np.uint64]) -> Start | None:
    """Read a starting point for one of the trained sources; None where the release knows none of the items.

    Args:
        release: local folder of a release.
        catalogue: of the items now.
        keys: of the items that have a row in the new table, ascending; row 0 of a table that reserves it is not among them.
    """
    before = Catalogue.load(release)
    if name is SourceName.mf:
        if not (release / "mf.safetensors").is_file():
            return None
        table, weights = np.load(vectors_file(release, mf.INDEX), allow_pickle=False), Weights()
        start = _start(weights, "items", table, before.keys[: len(table)], keys, reserved=0)
    elif name is SourceName.two_tower:
        if not (release / "two_tower.safetensors").is_file():
            return None
        weights, known = two_tower.load_weights(release)
        table = weights.pop("item_id.weight")
        weights["item_hidden.weight"] = _by_category(weights["item_hidden.weight"], table.shape[1], before, catalogue)
        start = _start(weights, "item_id.weight", table, known, keys, reserved=1)
    else:
        if not (release / "sequential.safetensors").is_file():
            return None
        weights = sequential.load_weights(release)
        table = weights.pop("item.weight")
        start = _start(weights, "item.weight", table, before.keys[: len(table) - 1], keys, reserved=1)
    return start if start.known[-len(keys) :].any() else None


def _start(
    weights: Weights,
    name: str,
    table: NDArray[np.float32],
    before: NDArray[np.uint64],
    keys: NDArray[np.uint64],
    reserved: int,
) -> Start:
    """Args: before: keys of the rows of ``table`` behind the reserved ones, ascending."""
    at = lookup(before, keys)
    rows = np.concatenate([np.arange(reserved), np.where(at >= 0, at + reserved, 0)]).astype(np.int64)
    known = np.concatenate([np.ones(reserved, np.bool_), at >= 0])
    return Start(weights, name, table[rows], known & table[rows].any(axis=1))


def _by_category(hidden: NDArray[np.float32], embedding_size: int, before: Catalogue, now: Catalogue) -> NDArray[np.float32]:
    """The columns of the item tower's first layer for the categories as they are now; a new one starts at zero."""
    identity, rest = hidden[:, :embedding_size], hidden[:, embedding_size:]
    of = {category: rest[:, i] for i, category in enumerate(before.categories)}
    zero = np.zeros(len(hidden), np.float32)
    categories = [of.get(category, zero) for category in now.categories]
    return np.column_stack([identity, *categories, rest[:, len(before.categories) :]]).astype(np.float32)
