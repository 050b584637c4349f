"""Minibatches of the next-item model: windows of users' sequences, and the items that stand for all others."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reco_ray.recall.training.chunks import POSITIVE, Chunk

__all__ = ["NegativeSampler", "Windows", "batches", "cut_windows", "lay_out"]


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Stretches of sequences whose every event after the first may be a target.

    Attributes:
        starts, lengths: position of the first event and number of events, at least 2, shape (w,).
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]


def cut_windows(chunk: Chunk, length: int) -> Windows:
    """Cut each sequence from its end into windows of at most ``length`` inputs.

    Neighbours share one event, the first input of the later window and the last target of the earlier one.
    """
    starts, lengths = [], []
    for first, end in zip(chunk.offsets[:-1], chunk.offsets[1:], strict=True):
        while end - first >= 2:
            start = max(first, end - length - 1)
            starts.append(start)
            lengths.append(end - start)
            end = start + 1
    return Windows(np.array(starts, np.int64), np.array(lengths, np.int64))


def batches(windows: Windows, targets: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Group windows of about the same length, in random order, so that little is computed on padding.

    Args:
        targets: events per batch, padding counted.
    Returns: rows of ``windows``, for each batch.
    """
    order = rng.permutation(windows.lengths.size)
    order = order[np.argsort(windows.lengths[order], kind="stable")]
    inputs = windows.lengths[order] - 1
    edges, start = [], 0
    while start < order.size:
        # lengths ascend: the widest window of a batch is its last
        area = inputs[start:] * np.arange(1, order.size - start + 1)
        start += max(1, int(np.searchsorted(area, targets, side="right")))
        edges.append(start)
    parts = np.split(order, edges[:-1]) if edges else []
    for i in rng.permutation(len(parts)):
        yield parts[i]


def lay_out(
    chunk: Chunk, windows: Windows, which: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Inputs and what comes next, oldest first, padded at the end: item rows + 1 with 0 for padding, shape (b, l) each.

    Returns: inputs, targets, and where a target counts: a positive event.
    """
    starts, inputs = windows.starts[which], windows.lengths[which] - 1
    place = np.arange(int(inputs.max()))[None, :]
    mask = place < inputs[:, None]
    at = np.where(mask, starts[:, None] + place, 0)
    after = np.where(mask, at + 1, 0)
    counts = mask & (chunk.strengths[after] >= POSITIVE)
    return np.where(mask, chunk.rows[at] + 1, 0), np.where(mask, chunk.rows[after] + 1, 0), counts


class NegativeSampler:
    """Draws items in proportion to how often they are targets, with replacement.

    Args:
        counts: of each item as a target, shape (n,).
    """

    def __init__(self, counts: NDArray[np.float64]) -> None:
        share = counts / max(counts.sum(), 1.0)
        self._cumulated = np.cumsum(share)
        self.log_share = np.log(np.maximum(share, 1e-12)).astype(np.float32)

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return ``n`` item rows."""
        at = np.searchsorted(self._cumulated, rng.random(n) * self._cumulated[-1])
        return np.asarray(np.minimum(at, self._cumulated.size - 1), np.int64)
