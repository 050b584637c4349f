"""The statistics of rollouts, without a cluster.

Experiments without a difference, looked at a hundred times each, for several shares and with users whose rates vary: how many
are stopped; with a difference, at the size that the planner names: how many are found.
"""

from typing import Any

from reco_ray.rollout import sample_size
from reco_ray.rollout.simulation import peek

__all__ = ["statistics"]

_RATE, _EFFECT = 0.1, -0.2
_NULLS = ((0.5, 0.0), (0.05, 0.0), (0.05, 1.0), (0.01, 0.5))  # share of the candidate, spread of the users' rates
_SHARES = (0.5, 0.05)


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
    checks = [
        {"name": "false_positive_rate", "value": max(each["rate"] for each in nulls), "unit": "share"},
        {"name": "power", "value": min(each["power"] for each in powers), "unit": "share"},
    ]
    return {"checks": checks, "experiments": experiments, "nulls": nulls, "powers": powers}
