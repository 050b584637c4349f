"""The features themselves, from the sums: the last step of the batch and of the stream alike."""

import numpy as np
from numpy.typing import NDArray

from reco_ray.features.sums import DAY_US, ITEM_SUMS, USER_SUMS, Sums

__all__ = ["had_items", "item_features", "user_features"]

_DIGITS = 5  # so that sums added up in another order give the same number, but for one unit in this place
_PRIOR = 5.0  # events of an average item that each item starts with
_CTR_PRIOR = 20.0  # impressions of an average item that each item starts with
_TASTE_PRIOR = 3.0
_MOST_DAYS = np.iinfo(np.uint16).max
_FADED = 1e-200  # below it a decayed sum says nothing any more


def user_features(sums: Sums) -> NDArray[np.float32]:
    """The user view's columns, then each category's share and lift, shape (n, F + 2 C).

    Args:
        sums: of `sums.user_sums`.
    """
    of = {name: sums.values[:, at] for at, name in enumerate(USER_SUMS)}
    n = np.maximum(of["n"], 1)
    mean = of["strength"] / n
    value_mean, value_std = _moments(of["n_value"], of["value"], of["value_squares"])
    year_mean, year_std = _moments(of["n_year"], of["year"], of["year_squares"])
    span_days = np.maximum(sums.last - sums.first, 0) / DAY_US
    scalars = (
        np.log1p(of["n"]),
        np.log1p(of["decayed"]),
        mean,
        value_mean,
        value_std,
        np.log1p(span_days),
        year_mean,
        year_std,
        np.log1p(of["views"]),
        np.log1p(of["clicks"]),
        np.log1p(of["purchases"]),
    )
    events, mass, weight = np.split(sums.values[:, len(USER_SUMS) :], 3, axis=1)
    share = mass / np.maximum(mass.sum(axis=1, keepdims=True), _FADED)
    lift = np.where(weight > _FADED, mass / np.maximum(weight, _FADED) - mean[:, None], 0.0) * events / (events + _TASTE_PRIOR)
    return np.round(np.concatenate([np.stack(scalars, axis=1), share, lift], axis=1), _DIGITS).astype(np.float32)


def item_features(sums: Sums, years: NDArray[np.int32], as_of: int) -> NDArray[np.float32]:
    """The item view's columns, shape (n, F).

    Args:
        sums: with `sums.ITEM_SUMS`, of all items: means over all of them stand in for what one has too little of.
        years: 0 where unknown, shape (n,). as_of: microseconds.
    """
    of = dict(zip(ITEM_SUMS, sums.at(as_of).T, strict=True))
    positive_share = of["n_positive"].sum() / max(1.0, of["n"].sum())
    value_mean = of["value"].sum() / max(1.0, of["n_value"].sum())
    _, value_std = _moments(of["n_value"], of["value"], of["value_squares"])
    shown = of["impressions"].sum()
    ctr = min(1.0, of["clicks"].sum() / shown) if shown > _FADED else 0.0
    clicks = of["clicks"] if shown > _FADED else np.zeros_like(of["clicks"])
    times = of["n"].sum() / of["people"].sum() if of["people"].any() else 1.0
    decayed = of["decayed"].sum()
    again = of["again"].sum() / decayed if decayed > _FADED else 0.0
    age_days = np.where(of["n"] > 0, np.maximum(as_of - sums.first.astype(np.float64), 0) / DAY_US, 0.0)
    columns = (
        np.log1p(of["n"]),
        np.log1p(of["decayed"]),
        np.log1p(of["trending"]),
        (of["n_positive"] + _PRIOR * positive_share) / (of["n"] + _PRIOR),
        (of["value"] + _PRIOR * value_mean) / (of["n_value"] + _PRIOR),
        value_std,
        np.log1p(age_days),
        np.where(years > 0, (years - 2000) / 10, 0.0),
        np.log1p(of["clicks"]),
        np.log1p(of["purchases"]),
        np.minimum((clicks + _CTR_PRIOR * ctr) / (of["impressions"] + _CTR_PRIOR), 1.0),
        np.log1p(of["people"]),
        np.log((of["n"] + _PRIOR * times) / (of["people"] + _PRIOR)),
        (of["again"] + _PRIOR * again) / (of["decayed"] + _PRIOR),
    )
    return np.round(np.stack(columns, axis=1), _DIGITS).astype(np.float32)


def had_items(keys: NDArray[np.uint64], days: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.uint16]]:
    """What a user has had, and when: ``seen`` and ``had`` of `types.UserRow`.

    Args:
        keys, days: of each event, days since the epoch, in any order, shape (n,).
    """
    if not keys.size:
        return np.empty(0, np.uint64), np.empty((0, 3), np.uint16)
    order = np.lexsort((days, keys))
    key, day = keys[order], days[order]
    item = np.ones(key.size, np.bool_)
    item[1:] = key[1:] != key[:-1]
    visit = item.copy()
    visit[1:] |= day[1:] != day[:-1]
    starts = np.flatnonzero(item)
    ends = np.append(starts[1:], key.size) - 1
    newest = day.max()
    had = np.stack([np.add.reduceat(visit, starts, dtype=np.int64), newest - day[starts], newest - day[ends]], axis=1)
    return key[starts], np.minimum(had, _MOST_DAYS).astype(np.uint16)


def _moments(
    n: NDArray[np.float64], total: NDArray[np.float64], squares: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each row's values; 0 without values."""
    n = np.maximum(n, 1)
    mean = total / n
    return mean, np.sqrt(np.maximum(squares / n - mean * mean, 0.0))
