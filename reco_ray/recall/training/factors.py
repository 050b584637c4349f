"""Factors of items by alternating least squares over what users had; `sources.mf` folds histories in, for serving."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from reco_ray.config import MfConfig
from reco_ray.recall.training.chunks import Chunk

__all__ = ["fit_factors"]


def fit_factors(
    chunks: Iterable[Chunk],
    n_items: int,
    config: MfConfig,
    seed: int,
    start: NDArray[np.float32] | None = None,
    threads: int = 1,
) -> tuple[NDArray[np.float32], list[dict[str, float]]]:
    """Factorise users x items, where what a user did with an item adds up to a strength r and counts 1 + alpha r.

    The same data and seed give the same factors, whatever the number of threads: each row is solved by one of them, and BLAS,
    whose sums depend on its threads, gets one.

    Args:
        chunks: of `chunks.pack`, users in a fixed order; memory holds 12 bytes an event and the factors of all users.
        start: factors of the items to start from, zeros where there are none; None draws all of them.
        threads: that solve rows.
    Returns: item factors by catalogue row, zeros for items without events, shape (n_items, factors); and the loss after each
        iteration.
    Reference: Hu, Koren and Volinsky 2008, Collaborative Filtering for Implicit Feedback Datasets.
    """
    from implicit.cpu.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix
    from threadpoolctl import threadpool_limits

    read = [(chunk.strengths, chunk.rows.astype(np.int32), np.diff(chunk.offsets)) for chunk in chunks]
    strengths, rows, lengths = (np.concatenate(parts) for parts in zip(*read, strict=True))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    matrix = csr_matrix((strengths, rows, offsets), (lengths.size, n_items), np.float32)
    matrix.sum_duplicates()
    matrix.data = 1 + np.float32(config.alpha) * matrix.data
    iterations: list[dict[str, float]] = []

    def on_iteration(number: int, _seconds: float, loss: float) -> None:
        iterations.append({"epoch": number, "loss": float(loss)})

    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=config.factors,
            regularization=config.regularization,
            iterations=config.iterations,
            calculate_training_loss=True,
            random_state=seed,
            num_threads=threads,
        )
        if start is not None and start.shape[1] == config.factors:
            model.item_factors = _started(start, seed)
        model.fit(matrix, show_progress=False, callback=on_iteration)
    return np.asarray(model.item_factors, np.float32), iterations


def _started(start: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """The factors, with small ones drawn where there are none: a zero would stay one until its first solution."""
    drawn = np.random.default_rng(seed).random(start.shape, np.float32) * np.float32(0.01)
    return np.where(np.any(start, axis=1, keepdims=True), start, drawn)
