"""Groups of a training set as padded arrays, and the newest items of their users."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reco_ray.arrays import gather_rows, lookup
from reco_ray.hashing import item_keys

__all__ = ["GroupBatch", "Groups", "Histories", "lay_out", "pack", "pack_histories"]


@dataclass(frozen=True, slots=True, eq=False)
class Histories:
    """The newest items of users, the newest first.

    Attributes:
        at: user -> row of the arrays; the last row is for those who are not here.
        rows: item rows, padded with the number of items, shape (u + 1, h). strengths: shape (u + 1, h). sizes: shape (u + 1,).
    """

    at: Mapping[str, int]
    rows: NDArray[np.int64]
    strengths: NDArray[np.float32]
    sizes: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Rows of whole groups, one group after the other.

    Attributes:
        features: shape (r, F). items: item rows, the number of items where unknown, shape (r,). labels: shape (r,).
        offsets: where each group starts, shape (g + 1,). users: rows of `Histories`, shape (g,). weights: shape (g,).
    """

    features: NDArray[np.float32]
    items: NDArray[np.int64]
    labels: NDArray[np.float32]
    offsets: NDArray[np.int64]
    users: NDArray[np.int64]
    weights: NDArray[np.float32]

    def __len__(self) -> int:
        return self.weights.size


@dataclass(frozen=True, slots=True, eq=False)
class GroupBatch:
    """Some groups, padded: what `model.NeuralModel` and `model.listwise_loss` take, with item rows instead of vectors."""

    features: NDArray[np.float32]
    items: NDArray[np.int64]
    labels: NDArray[np.float32]
    there: NDArray[np.bool_]
    history: NDArray[np.int64]
    strengths: NDArray[np.float32]
    had: NDArray[np.bool_]
    weights: NDArray[np.float32]


def pack_histories(users: pl.DataFrame, keys: NDArray[np.uint64], most: int) -> Histories:
    """Take the newest ``most`` items of each user that are among the keys.

    Args:
        users: user_id, history and weights, the oldest first. keys: of the items, ascending; their places are the rows.
    """
    events = users.select("user_id", "history", "weights").explode("history", "weights").drop_nulls("history")
    rows = lookup(keys, item_keys(events["history"]))
    events = events.select("user_id", "weights").with_columns(pl.Series("row", rows)).filter(pl.col("row") >= 0)
    place = pl.int_range(pl.len()).reverse().over("user_id")
    events = events.with_columns(place.alias("place")).filter(pl.col("place") < most)
    at = {user_id: row for row, user_id in enumerate(events["user_id"].unique(maintain_order=True).to_list())}
    user = events["user_id"].replace_strict(at, return_dtype=pl.Int64).to_numpy() if at else np.empty(0, np.int64)
    shape = (len(at) + 1, most)
    found = Histories(at, np.full(shape, keys.size, np.int64), np.zeros(shape, np.float32), np.zeros(shape[0], np.int64))
    found.rows[user, events["place"].to_numpy()] = events["row"].to_numpy()
    found.strengths[user, events["place"].to_numpy()] = events["weights"].to_numpy()
    np.add.at(found.sizes, user, 1)
    return found


def pack(frame: pl.DataFrame, keys: NDArray[np.uint64], histories: Histories) -> Groups:
    """Take rows of a training set; groups are whole and stand together."""
    pieces = frame["group_id"].rle_id().to_numpy()
    starts = np.flatnonzero(np.diff(pieces, prepend=pieces[0] + 1)) if pieces.size else np.empty(0, np.int64)
    known = lookup(keys, item_keys(frame["item_id"]))
    users = [histories.at.get(user, len(histories.at)) for user in frame["user_id"].gather(starts)]
    return Groups(
        np.asarray(frame["features"].list.to_array(len(frame["features"][0])).to_numpy(), np.float32),
        np.where(known >= 0, known, keys.size),
        frame["label"].to_numpy().astype(np.float32),
        np.concatenate([starts, [frame.height]]).astype(np.int64),
        np.array(users, np.int64),
        frame["weight"].to_numpy()[starts].astype(np.float32),
    )


def lay_out(groups: Groups, which: NDArray[np.int64], histories: Histories, n_items: int) -> GroupBatch:
    """Pad some groups to the longest of them."""
    at, owner = gather_rows(groups.offsets, which)
    sizes = np.bincount(owner, minlength=which.size)
    place = np.arange(owner.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    shape = (which.size, int(sizes.max()))
    features = np.zeros((*shape, groups.features.shape[1]), np.float32)
    items, labels = np.full(shape, n_items, np.int64), np.zeros(shape, np.float32)
    features[owner, place], items[owner, place], labels[owner, place] = groups.features[at], groups.items[at], groups.labels[at]
    there = np.arange(shape[1]) < sizes[:, None]
    users = groups.users[which]
    had = np.arange(histories.rows.shape[1]) < histories.sizes[users][:, None]
    return GroupBatch(
        features, items, labels, there, histories.rows[users], histories.strengths[users], had, groups.weights[which]
    )
