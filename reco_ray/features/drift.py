"""Drift: whether features are still distributed as they were where a model was trained. Pure.

Three measures of each column, reference against current rows:

- Population stability index, over bins of about a tenth of the reference each; a value that holds more than a twentieth, as 0
  often does, has a bin to itself. By custom below 0.1 says no change, above 0.25 a shift to act on. Siddiqi 2006,
  Credit Risk Scorecards; Yurdakul and Naranjo 2020, Statistical properties of the population stability index, Journal of Risk
  Model Validation 14(4).
- Two-sample Kolmogorov-Smirnov statistic, the largest distance of the distribution functions, and its p-value. Massey 1951, The
  Kolmogorov-Smirnov test for goodness of fit, JASA 46.
- Jensen-Shannon distance over the same bins, base 2, in [0, 1]. Endres and Schindelin 2003, A new metric for probability
  distributions, IEEE Transactions on Information Theory 49(7).

The index says how far a column has moved, and is large by chance where rows are few: with 10 bins and n rows on either side
about 18 / n on average. So a column drifts where its index is above a limit *and* the test tells it from chance, all columns
considered (Holm 1979, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ALPHA", "Drift", "compare"]

ALPHA = 0.01
"""Chance of any false alarm in one comparison, however many columns it has."""

_MISSING = np.float32(-np.inf)

Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Drift:
    """One column, reference against current.

    Attributes:
        psi: >= 0. ks: in [0, 1]. js: in [0, 1].
        p_value: of ``ks``, corrected for the number of columns.
        missing: shares of values that are not finite, of reference and current.
        default: shares of values at the column's default, of both.
        rows: of both.
        drifts: whether ``psi`` is above the limit, ``p_value`` below `ALPHA`, and the rows enough.
    """

    column: str
    psi: float
    ks: float
    js: float
    p_value: float
    missing: tuple[float, float]
    default: tuple[float, float]
    rows: tuple[int, int]
    drifts: bool


def compare(
    reference: Values,
    current: Values,
    columns: Sequence[str],
    defaults: Sequence[float],
    limit: float,
    min_rows: int,
) -> list[Drift]:
    """Measure the drift of each column; those that drift come first, then the largest index.

    What is missing is a bin of its own, and for the test the least of all values: that some are missing now is a shift.

    Args:
        reference, current: rows of the same columns, shapes (n, F) and (m, F).
        columns, defaults: names and default values, length F.
        limit: of the index. min_rows: with fewer rows on either side nothing drifts.
    Raises: ValueError: the shapes do not agree, or a side has no rows.
    """
    if not (reference.ndim == current.ndim == 2 and reference.shape[1] == current.shape[1] == len(columns) == len(defaults)):
        raise ValueError(
            f"reference has shape {reference.shape}, current {current.shape}, with {len(columns)} names and "
            f"{len(defaults)} defaults: they must agree"
        )
    if not (len(reference) and len(current)):
        raise ValueError(f"found {len(reference)} reference and {len(current)} current rows, expected some of both")
    both = [np.where(np.isfinite(rows), rows, _MISSING) for rows in (reference, current)]
    missing = [np.isneginf(rows).mean(axis=0).tolist() for rows in both]
    default = [(rows == np.asarray(defaults, np.float32)).mean(axis=0).tolist() for rows in both]
    pairs = list(zip(both[0].T, both[1].T, strict=True))
    tests = [_kolmogorov_smirnov(*pair) for pair in pairs]
    p_values = _holm([p_value for _, p_value in tests])
    enough = min(len(reference), len(current)) >= min_rows
    found = []
    for at, (name, pair) in enumerate(zip(columns, pairs, strict=True)):
        index, distance = _binned(*pair)
        found.append(
            Drift(
                name,
                index,
                tests[at][0],
                distance,
                p_values[at],
                missing=(missing[0][at], missing[1][at]),
                default=(default[0][at], default[1][at]),
                rows=(len(reference), len(current)),
                drifts=enough and index > limit and p_values[at] < ALPHA,
            )
        )
    return sorted(found, key=lambda each: (not each.drifts, -each.psi, each.column))


def _binned(reference: Values, current: Values) -> tuple[float, float]:
    """Population stability index and Jensen-Shannon distance; a bin that is empty on one side counts as half a row there."""
    from scipy.spatial.distance import jensenshannon

    bins = _bins(reference)
    counts = np.stack([_counts(rows, *bins) for rows in (reference, current)])
    counts = counts[:, counts.any(axis=0)]
    sizes = np.array([[reference.size], [current.size]])
    p, q = np.maximum(counts, 0.5) / sizes
    with np.errstate(invalid="ignore"):  # of equal shares it takes the root of a number that may be just below 0
        distance = np.nan_to_num(jensenshannon(*(counts / sizes), base=2))
    return float(((p - q) * np.log(p / q)).sum()), float(distance)


def _bins(reference: Values) -> tuple[Values, Values]:
    """Values that have a bin to themselves, and the upper ends of all bins of the others but the last; both ascending.

    The others' bins are not cut where such a value lies between them. So none holds a sliver of the reference, whose logarithm
    would outweigh all else: of 20 rows or more, where there are two such bins, each holds a fortieth at least.
    """
    values, counts = np.unique(reference[np.isfinite(reference)], return_counts=True)
    n = counts.sum()
    alone = counts > max(1, n / 20)
    others, counts = values[~alone], counts[~alone]
    parts = max(1, round(10 * counts.sum() / max(1, n)))
    middles = np.cumsum(counts) - counts / 2
    part = np.floor(middles * parts / max(1, counts.sum()))
    return values[alone], others[:-1][np.diff(part) > 0]


def _counts(rows: Values, alone: Values, cuts: Values) -> NDArray[np.int64]:
    """Rows in each bin; the last one is of what is missing."""
    known = rows[np.isfinite(rows)]
    single = np.isin(known, alone)
    singles = np.bincount(np.searchsorted(alone, known[single]), minlength=alone.size)
    others = np.bincount(np.searchsorted(cuts, known[~single]), minlength=cuts.size + 1)
    return np.concatenate([singles, others, [rows.size - known.size]])


def _kolmogorov_smirnov(reference: Values, current: Values) -> tuple[float, float]:
    # scipy.stats takes 0.8 s to import
    from scipy.stats import ks_2samp

    if reference.size == current.size == 1:  # which the approximation divides by zero for
        return float(reference[0] != current[0]), 1.0
    # the exact p-value takes long for many rows, and for some few it fails
    result = ks_2samp(reference, current, method="asymp")
    return float(result.statistic), float(result.pvalue)


def _holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number, in the order given."""
    order = np.argsort(p_values, kind="stable")
    stepped = np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return [float(each) for each in corrected]
