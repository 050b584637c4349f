"""The ranker's feature matrix: one row per candidate, from recall's evidence, the item, the user, both, and the context.

Training and serving call this very code, so that a feature cannot mean two things.
"""

import threading
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from reco_ray.arrays import lookup, with_room
from reco_ray.features import CONTEXT_COLUMNS, ITEM_COLUMNS, USER_COLUMNS, Catalogue, ContextRows, Vocabulary
from reco_ray.features.views import USER_TASTE, Column
from reco_ray.recall.merge import fuse
from reco_ray.recall.sources.two_tower import Weights, embed_new
from reco_ray.store import LiveItem
from reco_ray.types import Candidates, Request

__all__ = ["PAIR_COLUMNS", "RankFeatures", "view_columns"]

PAIR_COLUMNS = (
    "taste_share",
    "taste_lift",
    "year_distance",
    "value_distance",
    "popularity_distance",
    "had_before",
    "had_times",
    "had_ago",
    "had_days",
    "had_first",
    "had_last",
)
"""Of user and item together, in a release without towers too."""

_RECENT = 10
_YEAR = [c.name for c in ITEM_COLUMNS].index("item_year")
_EVENTS = [c.name for c in ITEM_COLUMNS].index("item_events")
_ITEM_VALUE = [c.name for c in ITEM_COLUMNS].index("item_value_mean")
_USER_VALUE = [c.name for c in USER_COLUMNS].index("user_value_mean")
_USER_YEAR = [c.name for c in USER_COLUMNS].index("user_year_mean")
_DEFAULT_USER = np.array([c.default for c in USER_COLUMNS], np.float32)


def view_columns() -> tuple[Column, ...]:
    """The columns of the views that the matrix is made of, as they are or within others."""
    return (*ITEM_COLUMNS, *USER_COLUMNS, *CONTEXT_COLUMNS, *USER_TASTE)


class RankFeatures:
    """Makes feature matrices over one release's catalogue.

    Args:
        quotas: of the recall sources by name, in the order of the candidates' columns.
        vectors: item vectors by item_idx, shape (n_items, d); None in a release without towers.
        vocabulary: of the context view, as the ranker was trained with it.
        towers: of ``vectors``, for items that come while it is loaded.

    Attributes:
        catalogue: as given, with what came since.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        quotas: Mapping[str, int],
        vectors: NDArray[np.float32] | None,
        vocabulary: Vocabulary,
        towers: Weights | None = None,
    ) -> None:
        self.catalogue, self._vectors, self.n_sources = catalogue, vectors, len(quotas)
        self._quotas = list(quotas.values())
        self._context = ContextRows(vocabulary)
        self._items, self._towers = catalogue.features, towers
        self._lock = threading.Lock()  # between those who change the items, each from a thread of its own
        self.columns: list[str] = [
            "recall_score",
            "recall_place",
            *(f"{name}_inverse_rank" for name in quotas),
            *(f"{name}_score" for name in quotas),
            *(c.name for c in ITEM_COLUMNS),
            *(c.name for c in USER_COLUMNS),
            *(c.name for c in CONTEXT_COLUMNS),
            *PAIR_COLUMNS,
            *(("similar_max", "similar_mean", "similar_last") if vectors is not None else ()),
        ]

    @property
    def vectors(self) -> NDArray[np.float32] | None:
        """Item vectors by item_idx, of items that came since too."""
        return self._vectors

    def refresh_items(self, features: NDArray[np.float32]) -> None:
        """Take the item view's columns as they are now, of the first items or all, in place of those of the release.

        From any thread.
        """
        with self._lock:
            now = self.catalogue.features
            if features.shape[0] > now.shape[0] or features.shape[1:] != now.shape[1:]:
                raise ValueError(f"item features have shape {features.shape}, expected at most {now.shape}")
            self._items = np.concatenate([features, now[features.shape[0] :]])

    def follow(self, changes: Sequence[LiveItem]) -> None:
        """Take items that came and went, from any thread."""
        with self._lock:
            catalogue, growth = self.catalogue.with_items(changes)
            if self._vectors is not None and self._towers is not None:
                new = growth.put[growth.put >= catalogue.released]
                vectors = with_room(self._vectors, len(catalogue))
                vectors[new] = embed_new(self._towers, catalogue, new)
                self._vectors = vectors
            if len(catalogue) > self._items.shape[0]:
                self._items = np.concatenate([self._items, catalogue.features[self._items.shape[0] :]])
            self.catalogue = catalogue  # last: who asks by it finds the rest

    def matrix(self, request: Request, candidates: Candidates) -> NDArray[np.float32]:
        """Return the features of each candidate, float32, shape (n, len(columns)).

        NaN where a source did not return it, and where the context does not say.
        """
        n = len(candidates)
        item = self._items[candidates.item_idx]
        known = request.user.features.size > 0
        user = request.user.features if known else _DEFAULT_USER
        scalars = np.broadcast_to(user[: len(USER_COLUMNS)], (n, len(USER_COLUMNS)))
        history = self._history(request)
        ranks = candidates.source_ranks
        merged, places = _verdict(request, candidates, self._quotas)
        parts = [
            merged[:, None],
            np.log1p(places)[:, None],
            np.where(ranks >= 0, 1.0 / (1.0 + np.maximum(ranks, 0)), 0.0),
            candidates.source_scores,
            item,
            scalars,
            np.broadcast_to(self._context.row(request), (n, len(CONTEXT_COLUMNS))),
            self._taste(user, candidates.item_idx, known),
            np.abs(item[:, _YEAR] - user[_USER_YEAR])[:, None],
            (item[:, _ITEM_VALUE] - user[_USER_VALUE])[:, None],
            (item[:, _EVENTS] - self._mean_popularity(history))[:, None],
            self._had(request, history, candidates.item_idx),
        ]
        if self._vectors is not None:
            parts.append(self._similarity(self._vectors, history, candidates.item_idx))
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def fused(self, candidates: Candidates) -> NDArray[np.float32]:
        """What recall would score the candidates by the sources' places alone, shape (n,)."""
        return fuse(candidates.source_ranks, self._quotas)

    def _history(self, request: Request) -> NDArray[np.int64]:
        if request.similar_to:
            rows = self.catalogue.find((request.similar_to,))
        else:
            session = self.catalogue.find(list(request.session))
            rows = np.concatenate([self.catalogue.find_keys(request.user.history), session])
        return rows[rows >= 0]

    def _taste(self, user: NDArray[np.float32], item_idx: NDArray[np.int32], known: bool) -> NDArray[np.float32]:
        c = len(self.catalogue.categories)
        if not known:
            return np.zeros((item_idx.size, 2), np.float32)
        taste = user[len(USER_COLUMNS) :].reshape(2, c)
        of = self.catalogue.in_category[item_idx]
        return np.asarray(of / np.maximum(of.sum(axis=1, keepdims=True), 1) @ taste.T, np.float32)

    def _had(self, request: Request, history: NDArray[np.int64], item_idx: NDArray[np.int32]) -> NDArray[np.float32]:
        """What the user has had of the items, shape (n, 6): whether; how often and how long ago among the newest ones; on how
        many days, and how many days before the newest event first and last.
        """
        rows, newest, times = np.unique(history[::-1], return_index=True, return_counts=True)
        at = lookup(rows.astype(np.uint64), item_idx.astype(np.uint64))
        recent = at >= 0
        stored = lookup(request.user.seen, self.catalogue.keys[item_idx])
        found = np.zeros((item_idx.size, 6), np.float32)
        found[:, 0], found[:, 2], found[:, 3:] = recent | (stored >= 0), np.nan, np.nan
        found[recent, 1] = np.log1p(times[at[recent]])
        found[recent, 2] = np.log1p(newest[at[recent]])
        if request.user.had.size:
            known = stored >= 0
            found[known, 3:] = np.log1p(request.user.had[stored[known]].astype(np.float32))
        return found

    def _mean_popularity(self, history: NDArray[np.int64]) -> float:
        return float(self._items[history, _EVENTS].mean()) if history.size else 0.0

    @staticmethod
    def _similarity(
        vectors: NDArray[np.float32], history: NDArray[np.int64], item_idx: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        if not history.size:
            return np.zeros((item_idx.size, 3), np.float32)
        near = vectors[item_idx] @ vectors[history[-_RECENT:]].T
        return np.stack([near.max(axis=1), near.mean(axis=1), near[:, -1]], axis=1)


def _verdict(
    request: Request, candidates: Candidates, quotas: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Recall's merged score and place of each candidate, shape (n,) each.

    Candidates that the caller brought stand in the caller's order, which the model was not trained on. It sees them as if the
    caller's list had been merged as one more source (NDCG@10 of 50 items with up to 5 relevant ones, on MovieLens: the
    shuffled list 0.149, ranked by the caller's places 0.350, like this 0.410).
    """
    places = np.arange(len(candidates), dtype=np.float32)
    if not request.items:
        return candidates.scores, places
    merged = fuse(candidates.source_ranks, quotas) + candidates.scores
    by_place = np.empty_like(places)
    by_place[np.argsort(-merged, kind="stable")] = places
    return merged, by_place
