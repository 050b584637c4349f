"""Logged decisions in a table of one's own, checked column by column, as draws to estimate from."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reco_ray.config import PolicyConfig
from reco_ray.errors import DataError
from reco_ray.evaluation.off_policy import Draws

__all__ = ["draws_of"]

_FOLDS = 2
_RIDGE = 1.0
_MOST_VALUES = 50  # of a text column that becomes columns of 0 and 1


def draws_of(table: pl.DataFrame, config: PolicyConfig, where: str) -> Draws:
    """Read draws from a table with a row per place.

    Args:
        where: name of the table, for errors.
    Raises: DataError: names the column, what was found, what is expected, and the setting that names it.
    """
    if table.is_empty():
        raise DataError(f"{where}: found no rows, expected logged decisions; see policy.table")
    rewards = _numbers(table, config.reward, "reward", where)
    logged = _odds(table, config.propensity, "propensity", where, least=1e-12)
    actions = _column(table, config.action, "action", where).cast(pl.String)
    every = {name.removeprefix(config.target_prefix): name for name in table.columns if name.startswith(config.target_prefix)}
    if every:
        matrix = np.stack([_odds(table, name, "target_prefix", where) for name in every.values()], axis=1)
        target = _of_logged(matrix, list(every), actions, config, where)
    else:
        matrix, target = np.zeros((table.height, 0)), _odds(table, config.target, "target", where)
    units = _codes(_column(table, config.unit, "unit", where)) if config.unit else np.arange(table.height)
    if config.draw:
        return _slates(table, config, where, rewards, logged, target, units if config.unit else None)
    predicted = expected = None
    if every and config.context:
        values = _predictions(_features(table, config.context, where), actions, rewards, list(every))
        predicted = values[np.arange(table.height), [list(every).index(action) for action in actions]][:, None]
        expected = (matrix * values).sum(axis=1)[:, None]
    return Draws(rewards[:, None], logged[:, None], target[:, None], units, predicted, expected)


def _slates(
    table: pl.DataFrame,
    config: PolicyConfig,
    where: str,
    rewards: NDArray[np.float64],
    logged: NDArray[np.float64],
    target: NDArray[np.float64],
    units: NDArray[np.int64] | None,
) -> Draws:
    """Rows to draws, places side by side; short slates are filled up with what changes nothing."""
    draw = _codes(_column(table, config.draw, "draw", where))
    position = _numbers(table, config.position, "position", where)
    k, n = int(position.max()), int(draw.max()) + 1
    sizes, tops = np.bincount(draw), np.zeros(n)
    np.maximum.at(tops, draw, position)
    places = position.astype(np.int64) - 1
    if (
        (places != position - 1).any()
        or places.min() < 0
        or np.unique(draw * k + places).size < draw.size
        or (tops > sizes).any()
    ):
        raise DataError(
            f"{where}: found positions {position.min():g} to {position.max():g} in column {config.position!r}, "
            f"expected 1, 2, 3 and so on within each {config.draw!r}, each once; see policy.position"
        )
    parts = np.zeros((n, k)), np.ones((n, k)), np.ones((n, k))
    for part, values in zip(parts, (rewards, logged, target), strict=True):
        part[draw, places] = values
    of_draw = np.arange(n)
    if units is not None:
        of_draw[draw] = units
    return Draws(*parts, of_draw)


def _of_logged(
    matrix: NDArray[np.float64], names: Sequence[str], actions: pl.Series, config: PolicyConfig, where: str
) -> NDArray[np.float64]:
    sums = matrix.sum(axis=1)
    if not np.allclose(sums, 1, atol=1e-3):
        raise DataError(
            f"{where}: found rows whose columns {config.target_prefix}* sum to {sums.min():.3f} up to {sums.max():.3f}, "
            "expected 1: the odds of all actions; see policy.target_prefix"
        )
    if strange := sorted(set(actions.unique()) - set(names))[:3]:
        raise DataError(
            f"{where}: found actions {strange} without a column {config.target_prefix}{strange[0]}, expected one for each; "
            "see policy.target_prefix"
        )
    at = {name: i for i, name in enumerate(names)}
    return np.asarray(matrix[np.arange(matrix.shape[0]), [at[action] for action in actions]])


def _predictions(
    features: NDArray[np.float64], actions: pl.Series, rewards: NDArray[np.float64], names: Sequence[str]
) -> NDArray[np.float64]:
    """A ridge regression for each action, cross-fitted: each half is predicted by the other one; shape (n, actions)."""
    n, d = features.shape
    fold, taken = np.arange(n) % _FOLDS, actions.to_numpy()
    found = np.zeros((n, len(names)))
    for half in range(_FOLDS):
        mean = rewards[fold != half].mean() if (fold != half).any() else 0.0
        for column, name in enumerate(names):
            rows = (fold != half) & (taken == name)
            x, y = features[rows], rewards[rows] - mean
            weights = np.linalg.solve(x.T @ x + _RIDGE * np.eye(d), x.T @ y)
            found[fold == half, column] = mean + features[fold == half] @ weights
    return found


def _features(table: pl.DataFrame, names: Sequence[str], where: str) -> NDArray[np.float64]:
    """A constant, numbers in deviations from their mean, and a column of 0 and 1 for each value of a text; shape (n, d)."""
    parts = [np.ones((table.height, 1))]
    for name in names:
        column = _column(table, name, "context", where)
        if column.dtype.is_numeric() or column.dtype == pl.Boolean:
            values = column.cast(pl.Float64).to_numpy()
            parts.append(((values - values.mean()) / (values.std() or 1.0))[:, None])
        else:
            codes = _codes(column.cast(pl.String))
            if codes.max() >= _MOST_VALUES:
                raise DataError(
                    f"{where}: found {codes.max() + 1} values in column {name!r}, expected at most {_MOST_VALUES} of a text; "
                    "take it out of policy.context"
                )
            parts.append(np.eye(codes.max() + 1)[codes])
    return np.concatenate(parts, axis=1)


def _codes(column: pl.Series) -> NDArray[np.int64]:
    return np.asarray(np.unique(column.cast(pl.String).to_numpy(), return_inverse=True)[1], np.int64)


def _column(table: pl.DataFrame, name: str, setting: str, where: str) -> pl.Series:
    if name not in table.columns:
        raise DataError(
            f"{where}: found no column {name!r} among {table.columns[:20]}, expected it; give policy.{setting}=NAME"
        )
    if nulls := table[name].null_count():
        raise DataError(f"{where}: found {nulls} rows without {name!r}, expected a value in each; see policy.{setting}")
    return table[name]


def _numbers(table: pl.DataFrame, name: str, setting: str, where: str) -> NDArray[np.float64]:
    column = _column(table, name, setting, where)
    if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        raise DataError(f"{where}: found {column.dtype} in column {name!r}, expected numbers; see policy.{setting}")
    values = column.cast(pl.Float64).to_numpy()
    if not np.isfinite(values).all():
        raise DataError(f"{where}: found NaN or infinity in column {name!r}, expected finite numbers; see policy.{setting}")
    return values


def _odds(table: pl.DataFrame, name: str, setting: str, where: str, least: float = 0.0) -> NDArray[np.float64]:
    values = _numbers(table, name, setting, where)
    if values.min() < least or values.max() > 1:
        above = "more than 0" if least else "0"
        raise DataError(
            f"{where}: found {values.min():g} to {values.max():g} in column {name!r}, expected probabilities, {above} to 1; "
            f"see policy.{setting}"
        )
    return values
