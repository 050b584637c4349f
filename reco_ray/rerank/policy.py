"""From scored candidates to a policy that fills a slate: the pool, its arrangement, and what exploring places draw from."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reco_ray.arrays import best_first
from reco_ray.config import Diversify, ExploreConfig, ExploreKind, RerankConfig
from reco_ray.hashing import hash64
from reco_ray.rerank.bandit import BySource
from reco_ray.rerank.diversity import main_category, mmr
from reco_ray.rerank.exploration import Proposal, SlatePolicy, Thompson, Weighted, filled, softmax_weights
from reco_ray.rerank.greedy import Calibrated, Dpp, Gains, greedy
from reco_ray.rules import Bounds

__all__ = ["Filled", "Scored", "Sources", "generator_of", "make_policy"]

_LEAST = 0.2  # deviation of an item that is known well, as a share of that of an unknown one


class Scored(NamedTuple):
    """Candidates as a policy sees them.

    Attributes:
        scores: standardised, shape (n,).
        keys: break ties, shape (n,).
        events: how often each was met, shape (n,).
        in_category: 1 where an item has a category, over all items, shape (N, C): only the rows of a pool are read.
        rows: of the candidates in it, shape (n,).
    """

    scores: NDArray[np.float32]
    keys: NDArray[np.uint64]
    events: NDArray[np.int64]
    in_category: NDArray[np.float32]
    rows: NDArray[np.int64]


class Sources(NamedTuple):
    """What ``linucb`` chooses among.

    Attributes:
        brought: by which source each candidate was, shape (n, S).
        upper: how much each source may bring at best, shape (S,).
    """

    brought: NDArray[np.bool_]
    upper: NDArray[np.float64]


class Filled(NamedTuple):
    """The places of one slate.

    Attributes:
        chosen: positions among the prepared candidates, shape (m,), as all that follow.
        propensities: P(item | those before it). explored: left to chance. origins: sources that a bandit drew from, else -1.
        pins: places where a rule's item stands. missed: rules that the slate does not follow.
    """

    chosen: NDArray[np.int64]
    propensities: NDArray[np.float64]
    explored: NDArray[np.bool_]
    origins: NDArray[np.int64]
    pins: Sequence[tuple[int, str]] = ()
    missed: tuple[str, ...] = ()


def make_policy(
    config: RerankConfig,
    scored: Scored,
    k: int,
    *,
    explores: bool,
    mix: NDArray[np.float32] | None = None,
    wanted: NDArray[np.bool_] | None = None,
    bound: Callable[[NDArray[np.int64]], Bounds] | None = None,
    sources: Sources | None = None,
) -> tuple[NDArray[np.int64], SlatePolicy]:
    """Choose the items that a slate may be made of and arrange them; the policy numbers them from 0.

    Args:
        scored: the candidates.
        explores: whether anything may be left to chance for this request.
        mix: shares of categories that ``calibrated`` aims at, shape (C,); None or empty where nothing is known.
        wanted: candidates that rules ask for, whatever their score, shape (n,).
        bound: makes the bounds of the rules over a pool; where it cannot be filled within them, all candidates are the pool.
        sources: for ``linucb``, which needs them.
    Returns: the pool, positions among the candidates, shape (m,), and the policy over it.
    """
    scores, keys, events = scored[:3]
    explore = config.explore
    chance = explores and explore.kind is not ExploreKind.none and explore.rate > 0
    pool = best_first(scores, keys, max(k, config.diversity_pool))
    best, more = pool.size, np.zeros(scores.size, np.bool_) if wanted is None else wanted.copy()
    if chance:
        new = events < explore.half_known
        new[pool] = False
        others = np.flatnonzero(new)
        more[others[best_first(scores[others], keys[others], explore.newcomers)]] = True
    more[pool] = False
    pool = np.concatenate([pool, np.flatnonzero(more)])
    in_category, bounds, arranged = _arranged(config, scored, pool, k, mix, bound)
    if bound is not None and arranged.size < min(k, scores.size) and pool.size < scores.size:
        pool = best_first(scores, keys)
        in_category, bounds, arranged = _arranged(config, scored, pool, k, mix, bound)
    if not chance or not pool.size:
        return pool, SlatePolicy(pool.size, arranged, Weighted(np.ones(pool.size)), 0.0, bounds=bounds)
    rest = np.ones(pool.size, np.bool_)
    rest[arranged] = False
    order = np.concatenate([arranged, np.flatnonzero(rest)])
    cap = _Cap(in_category, config.category_cap) if config.category_cap else None
    if explore.kind is ExploreKind.linucb:
        if sources is None:
            raise ValueError("linucb: found no sources, expected what it chooses among")
        weights = softmax_weights(scores[pool], explore.temperature)
        bandit = BySource(weights, sources.brought[pool], sources.upper, explore.epsilon)
        return pool, SlatePolicy(pool.size, order, bandit, explore.rate, cap, bounds, bandit.source_of)
    proposal = _proposal(explore, scores[pool], events[pool], best)
    return pool, SlatePolicy(pool.size, order, proposal, explore.rate, cap, bounds)


def _arranged(
    config: RerankConfig,
    scored: Scored,
    pool: NDArray[np.int64],
    k: int,
    mix: NDArray[np.float32] | None,
    bound: Callable[[NDArray[np.int64]], Bounds] | None,
) -> tuple[NDArray[np.float32], Bounds | None, NDArray[np.int64]]:
    scores, in_category = scored.scores[pool], scored.in_category[scored.rows[pool]]
    bounds = None if bound is None else bound(pool)
    diversity, cap, window = config.diversity, config.category_cap, config.diversity_window
    match config.diversify:
        case Diversify.dpp:
            gains: Gains = Dpp(scores, _unit(in_category), diversity, window)
        case Diversify.calibrated:
            if mix is None or mix.size != in_category.shape[1]:
                mix = np.zeros(in_category.shape[1], np.float32)
            gains = Calibrated(scores, in_category, mix, diversity, window)
        case Diversify.mmr:
            vectors = _unit(in_category) if diversity else in_category
            return in_category, bounds, mmr(scores, vectors, k, diversity, cap, bounds)
    return in_category, bounds, greedy(gains, main_category(in_category), k, cap, bounds)


def generator_of(request_id: str, user_id: str) -> np.random.Generator:
    """Randomness that belongs to one request: asked again, it is answered the same."""
    return np.random.Generator(np.random.PCG64(hash64(f"{user_id}\n{request_id}", "explore")))


def _proposal(config: ExploreConfig, scores: NDArray[np.float32], events: NDArray[np.int64], pool: int) -> Proposal:
    match config.kind:
        case ExploreKind.plackett_luce:
            return Weighted(softmax_weights(scores, config.temperature))
        case ExploreKind.thompson:
            # an item that nobody has met is taken to be like the pool, where its model does not think more of it
            known, means = events / (events + config.half_known), filled(scores)
            unmet = np.maximum(means, means[:pool].mean())
            return Thompson(known * means + (1 - known) * unmet, np.maximum(np.sqrt(1 - known), _LEAST))
        case _:
            return Weighted(np.ones(scores.size))


class _Cap:
    """At most so many items of one main category, the first that it has."""

    def __init__(self, in_category: NDArray[np.float32], cap: int) -> None:
        self._main, self._cap = main_category(in_category), cap

    def __call__(self, chosen: list[int]) -> NDArray[np.bool_]:
        found, counts = np.unique(self._main[chosen], return_counts=True)
        return ~np.isin(self._main, found[(counts >= self._cap) & (found >= 0)])


def _unit(in_category: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(in_category, axis=1, keepdims=True)
    return np.asarray(in_category / np.maximum(norms, 1e-9), np.float32)
