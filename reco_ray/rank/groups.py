"""Matrices of whole groups, streamed: a worker holds the training set as bins, a byte per value, and one batch as floats."""

from collections.abc import Callable, Iterator

import numpy as np
import polars as pl
import xgboost

from reco_ray.errors import DataError

__all__ = ["Batches", "quantile_matrix"]

Batches = Callable[[], Iterator[pl.DataFrame]]
"""Reads a worker's rows from the start: columns group_id, label, weight (one per group, in each of its rows), features."""


def quantile_matrix(
    batches: Batches, threads: int = 1, reference: xgboost.QuantileDMatrix | None = None
) -> xgboost.QuantileDMatrix:
    """Make the matrix of batches, each of whole groups whose rows stand together.

    All workers of a training must be here at once: they agree on the bins.

    Args:
        batches: read once for the sizes, once for the bins and once for the values; at least one row.
        reference: matrix of the training rows, whose bins are taken.
    Raises: DataError: a group comes in two pieces, within a batch or in two of them, of which XGBoost would silently make two.
    """
    stream = _Stream(batches)
    made = xgboost.QuantileDMatrix(stream, ref=reference, nthread=threads)
    found, groups = made.get_uint_info("group_ptr").size - 1, len(stream.groups)
    if found != groups:
        raise DataError(f"ranker: found {found} pieces of {groups} groups, expected one each; sort the rows by group")
    return made


class _Stream(xgboost.DataIter):  # type: ignore[misc]
    def __init__(self, batches: Batches) -> None:
        super().__init__(release_data=True)
        self._batches = batches
        self._open: Iterator[pl.DataFrame] = iter(())
        self.groups: set[str] = set()

    def reset(self) -> None:
        self._open = self._batches()

    def next(self, input_data: Callable[..., None]) -> bool:
        frame = next(self._open, None)
        if frame is None:
            return False
        self.groups.update(frame["group_id"].unique())
        pieces = frame["group_id"].rle_id().to_numpy().astype(np.uint32)
        first = np.flatnonzero(np.diff(pieces, prepend=np.uint32(2**32 - 1)))
        input_data(
            data=np.asarray(frame["features"].list.to_array(len(frame["features"][0])).to_numpy(), np.float32),
            label=frame["label"].to_numpy(),
            qid=pieces,
            weight=frame["weight"].to_numpy()[first],
        )
        return True
