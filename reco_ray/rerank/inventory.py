"""What slates are made of: the items as they are now, and which of a request's candidates may be shown, by what order."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reco_ray.config import RerankConfig
from reco_ray.features import Catalogue
from reco_ray.recall.query import Query, make_query
from reco_ray.rules import Plan
from reco_ray.types import Candidates, Request

__all__ = ["Inventory", "Prepared"]


class Prepared(NamedTuple):
    """The candidates of one request that may be shown, with what orders them.

    Attributes:
        query: the request as the stages see it. plan: rules over all items. binds: whether they choose for places.
        rows: of the catalogue, shape (n,), as all that follow. scores: of the ranker, NaN where a pin brought the item.
        bits: of the sources that brought each. boost, push: what the configuration and rules, and rules on exposure, add;
            push is None where none does. standard: scores, standardised, with both.
        unknown: how many candidates the catalogue does not know yet.
    """

    query: Query
    plan: Plan
    binds: bool
    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    bits: NDArray[np.uint16]
    boost: NDArray[np.float32]
    push: NDArray[np.float32] | None
    standard: NDArray[np.float32]
    unknown: int


@dataclass(frozen=True, slots=True, eq=False)
class Inventory:
    """The items, and what the configuration says of them.

    Attributes:
        catalogue: of the release, with what came since; N items of C categories.
        events: how often each was met, shape (N,).
        hidden: sorted rows that no request may show.
        boosts: by category, shape (C,).
        seen_items_return: whether what a user has had may be shown again.
    """

    catalogue: Catalogue
    events: NDArray[np.int64]
    hidden: NDArray[np.int64]
    boosts: NDArray[np.float32] | None
    seen_items_return: bool

    @classmethod
    def of(cls, catalogue: Catalogue, config: RerankConfig, met: NDArray[np.int64]) -> "Inventory":
        """The items as they are now.

        Args:
            met: how often each of the first items, or all, was met, in place of the counts of the release.
        """
        blocked = catalogue.find(config.blocked)
        boosts = np.array([config.boosts.get(name, 0) for name in catalogue.categories], np.float32)
        return cls(
            catalogue,
            np.concatenate([met, catalogue.events[met.size :]]),
            np.unique(np.concatenate([blocked[blocked >= 0], np.flatnonzero(~catalogue.available)])),
            boosts if config.boosts else None,
            config.seen_items_return,
        )

    def with_met(self, met: NDArray[np.int64]) -> "Inventory":
        """The same with other counts of how often the first items, or all, were met."""
        return replace(self, events=np.concatenate([met, self.catalogue.events[met.size :]]))

    def prepare(self, request: Request, candidates: Candidates, scores: NDArray[np.float32], plan: Plan) -> Prepared:
        """Filter the candidates, add pinned items, and apply boosts."""
        seen_items_return = self.seen_items_return or bool(request.items)
        query = make_query(request, self.catalogue, seen_items_return, self.hidden)
        rows = candidates.item_idx.astype(np.int64)
        known = np.flatnonzero(rows < len(self.catalogue))
        unknown = rows.size - known.size
        kept = known[query.visible(rows[known])]
        kept = kept[plan.keeps(rows[kept])]
        rows, scores, bits = rows[kept], scores[kept], candidates.sources[kept]
        binds = plan.binds and not request.items
        if binds and (pinned := _pinned(request, plan, query, rows)).size:
            rows = np.concatenate([rows, pinned])
            scores = np.concatenate([scores, np.full(pinned.size, np.nan, np.float32)])
            bits = np.concatenate([bits, np.zeros(pinned.size, bits.dtype)])
        boost = np.zeros(rows.size, np.float32) if self.boosts is None else self.catalogue.in_category[rows] @ self.boosts
        if plan.boosts:
            boost = boost + plan.boost[rows]
        standard = np.asarray(_standardise(scores) + boost, np.float32)
        push = plan.pushes.added(rows) if plan.pushes and not request.items else None
        standard = standard if push is None else standard + push
        return Prepared(query, plan, binds, rows, scores, bits, boost, push, standard, unknown)


def _pinned(request: Request, plan: Plan, query: Query, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of pinned items that are not among the candidates, and may be shown."""
    pins = plan.pins_at(request.shown.size, request.k)
    pinned = np.array([row for _, row, _ in pins if row >= 0], np.int64)
    pinned = np.unique(pinned[~(pinned[:, None] == rows).any(axis=1)])
    return pinned[query.visible(pinned) & ~plan.hidden[pinned]]


def _standardise(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Zero mean and unit deviation over the finite scores, so that boosts and diversity mean the same for every model."""
    known = np.isfinite(scores)
    finite = scores if known.all() else scores[known]
    if not finite.size:
        return scores
    centred = finite - finite.sum(dtype=np.float64) / finite.size
    deviation = max(float(np.sqrt(centred @ centred / finite.size)), 1e-6)
    return np.asarray((centred if finite is scores else scores - (finite[0] - centred[0])) / deviation, np.float32)
