"""Matrices of whole groups, streamed: a worker holds the training set as bins, a byte per value, and one batch as floats."""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import polars as pl
import xgboost

from reco_ray.errors import DataError

__all__ = ["quantile_matrix"]


def quantile_matrix(
    batches: Iterable[pl.DataFrame], threads: int = 1, reference: xgboost.QuantileDMatrix | None = None
) -> xgboost.QuantileDMatrix:
    """Make the matrix of batches, each of whole groups whose rows stand together.

    XGBoost looks at all values several times; the batches are read once, and lie in a temporary folder meanwhile, without ids.
    All workers of a training must be here at once: they agree on the bins.

    Args:
        batches: rows of a training set: group_id, label, weight (one per group, in each of its rows), features; at least one.
        reference: matrix of the training rows, whose bins are taken.
    Raises: DataError: a group comes in two pieces, within a batch or in two of them, of which XGBoost would silently make two.
    """
    with tempfile.TemporaryDirectory(prefix="ranker-", ignore_cleanup_errors=True) as name:
        stream, groups = _Stream(Path(name)), set[str]()
        for frame in batches:
            groups.update(frame["group_id"].unique())
            stream.put(frame)
        made = xgboost.QuantileDMatrix(stream, ref=reference, nthread=threads)
    found = made.get_uint_info("group_ptr").size - 1
    if found != len(groups):
        raise DataError(f"ranker: found {found} pieces of {len(groups)} groups, expected one each; sort the rows by group")
    return made


class _Stream(xgboost.DataIter):  # type: ignore[misc]
    def __init__(self, folder: Path) -> None:
        super().__init__(release_data=True)
        self._folder, self._batches, self._at = folder, 0, 0

    def put(self, frame: pl.DataFrame) -> None:
        pieces = frame["group_id"].rle_id().to_numpy().astype(np.uint32)
        first = np.flatnonzero(np.diff(pieces, prepend=np.uint32(2**32 - 1)))
        np.savez(
            self._folder / f"{self._batches}.npz",
            label=frame["label"].to_numpy(),
            qid=pieces,
            weight=frame["weight"].to_numpy()[first],
        )
        matrix = np.asarray(frame["features"].list.to_array(len(frame["features"][0])).to_numpy(), np.float32)
        np.save(self._folder / f"{self._batches}.npy", matrix)
        self._batches += 1

    def reset(self) -> None:
        self._at = 0

    def next(self, input_data: Callable[..., None]) -> bool:
        if self._at == self._batches:
            return False
        with np.load(self._folder / f"{self._at}.npz") as small:
            input_data(data=np.load(self._folder / f"{self._at}.npy"), **small)
        self._at += 1
        return True
