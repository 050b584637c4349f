"""Training examples of the two-tower model: targets, and the history before each of them."""

import numpy as np
from numpy.typing import NDArray

from reco_ray.recall.training.chunks import POSITIVE, Chunk

__all__ = ["gather_history", "targets_of"]


def targets_of(chunk: Chunk) -> NDArray[np.int64]:
    """Positions of the events to predict: the positive ones with an event before them, shape (t,)."""
    first = np.zeros(chunk.rows.size, np.bool_)
    first[chunk.offsets[:-1][np.diff(chunk.offsets) > 0]] = True
    return np.flatnonzero(~first & (chunk.strengths >= POSITIVE))


def gather_history(
    chunk: Chunk, positions: NDArray[np.int64], history: int
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
    """Events before each position, newest first: rows, strengths and mask, shape (q, history); unused places are row 0.

    Args:
        positions: past the first of a sequence, up to its end.
    """
    starts = chunk.offsets[np.searchsorted(chunk.offsets, positions - 1, side="right") - 1]
    at = positions[:, None] - 1 - np.arange(history)[None, :]
    mask = at >= starts[:, None]
    at = np.maximum(at, 0)
    return np.where(mask, chunk.rows[at], 0), np.where(mask, chunk.strengths[at], 0).astype(np.float32), mask
