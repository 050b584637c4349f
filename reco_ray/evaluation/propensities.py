"""Whether logged propensities are those that items were really drawn with."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["agreement"]


def agreement(odds: NDArray[np.float64], taken: NDArray[np.int64]) -> float:
    """Test whether draws came with the odds that were logged; returns the p-value.

    Draws need not be alike: the statistic is (O - E)' V^-1 (O - E) with counts O, their expectations E and their exact
    covariance V, the sum of each draw's own. For many draws it is chi-square distributed; for draws that are alike, Pearson's.

    Args:
        odds: of each outcome in each draw, rows that sum to 1, shape (n, m).
        taken: the outcome of each draw, shape (n,).
    Returns: near 0 where the odds are not those of the draws (0 where what had no chance was taken), else uniform in [0, 1].
    Raises: ValueError: shapes disagree, or a row does not sum to 1.
    """
    from scipy.stats import chi2

    n, m = odds.shape
    if taken.shape != (n,) or not np.allclose(odds.sum(axis=1), 1, atol=1e-4):
        raise ValueError(
            f"found odds of {odds.shape} that sum to {odds.sum(axis=1)[:3]}, outcomes {taken.shape}; expected rows of 1"
        )
    if (odds[np.arange(n), taken] <= 0).any():
        return 0.0
    surprise = np.bincount(taken, minlength=m) - odds.sum(axis=0)
    spread = np.diag(odds.sum(axis=0)) - odds.T @ odds
    rank = int(np.linalg.matrix_rank(spread, hermitian=True))
    return float(chi2.sf(surprise @ np.linalg.pinv(spread, hermitian=True) @ surprise, rank))
