"""Which row stands at which place of a ScaNN searcher.

Deleting from ScaNN moves its last entry into the gap, so its numbers are not rows once anything was removed.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["Places", "grown"]


class Places:
    """A one-to-one map of the rows in a searcher and the places 0..n-1 that they have there.

    Args:
        rows: row by place at first, distinct, shape (n,).
    """

    def __init__(self, rows: NDArray[np.int64]) -> None:
        self._n = rows.size
        self._rows = rows.copy()
        self._places = np.full(int(rows.max(initial=-1)) + 1, -1, np.int64)
        self._places[rows] = np.arange(rows.size)
        self._live = self._places >= 0

    def __len__(self) -> int:
        return self._n

    @property
    def rows(self) -> NDArray[np.int64]:
        """Row by place, shape (n,)."""
        return self._rows[: self._n]

    @property
    def live(self) -> NDArray[np.bool_]:
        """Mask of the rows that have a place, by row; rows behind its end have none."""
        return self._live

    def find(self, row: int) -> int | None:
        """Place of a row, None when it has none."""
        place = int(self._places[row]) if 0 <= row < self._places.size else -1
        return None if place < 0 else place

    def append(self, row: int) -> int:
        """Give a row that has none the place behind the last."""
        self._places, self._live = grown(self._places, row + 1, -1), grown(self._live, row + 1, False)
        self._rows = grown(self._rows, self._n + 1, -1)
        self._rows[self._n], self._places[row] = row, self._n
        self._live[row] = True
        self._n += 1
        return self._n - 1

    def remove(self, row: int) -> int:
        """Take a row's place away and let the last row have it; returns the place."""
        place, last = int(self._places[row]), int(self._rows[self._n - 1])
        self._rows[place], self._places[last] = last, place
        self._places[row], self._live[row] = -1, False
        self._n -= 1
        return place


def grown(array: NDArray, size: int, fill: float) -> NDArray:  # type: ignore[type-arg]
    """The array itself if it has ``size`` rows, else a copy with at least twice as many, filled up."""
    if size <= array.shape[0]:
        return array
    larger = np.full((max(size, 2 * array.shape[0]), *array.shape[1:]), fill, array.dtype)
    larger[: array.shape[0]] = array
    return larger
