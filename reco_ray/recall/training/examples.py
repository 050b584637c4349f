"""Training examples of the two-tower model, cut from users' sequences."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Examples", "cut_examples", "gather_history"]

_HELD_OUT = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Sequences laid end to end, and the positions in them that are predicted.

    Attributes:
        rows: catalogue row of each event, shape (e,). strengths: shape (e,). starts: start of the event's sequence, shape (e,).
        train: positions of the targets to learn from, shape (t,).
        held_out: per validation user: (position up to which the history goes, rows of the targets after it).
    """

    rows: NDArray[np.int64]
    strengths: NDArray[np.float32]
    starts: NDArray[np.int64]
    train: NDArray[np.int64]
    held_out: list[tuple[int, NDArray[np.int64]]]


def cut_examples(sequences: list[tuple[NDArray[np.int64], NDArray[np.float32]]], positive: float = 0.5) -> Examples:
    """Lay out sequences; the last tenth of each is held out for early stopping, the positives before it are targets.

    Args:
        sequences: per user catalogue rows and strengths, oldest first, at least one event.
    """
    lengths = np.array([rows.size for rows, _ in sequences], np.int64)
    first = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    rows = np.concatenate([r for r, _ in sequences])
    strengths = np.concatenate([s for _, s in sequences]).astype(np.float32)
    starts = np.repeat(first, lengths)
    place = np.arange(rows.size) - starts
    cut = np.repeat(lengths - np.ceil(_HELD_OUT * lengths).astype(np.int64), lengths)
    train = np.flatnonzero((place >= 1) & (place < cut) & (strengths >= positive))
    held_out = []
    for start, length in zip(first, lengths, strict=True):
        at = int(start + length - np.ceil(_HELD_OUT * length))
        targets = rows[at : start + length][strengths[at : start + length] >= positive]
        if at > start and targets.size:
            held_out.append((at, np.unique(targets)))
    return Examples(rows, strengths, starts, train, held_out)


def gather_history(
    examples: Examples, positions: NDArray[np.int64], history: int
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
    """Events before each position, newest first: rows, strengths and mask, shape (q, history); unused places are row 0."""
    at = positions[:, None] - 1 - np.arange(history)[None, :]
    mask = at >= examples.starts[positions - 1][:, None]
    at = np.maximum(at, 0)
    return np.where(mask, examples.rows[at], 0), np.where(mask, examples.strengths[at], 0).astype(np.float32), mask
