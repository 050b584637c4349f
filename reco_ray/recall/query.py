"""What sources see of a request: rows of the release's catalogue instead of ids."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from reco_ray.features import USER_COLUMNS, Catalogue, Growth
from reco_ray.hashing import hash64
from reco_ray.types import Request

__all__ = ["Hits", "Live", "Query", "Source", "Watched", "make_query"]

Hits = tuple[NDArray[np.int64], NDArray[np.float32]]
"""item_idx (n,) best first and the source's own scores (n,)."""

_HOUR_US = 3_600_000_000
_UNKNOWN = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """One request as sources see it.

    Attributes:
        history: rows of the items acted on, oldest first, shape (h,). weights: their strengths, shape (h,).
        hidden: rows that must not come back (seen, excluded, of earlier pages, served, withdrawn), sorted, shape (m,).
        similar_to: row of the item whose neighbours are wanted, -1 when it is unknown; None for a personal request.
        allowed: mask of the items that pass the request's filters, shape (n_items,); None without filters.
        liked: columns of `Catalogue.in_category` of the categories that a user without a history says to like, distinct.
        taste: share of each category of the catalogue in what the user did, shape (C,); empty when that is not known.
        turn: changes from user to user and from hour to hour, for sources that show now this, now that.
    """

    history: NDArray[np.int64]
    weights: NDArray[np.float32]
    hidden: NDArray[np.int64]
    similar_to: int | None = None
    allowed: NDArray[np.bool_] | None = None
    liked: tuple[int, ...] = ()
    turn: int = 0
    taste: NDArray[np.float32] = field(default_factory=lambda: _UNKNOWN)

    def visible(self, item_idx: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mask of the rows that may come back, shape (n,)."""
        if not self.hidden.size:
            mask = np.ones(item_idx.shape, np.bool_)
        else:  # np.isin would sort both sides each time
            at = np.searchsorted(self.hidden, item_idx)
            at[at == self.hidden.size] = 0
            mask = self.hidden[at] != item_idx
        return mask if self.allowed is None else mask & self.allowed[item_idx]

    def newest(self, n: int) -> "Query":
        """The same with no more than the ``n`` newest items of the history."""
        return self if self.history.size <= n else replace(self, history=self.history[-n:], weights=self.weights[-n:])


class Source(Protocol):
    """Brings items for queries."""

    def recall(self, queries: list[Query], k: int) -> list[Hits]:
        """Return at most ``k`` visible items per query, distinct, best first; none when the source has nothing to say."""


@runtime_checkable
class Watched(Protocol):
    """A source that searches approximately, and can have its recall against exact search measured."""

    def watch(self, report: Callable[[str, float], None]) -> None:
        """Measure from now on; ``report`` takes the bucket of `index.probe.selectivity` and a recall, from another thread."""


@runtime_checkable
class Live(Protocol):
    """A source that takes items while it is loaded. Rows behind those that it was loaded with are of items that came since."""

    def put(self, catalogue: Catalogue, growth: Growth) -> None:
        """Bring the rows ``growth.put`` from now on; they are others than ``growth.removed``."""

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Do not spend a place on these rows any more; the queries hide them."""


def make_query(request: Request, catalogue: Catalogue, seen_items_return: bool, withdrawn: NDArray[np.int64]) -> Query:
    """Translate a request. Ids, and categories of interest, that the catalogue does not know are dropped.

    Args:
        withdrawn: rows of items that are not available, sorted, distinct.
    """
    user = request.user
    if request.similar_to:
        anchor = catalogue.find((request.similar_to,))
        hidden = _rows(withdrawn, catalogue.find(list(request.exclude)), anchor)
        weights = np.ones(1, np.float32)
        return Query(anchor[anchor >= 0], weights[: int(anchor[0] >= 0)], hidden, int(anchor[0]), allowed(request, catalogue))
    stored, session = catalogue.find_keys(user.history), catalogue.find(list(request.session))
    history = np.concatenate([stored, session])
    weights = np.concatenate([user.weights, np.ones(session.size, np.float32)])
    known = history >= 0
    parts = [catalogue.find(list(request.exclude))]
    if not seen_items_return:
        parts += [catalogue.find_keys(user.seen), session]
    if (past := request.past).size:
        parts.append(catalogue.find_keys(past))
    liked = tuple([catalogue.categories.index(name) for name in request.interests if name in catalogue.categories])
    turn = hash64(f"{request.user_id or request.request_id}/{request.at_us // _HOUR_US}", "turn")
    taste = user.features[len(USER_COLUMNS) :][: len(catalogue.categories)]
    return Query(
        history[known], weights[known], _rows(withdrawn, *parts), None, allowed(request, catalogue), liked, turn, taste
    )


def allowed(request: Request, catalogue: Catalogue) -> NDArray[np.bool_] | None:
    """Mask of the items that pass the filters: one of the values of each attribute; None without filters.

    Attributes are ``category`` and ``year``; the gateway refuses others.
    """
    if not request.filters:
        return None
    mask = np.ones(len(catalogue), np.bool_)
    for attribute, values in request.filters.items():
        if attribute == "category":
            columns = [catalogue.categories.index(v) for v in values if v in catalogue.categories]
            mask &= (catalogue.in_category[:, columns] > 0).any(axis=1)
        elif attribute == "year":
            mask &= np.isin(catalogue.years, [int(v) for v in values])
        else:
            raise ValueError(f"filter attribute is {attribute!r}, expected 'category' or 'year'")
    return mask


def _rows(withdrawn: NDArray[np.int64], *parts: NDArray[np.int64]) -> NDArray[np.int64]:
    if not any(part.size for part in parts):
        return withdrawn
    rows = np.unique(np.concatenate([withdrawn, *parts]))
    return rows[rows >= 0]
