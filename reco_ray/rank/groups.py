"""Matrices of whole groups, streamed: a worker holds the training set as bins, a byte per value, and one batch as floats."""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import polars as pl
import xgboost

from reco_ray.errors import DataError

__all__ = ["quantile_matrices"]


def quantile_matrices(
    batches: Iterable[pl.DataFrame], threads: int = 1
) -> tuple[xgboost.QuantileDMatrix, xgboost.QuantileDMatrix]:
    """Make the matrix to learn from and the held-out one, in its bins, of batches whose groups are whole and stand together.

    XGBoost looks at all values several times; the batches are read once, and lie in a temporary folder meanwhile, without ids.
    All workers of a training must be here at once: they agree on the bins.

    Args:
        batches: rows of a training set: group_id, held_out, label, weight (one per group, in each of its rows), features.
    Raises: DataError: nothing to learn from or nothing held out; or a group comes in two pieces, within a batch or in two of
        them, of which XGBoost would silently make two.
    """
    with tempfile.TemporaryDirectory(prefix="ranker-", ignore_cleanup_errors=True) as name:
        streams = {held_out: _Stream(Path(name), held_out) for held_out in (False, True)}
        for frame in batches:
            for part in frame.partition_by("held_out", maintain_order=True) if frame["held_out"].any() else [frame]:
                streams[part["held_out"][0]].put(part)
        for held_out, stream in streams.items():
            if not stream.groups:
                raise DataError(
                    f"ranker: a worker found no {'held-out ' if held_out else ''}group, expected some; use fewer workers "
                    "(cluster.train_workers)"
                )
        train = _matrix(streams[False], threads, None)
        return train, _matrix(streams[True], threads, train)


def _matrix(stream: "_Stream", threads: int, reference: xgboost.QuantileDMatrix | None) -> xgboost.QuantileDMatrix:
    made = xgboost.QuantileDMatrix(stream, ref=reference, nthread=threads)
    found = made.get_uint_info("group_ptr").size - 1
    if found != len(stream.groups):
        raise DataError(
            f"ranker: found {found} pieces of {len(stream.groups)} groups, expected one each; sort the rows by group"
        )
    return made


class _Stream(xgboost.DataIter):  # type: ignore[misc]
    def __init__(self, folder: Path, held_out: bool) -> None:
        super().__init__(release_data=True)
        self.groups: set[str] = set()
        self._name, self._batches, self._at = str(folder / ("held-out-" if held_out else "learnt-")), 0, 0

    def put(self, frame: pl.DataFrame) -> None:
        self.groups.update(frame["group_id"].unique())
        pieces = frame["group_id"].rle_id().to_numpy().astype(np.uint32)
        first = np.flatnonzero(np.diff(pieces, prepend=np.uint32(2**32 - 1)))
        np.savez(
            f"{self._name}{self._batches}.npz",
            label=frame["label"].to_numpy(),
            qid=pieces,
            weight=frame["weight"].to_numpy()[first],
        )
        matrix = np.asarray(frame["features"].list.to_array(len(frame["features"][0])).to_numpy(), np.float32)
        np.save(f"{self._name}{self._batches}.npy", matrix)
        self._batches += 1

    def reset(self) -> None:
        self._at = 0

    def next(self, input_data: Callable[..., None]) -> bool:
        if self._at == self._batches:
            return False
        with np.load(f"{self._name}{self._at}.npz") as small:
            input_data(data=np.load(f"{self._name}{self._at}.npy"), **small)
        self._at += 1
        return True
