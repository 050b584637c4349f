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

import numpy as np
from numpy.typing import NDArray

from reco_ray.arrays import best_first
from reco_ray.config import Diversify, ExploreConfig, ExploreKind, RerankConfig
from reco_ray.features import Catalogue
from reco_ray.rerank.bandit import Beliefs, Evidence, circumstances
from reco_ray.rerank.exploration import SlatePolicy
from reco_ray.rerank.inventory import Inventory, Prepared
from reco_ray.rerank.marks import degraded, reasons, with_unknown
from reco_ray.rerank.policy import Filled, Scored, Sources, generator_of, make_policy
from reco_ray.rules import NO_RULES, Hits, Pushed, RuleBook, Standing, tally
from reco_ray.store import EXPLORE, Flags, LiveItem
from reco_ray.types import Candidates, Request, Slate

__all__ = ["Rerank", "build", "load"]

_FILE = "rerank.json"


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
        self._lock = threading.Lock()  # between requests, and changes from other threads
        self._changing = threading.Lock()  # between those that change
        self._hits: Hits = {}
        self._explores = True
        self.learns = config.explore.kind is ExploreKind.linucb and config.explore.rate > 0
        self._beliefs = Beliefs.of(self._sources)
        self._drawn_from = np.zeros(len(self._sources), np.int64)
        self._met = np.empty(0, np.int64)
        self.unknown = self.arranged = 0
        self._book = RuleBook(NO_RULES, catalogue)
        self._inventory = Inventory.of(catalogue, config, self._met)

    @property
    def catalogue(self) -> Catalogue:
        """Of the release, with what came since."""
        return self._inventory.catalogue

    @property
    def explores(self) -> bool:
        """Whether the release leaves anything to chance."""
        return self._config.explore.kind is not ExploreKind.none and self._config.explore.rate > 0

    def spread(self, kind: Diversify, diversity: float) -> "Rerank":
        """The same stage with another diversity, without exploration and rules: to measure what variety costs."""
        config = replace(self._config, diversify=kind, diversity=diversity, explore=ExploreConfig())
        return Rerank(self.catalogue, config, self._sources, self._clock)

    def follow(self, changes: Sequence[LiveItem]) -> None:
        """Contract of `slate.LiveStage`."""
        with self._changing:
            with self._lock:
                grown = self.catalogue.with_items(changes)[0]
            self._swap(grown, self._book.over(grown))

    def obey(self, standing: Standing) -> None:
        """Contract of `slate.RuledStage`."""
        with self._changing:
            self._swap(self.catalogue, self._book.over(self.catalogue, standing))

    def refresh_met(self, met: NDArray[np.int64]) -> None:
        """Take how often each of the first items, or all, was met up to now, in place of the counts of the release.

        From any thread.
        """
        with self._lock:
            if met.size > len(self.catalogue):
                raise ValueError(f"found counts of {met.size} items, expected at most {len(self.catalogue)}")
            self._met = met
            self._inventory = self._inventory.with_met(met)

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
            self._inventory, self._book = Inventory.of(catalogue, self._config, self._met), book
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
                ready = self._prepare(request, candidate, score)
                pool, policy = self._policy(request, ready)
                place = {int(row): at for at, row in enumerate(ready.rows[pool].tolist())}
                rows = self.catalogue.find(list(item_ids)).tolist()
                found.append(policy.follow(np.array([place.get(row, -1) for row in rows], np.int64)).propensities)
        return found

    def _prepare(self, request: Request, candidates: Candidates, scores: NDArray[np.float32]) -> Prepared:
        ready = self._inventory.prepare(request, candidates, scores, self._book.plan(request, self._clock()))
        self.unknown += ready.unknown
        return ready

    def _one(self, request: Request, candidates: Candidates, scores: NDArray[np.float32]) -> Slate:
        ready = self._prepare(request, candidates, scores)
        filled = self._as_asked(request, ready) if request.items else self._fill(request, ready)
        if ready.push is not None:
            self._tell_pushes(request, ready, filled.chosen)
        chosen, catalogue, unknown = filled.chosen, self.catalogue, self._unknown(request)
        item_idx = ready.rows[chosen]
        slate = Slate(
            request_id=request.request_id,
            item_ids=tuple([catalogue.item_ids[i] for i in item_idx.tolist()]),
            titles=tuple([catalogue.titles[i] for i in item_idx.tolist()]),
            scores=ready.scores[chosen],
            propensities=filled.propensities.astype(np.float32),
            reasons=tuple(reasons(self._sources, ready, filled)),
            degraded=degraded(request, candidates, ready.query, item_idx.size, len(unknown)),
            rules=self._book.version,
            missed_rules=filled.missed,
        )
        return with_unknown(slate, unknown[: request.k - item_idx.size]) if unknown else slate

    @staticmethod
    def _as_asked(request: Request, ready: Prepared) -> Filled:
        """The best of the caller's items."""
        chosen = best_first(ready.standard, np.arange(ready.rows.size, dtype=np.uint64), request.k)
        return Filled(chosen, np.ones(chosen.size), np.zeros(chosen.size, np.bool_), np.full(chosen.size, -1))

    def _fill(self, request: Request, ready: Prepared) -> Filled:
        """Fill the places by rules, diversity and exploration."""
        pool, policy = self._policy(request, ready)
        drawn = policy.draw(request.k, generator_of(request.request_id, request.user_id) if policy.rate else None)
        if self.learns:
            self._drawn_from += np.bincount(drawn.origins[drawn.origins >= 0], minlength=len(self._sources))
        filled = Filled(pool[drawn.chosen], drawn.propensities, drawn.explored, drawn.origins)
        if policy.bounds is None:
            return filled
        picked = drawn.chosen.tolist()
        filled = filled._replace(pins=policy.bounds.pins_of(picked), missed=policy.bounds.missed_by(picked))
        ready.plan.count("pinned", [rule for _, rule in filled.pins])
        ready.plan.count("missed", filled.missed)
        return filled

    def _tell_pushes(self, request: Request, ready: Prepared, chosen: NDArray[np.int64]) -> None:
        """Tell the rules on exposure what was shown, and now and then what would have been without them."""
        pushes, push = ready.plan.pushes, ready.push
        pushes.showed(ready.rows[chosen], request.shown.size)
        if push is not None and push.any() and pushes.due():
            base = ready.standard - push
            pool, policy = self._policy(request, ready._replace(standard=base))
            plain = policy.draw(request.k, generator_of(request.request_id, request.user_id) if policy.rate else None)
            pushes.compare(base[pool[plain.chosen]], base[chosen])

    def _policy(self, request: Request, ready: Prepared) -> tuple[NDArray[np.int64], SlatePolicy]:
        """What fills the places, and from which of the rows."""
        c, rows, standard, wanted = self.catalogue, ready.rows, ready.standard, None
        plan = ready.plan if ready.binds else None
        if plan is not None:
            wanted = np.zeros(rows.size, np.bool_)
            for _, row, _ in plan.pins_at(request.shown.size, request.k):  # few
                wanted |= rows == row
            wanted[plan.more(rows, standard, request.k)] = True
        return make_policy(
            self._config,
            Scored(standard, c.keys[rows], self._inventory.events[rows], c.in_category, rows),
            request.k,
            explores=self._explores and not request.similar_to,
            mix=ready.query.taste,
            wanted=wanted,
            bound=None if plan is None else lambda pool: plan.bounds(rows[pool], request.k, request.shown.size),
            sources=self._choices(request, ready.bits),
        )

    def _unknown(self, request: Request) -> tuple[str, ...]:
        if not request.items:
            return ()
        rows = self.catalogue.find(request.items)
        return tuple(request.items[i] for i in np.flatnonzero(rows < 0))

    def _choices(self, request: Request, bits: NDArray[np.uint16]) -> Sources | None:
        """What a bandit chooses among; None where there is none."""
        if not self.learns:
            return None
        brought = (bits[:, None] >> np.arange(len(self._sources), dtype=np.uint16) & 1).astype(np.bool_)
        return Sources(brought, self._beliefs.upper(circumstances(request), self._config.explore.width))


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
