"""Why a slate holds an item, and why not: the stages of the request are run again, and looked at in between."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from reco_ray.features import Catalogue
from reco_ray.rank import HybridRanker, NeuralRanker, Reason, XGBoostRanker, reasons_of
from reco_ray.recall import Recall
from reco_ray.slate.pipeline import Pipeline
from reco_ray.types import Candidates, Request

__all__ = ["Explanation", "SourcePlace", "WhyItem", "explain"]

_DEEP = 5_000  # how far down its own list a source is asked for an item
_LONGEST = 200  # items of a slate


@dataclass(frozen=True, slots=True)
class SourcePlace:
    """Where a recall source has an item.

    Attributes:
        place: in its own list, from 1; None below the first 5,000, or where it does not have it at all.
        brought: how many items it brought to the candidates.
    """

    source: str
    place: int | None
    brought: int


@dataclass(frozen=True, slots=True)
class WhyItem:
    """What became of one item.

    Attributes:
        stage: ``shown``, or where it was lost: ``catalogue``, ``request`` (seen, excluded, filtered or not available),
            ``recall``, ``rank`` or ``rerank``.
        detail: by how much, in words.
        place: after the stage that lost it, from 1; of a shown item, in the slate.
        score: of the ranker. probability: that the user turns to it, where the ranker is calibrated and had a part.
        behind: what was missing to the last item shown; 0 and less where only rerank stood between.
        sources: where the recall sources have it.
        reasons: of the score, the strongest first; none where the ranker had no part.
    """

    item_id: str
    stage: str
    detail: str
    place: int | None = None
    score: float | None = None
    probability: float | None = None
    behind: float | None = None
    sources: tuple[SourcePlace, ...] = ()
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the stages make of the request.

    Attributes:
        item_ids: of the slate, in order. items: what is to be said of them.
        others: of the items asked for that are not in the slate.
    """

    item_ids: tuple[str, ...]
    items: tuple[WhyItem, ...]
    others: tuple[WhyItem, ...]


def explain(pipeline: Pipeline, request: Request, others: Sequence[str] = ()) -> Explanation:
    """Run the stages for a request, and say of each item of the slate, and of each other one, what became of it.

    Args:
        pipeline: of the release that answered. request: as it was answered, with the user's row of that time.
        others: ids of items; those in the slate are not repeated.
    """
    return _Run(pipeline, request).explanation(others)


class _Run:
    """One request, with what each stage made of it."""

    def __init__(self, pipeline: Pipeline, request: Request) -> None:
        recall = pipeline.recall
        if not isinstance(recall, Recall):
            raise TypeError(f"recall is a {type(recall).__name__}, expected that of a release; only such can be explained")
        self._recall: Recall = recall
        self._catalogue: Catalogue = recall.catalogue
        self._pipeline, self._request = pipeline, request
        (self._found,) = recall.recall([request])
        (self._scores,) = pipeline.rank.score([request], [self._found])
        (slate,) = pipeline.rerank.arrange([request], [self._found], [self._scores])
        self._shown = slate.item_ids
        self._places = _places(self._scores)
        self._at = {int(row): at for at, row in enumerate(self._found.item_idx)}
        rank = pipeline.rank.of(request) if isinstance(pipeline.rank, HybridRanker) else pipeline.rank
        self._columns, self._effects, self._chances = list[str](), None, None
        if isinstance(rank, XGBoostRanker | NeuralRanker):
            self._columns, self._effects = rank.explained, rank.contributions(request, self._found)
            if rank.calibration is not None and self._effects is not None:
                self._chances = rank.calibration.probabilities(self._scores)

    def explanation(self, others: Sequence[str]) -> Explanation:
        shown = tuple(
            self._in_candidates(item_id, at, "shown", f"shown at place {place}", place)
            if (at := self._candidate(item_id)) is not None
            else WhyItem(item_id, "shown", "the caller's own item, which the release does not know", place)
            for place, item_id in enumerate(self._shown, 1)
        )
        return Explanation(self._shown, shown, tuple(self._lost(each) for each in others if each not in self._shown))

    def _lost(self, item_id: str) -> WhyItem:
        row = int(self._catalogue.find([item_id])[0])
        if row < 0:
            return WhyItem(item_id, "catalogue", "the release that answered does not know it")
        at = self._at.get(row)
        if at is None:
            return self._not_found(item_id, row)
        place, n = int(self._places[at]), len(self._found)
        if place > len(self._shown):
            said = f"place {place} of {n} after ranking, expected one of the first {len(self._shown)}"
            return self._in_candidates(item_id, at, "rank", said, place)
        return self._arranged_away(item_id, at, place)

    def _not_found(self, item_id: str, row: int) -> WhyItem:
        request, name = self._request, item_id
        if request.items:
            return WhyItem(name, "request", "the caller did not bring it among the items to rank")
        if not self._catalogue.available[row]:
            return WhyItem(name, "request", "it is not available")
        if name in request.exclude:
            return WhyItem(name, "request", "the request excludes it")
        own = bool(np.isin(self._catalogue.keys[row], request.user.seen)) or name in request.session
        places = tuple(self._place_of(source, row) for source in self._recall.names)
        if all(each.place is None for each in places):
            if own:
                return WhyItem(name, "request", "the user has had it, and what was seen does not come back", sources=places)
            if request.filters:
                return WhyItem(name, "request", "no source has it that passes the request's filters", sources=places)
            return WhyItem(name, "recall", f"no source has it among its first {_DEEP:,}", sources=places)
        best = min((each for each in places if each.place), key=lambda each: (each.place or 0) - each.brought)
        said = f"nearest in {best.source}: place {best.place} there, which brought {best.brought}"
        return WhyItem(name, "recall", said, place=best.place, sources=places)

    def _arranged_away(self, item_id: str, at: int, place: int) -> WhyItem:
        longer = replace(self._request, k=max(_LONGEST, self._request.k))
        (slate,) = self._pipeline.rerank.arrange([longer], [self._found], [self._scores])
        if item_id not in slate.item_ids:
            return self._in_candidates(item_id, at, "rerank", f"place {place} after ranking; a rule hides it", place)
        last = slate.item_ids.index(item_id) + 1
        said = f"place {place} after ranking, {last} after rules and diversity, expected one of the first {len(self._shown)}"
        return self._in_candidates(item_id, at, "rerank", said, last)

    def _in_candidates(self, item_id: str, at: int, stage: str, detail: str, place: int) -> WhyItem:
        score = float(self._scores[at])
        shown = [self._scores[known] for each in self._shown if (known := self._candidate(each)) is not None]
        behind = None if stage == "shown" or not shown else float(min(shown)) - score
        reasons: tuple[Reason, ...] = ()
        if self._effects is not None:
            matrix, effects = self._effects
            reasons = reasons_of(self._columns, matrix[at], effects[at])
        chance = None if self._chances is None else float(self._chances[at])
        return WhyItem(item_id, stage, detail, place, score, chance, behind, self._sources(at), reasons)

    def _candidate(self, item_id: str) -> int | None:
        return self._at.get(int(self._catalogue.find([item_id])[0]))

    def _sources(self, at: int) -> tuple[SourcePlace, ...]:
        ranks = self._found.source_ranks[at]
        return tuple(
            SourcePlace(name, int(rank) + 1, brought)
            for name, rank, brought in zip(self._recall.names, ranks, _brought(self._found), strict=True)
            if rank >= 0
        )

    def _place_of(self, source: str, row: int) -> SourcePlace:
        ((item_idx, _),) = self._recall.alone(source, [self._request], _DEEP)
        at = np.flatnonzero(item_idx == row)
        column = self._recall.names.index(source)
        return SourcePlace(source, int(at[0]) + 1 if at.size else None, _brought(self._found)[column])


def _places(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    places = np.empty(scores.size, np.int64)
    places[np.argsort(-scores, kind="stable")] = np.arange(1, scores.size + 1)
    return places


def _brought(found: Candidates) -> list[int]:
    """How far down each source's list the candidates go."""
    ranks = found.source_ranks
    return (ranks.max(axis=0) + 1).astype(int).tolist() if len(found) else [0] * ranks.shape[1]
