"""What is popular, and trending, among people of one taste.

A user's segment is the category whose share in what they did exceeds most the share that it has in what everybody did. The list
of a segment is the list of all, each item's number multiplied by how much more often than others its users had the item. So it
fades as the list of all does, and a segment says no more than its users are many.
"""

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from reco_ray.arrays import best_first, lookup
from reco_ray.features import USER_COLUMNS, Catalogue
from reco_ray.hashing import item_keys

__all__ = ["NOBODY", "SEGMENTED", "Segments"]

SEGMENTED = {"popular": "item_decayed", "trending": "item_trending"}
"""Source -> column of the item view that its list goes by."""

NOBODY = pl.DataFrame(schema={"seen": pl.List(pl.String), "features": pl.List(pl.Float32)})
"""Users where none are known: no segment has a list of its own then."""

_FILE = "segments.safetensors"
_DEPTH = 5_000  # items of a list
_PRIOR = 5.0  # events that an item starts with in a segment; 1 to 10 gave the same NDCG@10 within 0.004 on MovieLens
_LEAST_USERS = 10  # a list of fewer people says who they are, and little else
_LEAST_SHARE = 0.1

Lists = dict[str, tuple[NDArray[np.int32], NDArray[np.float32]]]


class Segments:
    """The segments of a release, and their lists.

    Args:
        usual: share of each category in what everybody did, shape (C,).
        place: row of a category's list, -1 where it has none, shape (C,).
        lists: by source, best first: item_idx and log(1 + number), shape (s, n) each.
    """

    def __init__(self, usual: NDArray[np.float32], place: NDArray[np.int64], lists: Lists) -> None:
        self._usual, self._place, self._lists = usual, place, lists

    def list_for(self, source: str, taste: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
        """The list of a user's segment, item_idx and scores, best first; None where there is none.

        Args:
            taste: share of each category in what the user did, shape (C,); empty when nothing is known.
        """
        category = int(_favourite(taste[None], self._usual)[0]) if taste.size else -1
        at = int(self._place[category]) if category >= 0 else -1
        if at < 0:
            return None
        rows, scores = self._lists[source]
        return rows[at].astype(np.int64), scores[at]

    @classmethod
    def build(cls, users: pl.DataFrame, catalogue: Catalogue) -> "Segments":
        """Count what the users of each segment had.

        Args:
            users: columns seen and features of the user view of the catalogue's snapshot, of all users or a sample.
        """
        n, c = len(catalogue), len(catalogue.categories)
        features = np.array(users["features"].to_list(), np.float32).reshape(users.height, len(USER_COLUMNS) + 2 * c)
        tastes = features[:, len(USER_COLUMNS) : len(USER_COLUMNS) + c]
        usual = tastes.mean(axis=0) if users.height else np.zeros(c, np.float32)
        favourite = _favourite(tastes, usual)
        held = np.flatnonzero(np.bincount(favourite[favourite >= 0], minlength=c) >= _LEAST_USERS)
        place = np.full(c, -1, np.int64)
        place[held] = np.arange(held.size)
        had = users.select("seen").with_row_index("user").explode("seen").drop_nulls()
        rows, category = lookup(catalogue.keys, item_keys(had["seen"])), favourite[had["user"].to_numpy()]
        category, rows = category[rows >= 0], rows[rows >= 0]
        whole = np.bincount(rows, minlength=n)
        share = whole / max(1, rows.size)
        lists: Lists = {}
        for source, column in SEGMENTED.items():
            number = np.expm1(catalogue.column(column).astype(np.float64))
            depth = min(_DEPTH, n)
            found, scores = np.empty((held.size, depth), np.int32), np.empty((held.size, depth), np.float32)
            for at, segment in enumerate(held):
                mine = np.bincount(rows[category == segment], minlength=n)
                lifted = np.log1p(number * (mine + _PRIOR) / (share * mine.sum() + _PRIOR)).astype(np.float32)
                found[at] = best_first(lifted, catalogue.keys, depth)
                scores[at] = lifted[found[at]]
            lists[source] = found, scores
        return cls(usual.astype(np.float32), place, lists)

    def save(self, folder: Path) -> None:
        """Write segments and lists into a release's folder."""
        arrays = {f"{name}.{part}": of for name, lists in self._lists.items() for part, of in zip("rs", lists, strict=True)}
        save_file({"usual": self._usual, "place": self._place, **arrays}, str(folder / _FILE))

    @classmethod
    def load(cls, folder: Path) -> "Segments":
        """Read what `save` wrote."""
        found = load_file(str(folder / _FILE))
        return cls(found["usual"], found["place"], {name: (found[f"{name}.r"], found[f"{name}.s"]) for name in SEGMENTED})


def _favourite(tastes: NDArray[np.float32], usual: NDArray[np.float32]) -> NDArray[np.int64]:
    """Category that each user has more of than others do, and a tenth of what they did at least; -1 for none. Shape (u,)."""
    if not tastes.shape[1]:
        return np.full(len(tastes), -1, np.int64)
    lift = np.where(tastes >= _LEAST_SHARE, tastes / np.maximum(usual, np.float32(1e-6)), 0)
    return np.asarray(np.where(lift.max(axis=1) > 0, lift.argmax(axis=1), -1), np.int64)
