"""Experiments without a difference, or with a known one, looked at after each batch: how often the test says so.

Users come with click rates of their own, so that answers of one user are alike, and with activity of their own.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from reco_ray.rollout.evidence import N_BUCKETS
from reco_ray.rollout.statistics import compare_rates

__all__ = ["Found", "peek"]


@dataclass(frozen=True, slots=True)
class Found:
    """How many of ``n`` experiments were stopped, and after how many decisions on the average."""

    n: int
    worse: int
    better: int
    decisions: float

    @property
    def rate(self) -> float:
        """Share of the experiments that were stopped."""
        return (self.worse + self.better) / self.n


def peek(
    n: int,
    decisions: int,
    *,
    rate: float,
    effect: float = 0.0,
    share: float = 0.5,
    looks: int = 100,
    spread: float = 0.0,
    alpha: float = 0.05,
    tuned: float = 0.2,
    seed: int = 0,
) -> Found:
    """Run ``n`` experiments of ``decisions`` each with ``looks`` looks.

    Args:
        rate: of the champion's clicks. effect: relative change by the candidate.
        share: of the users that have the candidate.
        spread: variation of users' rates: coefficient of variation of a gamma distribution; 0 for users who are alike.
    """
    rng = np.random.default_rng(seed)
    worse = better = 0
    stopped: list[int] = []
    users = max(2 * N_BUCKETS, decisions // 5)
    for _ in range(n):
        taste = rng.gamma(1 / spread**2, spread**2, users) if spread else np.ones(users)
        has, bucket = rng.random(users) < share, rng.integers(N_BUCKETS, size=users)
        chance = np.clip(rate * taste * np.where(has, 1 + effect, 1.0), 0, 1)
        who = rng.integers(users, size=decisions)
        clicked = rng.random(decisions) < chance[who]
        seen = np.zeros((2, N_BUCKETS, 2))
        ends = np.linspace(0, decisions, looks + 1).astype(int)
        found = None
        for start, end in pairwise(ends):
            batch = who[start:end]
            cell = np.where(has[batch], 0, N_BUCKETS) + bucket[batch]
            for column, weights in enumerate((np.ones(end - start), clicked[start:end].astype(float))):
                seen[..., column] += np.bincount(cell, weights, 2 * N_BUCKETS).reshape(2, N_BUCKETS)
            found = compare_rates([(seen[0], seen[1])], alpha, tuned)
            if found.worse or found.better:
                break
        worse, better = worse + bool(found and found.worse), better + bool(found and found.better)
        stopped.append(int(end))
    return Found(n, worse, better, float(np.mean(stopped)))
