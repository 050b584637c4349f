"""What lets a catalogue grow while it is loaded: room behind the release's rows, and the rows that stand there."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reco_ray.arrays import with_room
from reco_ray.features.views import ITEM_COLUMNS

__all__ = ["Growth", "LiveRows", "Room", "stranger"]

# not 0 for an item that nobody has met
_SHRUNK = ("item_positive_share", "item_value_mean", "item_ctr", "item_times", "item_again")


@dataclass(frozen=True, slots=True, eq=False)
class Growth:
    """What a change of a catalogue means to those that hold something per item; rows are distinct.

    Attributes:
        put: rows that may be shown now and could not before, or hold another item or its new description, shape (p,).
        removed: rows that may not be shown any more, shape (r,).
        described: rows of `schema.ITEMS` of ``put``, in its order.
    """

    put: NDArray[np.int64]
    removed: NDArray[np.int64]
    described: pl.DataFrame


@dataclass(frozen=True, slots=True, eq=False)
class LiveRows:
    """Where items stand that the release does not know: ``keys``, ascending, and ``rows``, shape (l,) each."""

    keys: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def updated(self, at: Mapping[int, int]) -> "LiveRows":
        """With other places for some keys; a row belongs to the key that got it last."""
        kept = ~np.isin(self.rows, list(at.values())) & ~np.isin(self.keys, np.array(list(at), np.uint64))
        keys = np.concatenate([self.keys[kept], np.array(list(at), np.uint64)])
        order = np.argsort(keys)
        return LiveRows(keys[order], np.concatenate([self.rows[kept], np.array(list(at.values()), np.int64)])[order])


@dataclass(slots=True, eq=False)
class Room:
    """Arrays by row with room behind, which the snapshots of a catalogue share: each array of theirs is a part of one here."""

    keys: NDArray[np.uint64]
    in_category: NDArray[np.float32]
    years: NDArray[np.int32]
    events: NDArray[np.int64]
    positives: NDArray[np.int64]
    features: NDArray[np.float32]

    def reach(self, n: int) -> None:
        """Have at least ``n`` rows; new ones are 0."""
        for each in fields(self):
            setattr(self, each.name, with_room(getattr(self, each.name), n))


def stranger(features: NDArray[np.float32], events: NDArray[np.int64]) -> NDArray[np.float32]:
    """Features of an item that nobody has met, without its year, shape (F,).

    What is shrunk towards the mean of all is as in the item with the fewest events, of which there is mostly one without any.
    """
    if not events.size:
        return np.array([column.default for column in ITEM_COLUMNS], np.float32)
    least = features[int(events.argmin())]
    return np.array([value if c.name in _SHRUNK else 0 for c, value in zip(ITEM_COLUMNS, least, strict=True)], np.float32)
