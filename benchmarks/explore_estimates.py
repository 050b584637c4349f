"""Off-policy estimates of five policies from logs of a sixth, again and again, against what is true."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reco_ray.evaluation.off_policy import Draws, estimate, support
from reco_ray.rerank.diversity import mmr
from reco_ray.rerank.exploration import Drawn, SlatePolicy, Thompson, Weighted, softmax_weights
from reco_ray.simulation import World, WorldConfig

__all__ = ["estimates"]

_USERS, _POOL, _K = 40, 10, 3
_TRUTH_DRAWS = 1_000  # of each user and policy; their clicks to be expected are exact
_WITHOUT = ("never_logged", "worst_first")


class Policies:
    """The logged policy, five that it supports and two that it does not, for each of the world's users."""

    def __init__(self, seed: int) -> None:
        self.world = World(WorldConfig(users=_USERS, items=2 * _POOL, categories=4, base=-1.5, seed=seed))
        rng = np.random.default_rng(seed)
        self.likes = np.array([self.world.attraction(u, np.arange(2 * _POOL), 0.0) for u in range(_USERS)])
        noisy = np.log(self.likes) + 0.7 * rng.standard_normal(self.likes.shape)  # what a ranker believes
        other = (noisy + np.log(self.likes)) / 2  # and a better one
        self.logged = [self._softmax(row, 0.6) for row in noisy]
        self.targets: dict[str, list[SlatePolicy]] = {
            "less_chance": [self._softmax(row, 0.1) for row in noisy],
            "uniform": [SlatePolicy(2 * _POOL, _order(row), _pool(np.ones(2 * _POOL)), 0.3) for row in noisy],
            "better_ranker": [self._softmax(row, 0.3) for row in other],
            "thompson": [self._thompson(row) for row in noisy],
            "diverse": [self._diverse(row) for row in noisy],
            "never_logged": [SlatePolicy(2 * _POOL, _order(row), Weighted(np.ones(2 * _POOL)), 0.6) for row in noisy],
            "worst_first": [SlatePolicy(2 * _POOL, _order(-row), _pool(np.ones(2 * _POOL)), 0.0) for row in noisy],
        }

    def _softmax(self, scores: NDArray[np.float64], rate: float) -> SlatePolicy:
        return SlatePolicy(2 * _POOL, _order(scores), _pool(softmax_weights(scores.astype(np.float32), 1.0)), rate)

    def _thompson(self, scores: NDArray[np.float64]) -> SlatePolicy:
        means = np.where(np.arange(scores.size) < _POOL, scores, -30.0)
        return SlatePolicy(2 * _POOL, _order(scores), Thompson(means, np.ones(scores.size)), 0.3)

    def _diverse(self, scores: NDArray[np.float64]) -> SlatePolicy:
        order = _order(scores)[:_POOL]
        vectors = np.eye(4, dtype=np.float32)[[int(self.world.items[i].categories[0][5:]) for i in order]]
        picked = order[mmr(scores[order].astype(np.float32), vectors, _POOL, 0.3)]
        rest = np.setdiff1d(np.arange(scores.size), picked)
        return SlatePolicy(
            2 * _POOL, np.concatenate([picked, rest]), _pool(softmax_weights(scores.astype(np.float32), 1.0)), 0.4
        )

    def truth(self, name: str, seed: int) -> float:
        """Clicks to be expected of a slate."""
        seen, rng = self.world.examined(_K), np.random.default_rng((seed, 2))
        of_users = [
            np.mean([seen @ self.likes[u, policy.draw(_K, rng).chosen] for _ in range(_TRUTH_DRAWS)])
            for u, policy in enumerate(self.targets[name])
        ]
        return float(np.mean(of_users))


def _order(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """The pool best first, and behind it the items that are in none."""
    return np.concatenate([np.argsort(-scores[:_POOL], kind="stable"), np.arange(_POOL, scores.size)])


def _pool(weights: NDArray[np.float64]) -> Weighted:
    """Weights of the pool; the items behind it have next to none."""
    return Weighted(np.where(np.arange(weights.size) < _POOL, weights, 1e-12))


def estimates(repetitions: int, draws: int, seed: int) -> dict[str, Any]:
    """Estimate all policies from fresh logs in each repetition."""
    policies = Policies(seed)
    truths = {name: policies.truth(name, seed) for name in policies.targets if name not in _WITHOUT}

    @cache
    def follow(name: str, user: int, slate: tuple[int, ...]) -> Drawn:
        return policies.targets[name][user].follow(np.array(slate), every=True)

    runs: dict[str, dict[str, list[tuple[float, float, float]]]] = {name: {} for name in truths}
    refused = dict.fromkeys(policies.targets, 0)
    effective: dict[str, list[float]] = {name: [] for name in policies.targets}
    for repetition in range(repetitions):
        rng = np.random.default_rng((seed, 3, repetition))
        users = rng.integers(0, _USERS, draws)
        drawn = [policies.logged[u].draw(_K, rng) for u in users.tolist()]
        slates, odds = np.array([d.chosen for d in drawn]), np.array([d.propensities for d in drawn])
        chances = policies.world.examined(_K) * policies.likes[users[:, None], slates]
        clicks = (rng.random(chances.shape) < chances).astype(float)
        model = _model(slates, clicks)
        for name in policies.targets:
            each = [follow(name, u, tuple(s)) for u, s in zip(users.tolist(), slates.tolist(), strict=True)]
            target, slots = np.array([e.propensities for e in each]), np.array([e.slots for e in each])
            half = np.arange(draws) % 2
            predicted = model[half[:, None], np.arange(_K), slates]
            expected = np.einsum("dkn,dkn->dk", slots, model[half])
            found = Draws(clicks, odds, np.minimum(target, 1.0), np.arange(draws), predicted, expected)
            judged = support(found)
            effective[name].append(judged.effective)
            if judged.refused:
                refused[name] += 1
            elif name in truths:
                for each_found in estimate(found):
                    v = each_found.value
                    runs[name].setdefault(each_found.estimator, []).append((v.mean, v.low, v.high))
    return _summary(runs, truths, refused, effective, repetitions)


def _model(slates: NDArray[np.int64], clicks: NDArray[np.float64]) -> NDArray[np.float64]:
    """A simple model of rewards by place and item: for each half of the draws, fitted on the other one, shape (2, k, n)."""
    found = np.zeros((2, _K, 2 * _POOL))
    for half in (0, 1):
        mine = np.arange(len(slates)) % 2 != half
        by_place = clicks[mine].mean(axis=0)
        taken, places = slates[mine].ravel(), np.tile(np.arange(_K), mine.sum())
        shown = np.bincount(taken, by_place[places], 2 * _POOL)  # clicks of an average item in the same places
        lift = (np.bincount(taken, clicks[mine].ravel(), 2 * _POOL) + 5) / (shown + 5)
        found[half] = np.minimum(by_place[:, None] * lift, 1.0)
    return found


def _summary(
    runs: dict[str, dict[str, list[tuple[float, float, float]]]],
    truths: dict[str, float],
    refused: dict[str, int],
    effective: dict[str, list[float]],
    repetitions: int,
) -> dict[str, Any]:
    by: dict[str, dict[str, Any]] = {}
    for name, estimators in runs.items():
        by[name] = {"truth": truths[name], "refused": refused[name], "effective": float(np.median(effective[name]))}
        for estimator, found in estimators.items():
            mean, low, high = np.array(found).T
            by[name][estimator] = {
                "n": len(mean),
                "bias": float(mean.mean() / truths[name] - 1),
                "error": float(np.sqrt(np.mean((mean / truths[name] - 1) ** 2))),
                "coverage": float(np.mean((low <= truths[name]) & (truths[name] <= high))),
                "width": float(np.median(high - low) / truths[name]),
            }
    cells = [each[e] for each in by.values() for e in ("ips", "snips", "sequential", "dr") if e in each]
    return {
        "coverage": float(np.average([c["coverage"] for c in cells], weights=[c["n"] for c in cells])),
        "coverage_least": min(c["coverage"] for c in cells),
        "coverage_most": max(c["coverage"] for c in cells),
        "median_width": float(np.median([c["width"] for c in cells])),
        "refused_without_support": float(np.mean([refused[name] / repetitions for name in _WITHOUT])),
        "refused_with_support": float(np.mean([refused[name] / repetitions for name in truths])),
        "policies": by,
    }
