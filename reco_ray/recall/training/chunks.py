"""Users' sequences as flat arrays, one chunk of a worker's share at a time, and what of them is held out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reco_ray.arrays import lookup
from reco_ray.hashing import hash64_many, item_keys

__all__ = ["NEXT", "POSITIVE", "Chunk", "Chunks", "Held", "pack", "validated_share"]

NEXT = "next_id"
"""Optional column of the sequences: the item that came next, to judge an epoch by; nothing else is held out then."""

POSITIVE = 0.5
_HELD_OUT = 0.1
_JUDGES = 5_000


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """What one user took after the history that a model is shown, for judging an epoch.

    Attributes:
        rows, strengths: of the history, oldest first, shape (h,), h >= 1. targets: rows of what came then, distinct.
    """

    rows: NDArray[np.int64]
    strengths: NDArray[np.float32]
    targets: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Sequences to learn from, laid end to end, and the users that judge.

    Attributes:
        rows: catalogue row of each event, shape (e,). strengths: shape (e,).
        offsets: where each sequence starts, shape (u + 1,).
        held: of the users that judge; their targets are in no sequence here.
    """

    rows: NDArray[np.int64]
    strengths: NDArray[np.float32]
    offsets: NDArray[np.int64]
    held: Sequence[Held]


Chunks = Callable[[], Iterator[Chunk]]
"""Reads a worker's share of the sequences from the start, chunk by chunk, in the same order each time."""


def validated_share(users: int) -> float:
    """Share of the users that judge an epoch: all of them, but not more than 5,000."""
    return min(1.0, _JUDGES / max(users, 1))


def pack(frame: pl.DataFrame, keys: NDArray[np.uint64], share: float, seed: int) -> Chunk:
    """Lay out sequences, and hold back what the judging users took last: the last tenth, or the column `NEXT`.

    Which users judge hangs on their id and the seed alone, so that it is a random sample of them and the same each time.

    Args:
        frame: columns user_id, item_ids, strengths (oldest first), perhaps `NEXT`.
        keys: of the catalogue, ascending; events of other items are dropped.
        share: of the users that judge.
    """
    frame = frame.filter(pl.col("item_ids").list.len() > 0)
    events = frame.with_row_index("user").select("user", "item_ids", "strengths").explode("item_ids", "strengths")
    rows = lookup(keys, item_keys(events["item_ids"]))
    known = rows >= 0
    rows, strengths = rows[known], events["strengths"].to_numpy().astype(np.float32)[known]
    lengths = np.bincount(events["user"].to_numpy()[known], minlength=frame.height)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    judges = hash64_many(frame["user_id"], f"judge-{seed}") < np.uint64(min(share * 2.0**64, 2.0**64 - 2048))
    given = lookup(keys, item_keys(frame[NEXT].fill_null(""))) if NEXT in frame.columns else None
    back = np.where(judges & (given is None), np.ceil(_HELD_OUT * lengths), 0).astype(np.int64)
    held = []
    for user in np.flatnonzero(judges & (lengths > back)):
        start, end = offsets[user], offsets[user + 1]
        cut = end - back[user]
        targets = rows[cut:end][strengths[cut:end] >= POSITIVE] if given is None else given[user : user + 1]
        targets = np.unique(targets[targets >= 0])
        if targets.size:
            held.append(Held(rows[start:cut], strengths[start:cut], targets))
    place = np.arange(rows.size) - np.repeat(offsets[:-1], lengths)
    kept = place < np.repeat(lengths - back, lengths)
    return Chunk(rows[kept], strengths[kept], np.concatenate([[0], np.cumsum(lengths - back)]).astype(np.int64), held)
