"""The rerank stage of a release: filters and rules, then diversity, then exploration; makes the slate.

A request with items of its own is arranged by other rules, because the caller chose them: blocked and unavailable items drop
out and boosts move items, as always; but seen items stay, ties keep the caller's order, no diversity, pin or cap reshuffles
them, and items that the release does not know follow the others in the caller's order, unscored.

The seam to the rules in force is `rules.Plan`: a mask, boosts, pins, and `rules.Bounds`, asked at each place by what chooses.
"""

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reco_ray.arrays import best_first
from reco_ray.config import Diversify, ExploreConfig, ExploreKind, RerankConfig
from reco_ray.features import Catalogue
from reco_ray.recall.query import Query, make_query
from reco_ray.rerank.bandit import DRAWN, Beliefs, Evidence, circumstances
from reco_ray.rerank.exploration import SlatePolicy
from reco_ray.rerank.policy import Scored, Sources, generator_of, make_policy
from reco_ray.rules import NO_RULES, Bounds, Hits, Plan, Pushed, RuleBook, Standing, tally
from reco_ray.store import EXPLORE, Flags, LiveItem
from reco_ray.types import Candidates, Request, Slate

__all__ = ["Rerank", "build", "load"]

_FILE = "rerank.json"


class _Ready(NamedTuple):
    """Candidates of one request that may be shown, with what orders them."""

    query: Query
    plan: Plan
    binds: bool
    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    bits: NDArray[np.uint16]
    boost: NDArray[np.float32]
    standard: NDArray[np.float32]
    push: NDArray[np.float32] | None


class Rerank:
    """Arranges scored candidates.

    Args:
        sources: names of the recall sources by bit.
        clock: unix time in seconds; for campaigns, where a request does not say when it was asked.
    """

    def __init__(
        self, catalogue: Catalogue, config: RerankConfig, sources: Sequence[str], clock: Callable[[], float] = time.time
    ) -> None:
        self._config, self._sources, self._clock = config, list(sources), clock
        self._boosts = np.zeros(len(catalogue.categories), np.float32)
        for category, amount in config.boosts.items():
            if category in catalogue.categories:
                self._boosts[catalogue.categories.index(category)] = amount
        self._lock = threading.Lock()  # between requests, and changes from other threads
        self._changing = threading.Lock()  # between those that change
        self._hits: Hits = {}
        self._explores = True
        self.learns = config.explore.kind is ExploreKind.linucb and config.explore.rate > 0
        self._beliefs = Beliefs.of(self._sources)
        self._drawn_from = np.zeros(len(self._sources), np.int64)
        self.unknown = self.arranged = 0
        self._take(catalogue, RuleBook(NO_RULES, catalogue))

    def spread(self, kind: Diversify, diversity: float) -> "Rerank":
        """The same stage with another diversity, without exploration and rules: to measure what variety costs."""
        config = replace(self._config, diversify=kind, diversity=diversity, explore=ExploreConfig())
        return Rerank(self._catalogue, config, self._sources, self._clock)

    def _take(self, catalogue: Catalogue, book: RuleBook) -> None:
        self._catalogue, self._book = catalogue, book
        blocked = catalogue.find(self._config.blocked)
        self._hidden = np.unique(np.concatenate([blocked[blocked >= 0], np.flatnonzero(~catalogue.available)]))

    def follow(self, changes: Sequence[LiveItem]) -> None:
        """Contract of `slate.LiveStage`."""
        with self._changing:
            with self._lock:
                grown = self._catalogue.with_items(changes)[0]
            self._swap(grown, self._book.over(grown))

    def obey(self, standing: Standing) -> None:
        """Contract of `slate.RuledStage`."""
        with self._changing:
            self._swap(self._catalogue, self._book.over(self._catalogue, standing))

    def switch(self, flags: Flags) -> None:
        """Contract of `slate.SwitchedStage`: nothing is left to chance where exploration is off."""
        self._explores = EXPLORE not in flags.off

    def learn(self, parts: Sequence[bytes]) -> None:
        """Contract of `slate.LearningStage`."""
        self._beliefs = Beliefs.of(self._sources, [Evidence.unpack(part) for part in parts])

    def drawn_from(self) -> dict[str, int]:
        """Contract of `slate.LearningStage`."""
        with self._lock:
            counts, self._drawn_from = self._drawn_from, np.zeros_like(self._drawn_from)
        return {name: n for name, n in zip(self._sources, counts.tolist(), strict=True) if n}

    def rule_hits(self) -> Hits:
        """Contract of `slate.RuledStage`."""
        with self._changing:
            with self._lock:
                taken = self._book.take()
            self._add(tally(taken))
            told, self._hits = self._hits, {}
        return told

    def pushed(self) -> list[Pushed]:
        """Contract of `slate.RuledStage`."""
        with self._lock:
            return self._book.pushed()

    def _swap(self, catalogue: Catalogue, book: RuleBook) -> None:
        with self._lock:
            taken = self._book.take()
            self._take(catalogue, book)
        self._add(tally(taken))

    def _add(self, told: Hits) -> None:
        for key, n in told.items():
            self._hits[key] = self._hits.get(key, 0) + n

    def arrange(
        self, requests: Sequence[Request], candidates: Sequence[Candidates], scores: Sequence[NDArray[np.float32]]
    ) -> list[Slate]:
        """Contract of `slate.RerankStage`; what is less than full is named in ``degraded``."""
        with self._lock:
            self.arranged += len(requests)
            return [self._one(r, c, s) for r, c, s in zip(requests, candidates, scores, strict=True)]

    def odds(
        self,
        requests: Sequence[Request],
        candidates: Sequence[Candidates],
        scores: Sequence[NDArray[np.float32]],
        shown: Sequence[Sequence[str]],
    ) -> list[NDArray[np.float64]]:
        """With which odds each slate would have been shown here: P(its item | those before it) per place, 0 behind a 0."""
        found = []
        with self._lock:
            for request, candidate, score, item_ids in zip(requests, candidates, scores, shown, strict=True):
                ready = self._ready(request, candidate, score)
                pool, policy = self._policy(request, ready)
                place = {int(row): at for at, row in enumerate(ready.rows[pool].tolist())}
                rows = self._catalogue.find(list(item_ids)).tolist()
                found.append(policy.follow(np.array([place.get(row, -1) for row in rows], np.int64)).propensities)
        return found

    def _ready(self, request: Request, candidates: Candidates, scores: NDArray[np.float32]) -> "_Ready":
        """Filter, apply rules and boosts."""
        seen_items_return = self._config.seen_items_return or bool(request.items)
        query = make_query(request, self._catalogue, seen_items_return, self._hidden)
        catalogue = self._catalogue
        rows = candidates.item_idx.astype(np.int64)
        known = np.flatnonzero(rows < len(catalogue))
        self.unknown += rows.size - known.size
        kept = known[query.visible(rows[known])]
        plan = self._book.plan(request, self._clock())
        kept = kept[plan.keeps(rows[kept])]
        rows, scores, bits = rows[kept], scores[kept], candidates.sources[kept]
        binds = plan.binds and not request.items
        if binds and (pinned := self._pinned(request, plan, query, rows)).size:
            rows = np.concatenate([rows, pinned])
            scores = np.concatenate([scores, np.full(pinned.size, np.nan, np.float32)])
            bits = np.concatenate([bits, np.zeros(pinned.size, bits.dtype)])
        boost = catalogue.in_category[rows] @ self._boosts if self._config.boosts else np.zeros(rows.size, np.float32)
        if plan.boosts:
            boost = boost + plan.boost[rows]
        standard = np.asarray(_standardise(scores) + boost, np.float32)
        push = plan.pushes.added(rows) if plan.pushes and not request.items else None
        standard = standard if push is None else standard + push
        return _Ready(query, plan, binds, rows, scores, bits, boost, standard, push)

    def _one(self, request: Request, candidates: Candidates, scores: NDArray[np.float32]) -> Slate:
        ready = self._ready(request, candidates, scores)
        query, plan, _, rows, scores, bits, boost, standard, push = ready
        catalogue = self._catalogue
        bounds: Bounds | None = None
        picked: list[int] = []
        if request.items:
            chosen = best_first(standard, np.arange(rows.size, dtype=np.uint64), request.k)
            propensities, explored = np.ones(chosen.size), np.zeros(chosen.size, np.bool_)
            origins = np.full(chosen.size, -1)
        else:
            pool, policy = self._policy(request, ready)
            chance = generator_of(request.request_id, request.user_id) if policy.rate else None
            drawn = policy.draw(request.k, chance)
            chosen, picked, bounds = pool[drawn.chosen], drawn.chosen.tolist(), policy.bounds
            propensities, explored, origins = drawn.propensities, drawn.explored, drawn.origins
            if self.learns:
                self._drawn_from += np.bincount(origins[origins >= 0], minlength=len(self._sources))
        item_idx = rows[chosen]
        if push is not None:
            plan.pushes.showed(item_idx, request.shown.size)
            if push.any() and plan.pushes.due():
                base = standard - push
                pool, policy = self._policy(request, ready._replace(standard=base))
                plain = policy.draw(request.k, generator_of(request.request_id, request.user_id) if policy.rate else None)
                plan.pushes.compare(base[pool[plain.chosen]], base[chosen])
        boosted = boost[chosen] != 0
        unknown = self._unknown(request)
        told = list(zip(bits[chosen].tolist(), boosted.tolist(), explored.tolist(), origins.tolist(), strict=True))
        named = {each: self._reasons(*each) for each in set(told)}  # few differ
        reasons = [named[each] for each in told]
        if push is not None and push[chosen].any():
            reasons = [(*why, "exposure") if moved else why for why, moved in zip(reasons, push[chosen].tolist(), strict=True)]
        missed: tuple[str, ...] = ()
        if bounds is not None:
            for place, rule in bounds.pins_of(picked):
                reasons[place] = (*reasons[place], f"rule:{rule}")
            missed = bounds.missed_by(picked)
            plan.count("pinned", [rule for _, rule in bounds.pins_of(picked)])
            plan.count("missed", missed)
        slate = Slate(
            request_id=request.request_id,
            item_ids=tuple([catalogue.item_ids[i] for i in item_idx.tolist()]),
            titles=tuple([catalogue.titles[i] for i in item_idx.tolist()]),
            scores=scores[chosen],
            propensities=propensities.astype(np.float32),
            reasons=tuple(reasons),
            degraded=self._degraded(request, candidates, query, item_idx.size, len(unknown)),
            rules=self._book.version,
            missed_rules=missed,
        )
        return _append(slate, unknown[: request.k - item_idx.size]) if unknown else slate

    def _policy(self, request: Request, ready: _Ready) -> tuple[NDArray[np.int64], SlatePolicy]:
        """What fills the places, and from which of the rows."""
        c, rows, standard, wanted = self._catalogue, ready.rows, ready.standard, None
        plan = ready.plan if ready.binds else None
        if plan is not None:
            wanted = np.zeros(rows.size, np.bool_)
            for _, row, _ in plan.pins_at(request.shown.size, request.k):  # few
                wanted |= rows == row
            wanted[plan.more(rows, standard, request.k)] = True
        return make_policy(
            self._config,
            Scored(standard, c.keys[rows], c.events[rows], c.in_category, rows),
            request.k,
            explores=self._explores and not request.similar_to,
            mix=ready.query.taste,
            wanted=wanted,
            bound=None if plan is None else lambda pool: plan.bounds(rows[pool], request.k, request.shown.size),
            sources=self._choices(request, ready.bits),
        )

    @staticmethod
    def _pinned(request: Request, plan: Plan, query: Query, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of pinned items that are not among the candidates, and may be shown."""
        pins = plan.pins_at(request.shown.size, request.k)
        pinned = np.array([row for _, row, _ in pins if row >= 0], np.int64)
        pinned = np.unique(pinned[~(pinned[:, None] == rows).any(axis=1)])
        return pinned[query.visible(pinned) & ~plan.hidden[pinned]]

    def _unknown(self, request: Request) -> tuple[str, ...]:
        if not request.items:
            return ()
        rows = self._catalogue.find(request.items)
        return tuple(request.items[i] for i in np.flatnonzero(rows < 0))

    def _reasons(self, bits: int, boosted: bool, explored: bool, origin: int) -> tuple[str, ...]:
        names = tuple(name for s, name in enumerate(self._sources) if bits >> s & 1)
        origins = [DRAWN + self._sources[origin]] if origin >= 0 else []
        return (*names, *(["boost"] if boosted else []), *(["explore"] if explored else []), *origins)

    def _choices(self, request: Request, bits: NDArray[np.uint16]) -> Sources | None:
        """What a bandit chooses among; None where there is none."""
        if not self.learns:
            return None
        brought = (bits[:, None] >> np.arange(len(self._sources), dtype=np.uint16) & 1).astype(np.bool_)
        return Sources(brought, self._beliefs.upper(circumstances(request), self._config.explore.width))

    @staticmethod
    def _degraded(request: Request, candidates: Candidates, query: Query, found: int, unknown: int) -> tuple[str, ...]:
        marks = [f"source_missing:{name}" for name in candidates.missing]
        if request.similar_to:
            marks += ["unknown_item"] if not query.history.size else []
        elif not query.history.size and not query.liked:  # interests are what a first slate is made of
            marks.append("no_consent" if not request.consent else "unknown_user")
        if unknown:
            marks.append("unknown_items")
        if found + unknown < min(request.k, len(request.items) or request.k):
            marks.append("short_slate")
        return tuple(marks)


def _append(slate: Slate, unknown: tuple[str, ...]) -> Slate:
    n = len(unknown)
    return replace(
        slate,
        item_ids=slate.item_ids + unknown,
        titles=slate.titles + ("",) * n,
        scores=np.concatenate([slate.scores, np.full(n, np.nan, np.float32)]),
        propensities=np.concatenate([slate.propensities, np.ones(n, np.float32)]),
        reasons=slate.reasons + (("unknown_item",),) * n,
    )


def _standardise(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Zero mean and unit deviation over the finite scores, so that boosts and diversity mean the same for every model."""
    known = np.isfinite(scores)
    finite = scores if known.all() else scores[known]
    if not finite.size:
        return scores
    centred = finite - finite.sum(dtype=np.float64) / finite.size
    deviation = max(float(np.sqrt(centred @ centred / finite.size)), 1e-6)
    return np.asarray((centred if finite is scores else scores - (finite[0] - centred[0])) / deviation, np.float32)


def build(folder: Path, config: RerankConfig) -> None:
    """Write the rules into a release's folder."""
    (folder / _FILE).write_text(json.dumps(asdict(config), indent=1, sort_keys=True, default=lambda kind: kind.name))


def load(folder: Path) -> Rerank:
    """Load the rerank stage from a release's local folder."""
    sources = json.loads((folder / "recall.json").read_text())["quotas"]
    found = json.loads((folder / _FILE).read_text())
    explore = found.pop("explore", {})  # releases of before explore nothing
    if explore:
        explore["kind"] = ExploreKind[explore["kind"]]
    found["diversify"] = Diversify[found.get("diversify", "mmr")]
    return Rerank(Catalogue.load(folder), RerankConfig(**found, explore=ExploreConfig(**explore)), list(sources))
