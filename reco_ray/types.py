"""The types that cross rooms: columnar, frozen, checked when made.

`Request` goes in, `Candidates` travel between the stages, `Slate` comes out. `UserRow` is the part of a request that the
platform adds: the packed value of the online store. External ids are strings; ``*_idx`` are row numbers of one release's
catalogue and mean nothing outside of it; ``*_keys`` are `hashing.item_keys`, the compact form of ids in arrays.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["EMPTY_USER", "MAX_OWN_ITEMS", "Candidates", "Request", "Slate", "UserRow"]

MAX_OWN_ITEMS = 1000

_NO_KEYS = np.empty(0, np.uint64)
_NO_FLOATS = np.empty(0, np.float32)
_NO_DAYS = np.empty((0, 3), np.uint16)


@dataclass(frozen=True, slots=True, eq=False)
class UserRow:
    """What the platform knows of one user, as of an instant.

    Attributes:
        history: keys of the last items the user acted on, oldest first, shape (h,).
        weights: strength of each of these actions in [0, 1], shape (h,).
        seen: keys of all items the user has had, sorted, shape (s,).
        features: the user view's columns in its order, shape (f,); empty for an unknown user.
        as_of: time of the newest event applied, microseconds since the epoch; 0 for an unknown user.
        position: on the bus, of the last record applied; -1 where all came from the lake.
        had: of each item of ``seen`` on how many days it was had, and how many days before the newest event first and last,
            65,535 at most, shape (s, 3); empty where that is not known.
    """

    history: NDArray[np.uint64] = field(default_factory=lambda: _NO_KEYS)
    weights: NDArray[np.float32] = field(default_factory=lambda: _NO_FLOATS)
    seen: NDArray[np.uint64] = field(default_factory=lambda: _NO_KEYS)
    features: NDArray[np.float32] = field(default_factory=lambda: _NO_FLOATS)
    as_of: int = 0
    position: int = -1
    had: NDArray[np.uint16] = field(default_factory=lambda: _NO_DAYS)

    def __post_init__(self) -> None:
        if self.history.shape != self.weights.shape:
            raise ValueError(f"history has shape {self.history.shape}, weights {self.weights.shape}: they must agree")
        if self.had.size and self.had.shape != (self.seen.size, 3):
            raise ValueError(f"had has shape {self.had.shape}, expected ({self.seen.size}, 3) like seen, or none")


EMPTY_USER = UserRow()


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One wish for a slate.

    Attributes:
        request_id: names the decision; events refer to it.
        user_id: external id; empty for an anonymous request.
        k: number of items wanted, 1 to 200; with ``items``, up to their number where that is larger.
        surface: where the slate is shown ("home", "email"); rules and metrics may depend on it.
        context: device, locale and the like; allow-listed keys.
        session: ids of the items of the running session, oldest first, newer than the stored history.
        filters: attribute -> values; an item passes when it has one of the values of each attribute.
        exclude: ids that must not come back.
        consent: whether the user's history may be used; without it the slate is not personal.
        user: the stored row of the user; `EMPTY_USER` when unknown.
        similar_to: an item id; when set the slate holds its neighbours instead.
        items: the caller's own items, distinct, best first as the caller sees it, at most 1000; when set the slate is made of
            these and no others.
        item_scores: the caller's scores of ``items``, larger is better, on a scale of its own, NaN where it gave none,
            float32, shape (len(items),).
        query: the text that ``items`` answer; kept out of the repr, so that no log line shows it.
        at_us: when it was asked, microseconds since the epoch; 0 where that is not known, or is to play no part.
        shown: keys of the items of the pages before this one, none of which may come back, sorted, shape (m,); the places of
            the slate count on from there.
        served: keys of items that the user was served lately, none of which may come back either, sorted, shape (s,).
        interests: categories that a user without a history says to like: their items come first in the lists that are the same
            for all. A release ignores those it does not know. (Items that such a user likes stand in ``user`` as its history.)
    """

    request_id: str
    user_id: str = ""
    k: int = 10
    surface: str = "home"
    context: Mapping[str, str] = field(default_factory=dict)
    session: tuple[str, ...] = ()
    filters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    consent: bool = True
    user: UserRow = EMPTY_USER
    similar_to: str = ""
    items: tuple[str, ...] = ()
    item_scores: NDArray[np.float32] = field(default_factory=lambda: _NO_FLOATS)
    query: str = field(default="", repr=False)
    at_us: int = 0
    interests: tuple[str, ...] = field(default=(), repr=False)
    shown: NDArray[np.uint64] = field(default_factory=lambda: _NO_KEYS, repr=False)
    served: NDArray[np.uint64] = field(default_factory=lambda: _NO_KEYS, repr=False)

    def __post_init__(self) -> None:
        n = len(self.items)
        if not 1 <= self.k <= max(200, n):
            raise ValueError(f"k is {self.k}, expected 1 to {max(200, n)}")
        if self.item_scores.shape != (n,):
            raise ValueError(f"item_scores has shape {self.item_scores.shape}, expected ({n},) like items; NaN where none is")
        if not n:
            return
        if n > MAX_OWN_ITEMS or len(set(self.items)) < n:
            found = f"{n} items, {len(set(self.items))} of them distinct"
            raise ValueError(f"found {found}; expected 1 to {MAX_OWN_ITEMS}, all distinct; send fewer, each once")
        if self.similar_to:
            raise ValueError("found both items and similar_to, expected one of them; ask twice")

    @property
    def past(self) -> NDArray[np.uint64]:
        """Keys of all items that must not be shown again: of earlier pages, and of what was served; sorted, shape (p,)."""
        if not self.served.size:
            return self.shown
        return np.union1d(self.shown, self.served) if self.shown.size else self.served


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """What recall returns for one request, best first; the order is recall's own verdict.

    Attributes:
        item_idx: rows of the release's catalogue, distinct, int32, shape (n,).
        scores: recall's merged score, float32, shape (n,).
        sources: bit s is set when source s returned the item, uint16, shape (n,).
        source_ranks: place in each source's list from 0, -1 where the source did not return it, int16, shape (n, S).
        source_scores: each source's own score, NaN where absent, float32, shape (n, S).
        missing: names of the sources that failed or were late.
    """

    item_idx: NDArray[np.int32]
    scores: NDArray[np.float32]
    sources: NDArray[np.uint16]
    source_ranks: NDArray[np.int16]
    source_scores: NDArray[np.float32]
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = self.item_idx.shape[0]
        for name in ("scores", "sources", "source_ranks", "source_scores"):
            found = getattr(self, name).shape
            if found[0] != n:
                raise ValueError(f"candidates.{name} has shape {found}, expected {n} rows like item_idx")
        if self.source_ranks.shape != self.source_scores.shape:
            raise ValueError(
                f"source_ranks has shape {self.source_ranks.shape}, source_scores {self.source_scores.shape}: must agree"
            )

    def __len__(self) -> int:
        return int(self.item_idx.shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class Slate:
    """The answer to one request.

    Attributes:
        request_id: of the request answered.
        item_ids: external ids, best first, distinct, k or fewer.
        titles: of these items, "" where there is none.
        scores: what ordered them before rerank's rules, float32, shape (k,).
        propensities: probability with which the policy showed this item in this place; 1 where nothing is random.
        reasons: per item, names of the sources and rules that brought it.
        degraded: what is less than full in this answer and why, e.g. "unknown_user"; empty for a full answer.
        release: id of the release that answered; empty before it is published.
        rules: version of the rules in force; 0 where there are none.
        missed_rules: names of the pins and quotas among them that this slate does not follow.
        ranker: name of the model whose scores these are; empty where recall's order stands.
    """

    request_id: str
    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    scores: NDArray[np.float32]
    propensities: NDArray[np.float32]
    reasons: tuple[tuple[str, ...], ...]
    degraded: tuple[str, ...] = ()
    release: str = ""
    rules: int = 0
    missed_rules: tuple[str, ...] = ()
    ranker: str = ""

    def __post_init__(self) -> None:
        n = len(self.item_ids)
        sizes = (len(self.titles), *self.scores.shape, *self.propensities.shape, len(self.reasons))
        if sizes != (n, n, n, n):
            raise ValueError(f"a slate of {n} items has titles, scores, propensities, reasons of {sizes}: all must have {n}")
        if len(set(self.item_ids)) != n:
            raise ValueError("a slate holds an item twice")
