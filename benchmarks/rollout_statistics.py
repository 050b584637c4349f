"""The statistics of rollouts, without a cluster.

Experiments without a difference, looked at a hundred times each, for several shares and with users whose rates vary: how many
are stopped; with a difference, at the size that the planner names: how many are found; of those that raise on 3% of the
requests, how many a shadow finds, by its size.
"""

from typing import Any

import numpy as np

from reco_ray.rollout import DEFAULT_POLICY, sample_size
from reco_ray.rollout.simulation import peek
from reco_ray.rollout.statistics import excess

__all__ = ["statistics"]

_RATE, _EFFECT = 0.1, -0.2
_NULLS = ((0.5, 0.0), (0.05, 0.0), (0.05, 1.0), (0.01, 0.5))  # share of the candidate, spread of the users' rates
_SHARES = (0.5, 0.05)
_RAISES, _COPIES, _EVERY = 0.03, (300, 800, 1_000), 10


def statistics(experiments: int = 1_000, decisions: int = 20_000) -> dict[str, Any]:
    """Run the experiments; a fifth of them for the power."""
    nulls: list[dict[str, Any]] = []
    for seed, (share, spread) in enumerate(_NULLS):
        found = peek(experiments, decisions, rate=_RATE, share=share, spread=spread, seed=seed)
        nulls.append({"share": share, "spread": spread, "worse": found.worse, "better": found.better, "rate": found.rate})
        print(f"no difference, share {share:.0%}, spread {spread}: {found.rate:.2%} stopped", flush=True)
    powers: list[dict[str, Any]] = []
    for seed, share in enumerate(_SHARES, len(_NULLS)):
        size = sample_size(_RATE, _EFFECT, share)
        found = peek(experiments // 5, size, rate=_RATE, effect=_EFFECT, share=share, seed=seed)
        power = found.worse / found.n
        powers.append({"share": share, "planned": size, "power": power, "wrong_side": found.better, "used": found.decisions})
        print(
            f"{_EFFECT:+.0%} clicks, share {share:.0%}: {power:.1%} found, on average after {found.decisions:.0f} of {size}",
            flush=True,
        )
    shadows = [{"copies": n, "found": _errors_found(n, experiments)} for n in _COPIES]
    for each in shadows:
        print(f"{_RAISES:.0%} of requests fail: {each['found']:.1%} found by {each['copies']} copies", flush=True)
    checks = [
        {"name": "false_positive_rate", "value": max(each["rate"] for each in nulls), "unit": "share"},
        {"name": "power", "value": min(each["power"] for each in powers), "unit": "share"},
    ]
    return {"checks": checks, "experiments": experiments, "nulls": nulls, "powers": powers, "shadows": shadows}


def _errors_found(copies: int, experiments: int) -> float:
    """Share of the releases that fail now and then, beside a champion that does not, which the guard on errors finds."""
    guards, rng, found = DEFAULT_POLICY.guards, np.random.default_rng(0), 0
    limit = len(DEFAULT_POLICY.steps) / guards.alpha
    for _ in range(experiments):
        failed = np.cumsum(rng.random(copies) < _RAISES)[_EVERY - 1 :: _EVERY].tolist()
        found += any(excess(_EVERY * at, n, guards.error_margin) >= limit for at, n in enumerate(failed, 1))
    return found / experiments
