"""Mirrored requests, counted: what the candidate in the shadow did, and how far its slates are from those that were served.

Sums by name, so that those of many gateways add up; `store.ShadowStore` keeps them. Values of a segment are ``what|segment``.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from reco_ray.evaluation.replay import kendall_tau, overlap
from reco_ray.rollout.evidence import LATENCY_MS, Arm
from reco_ray.types import Slate

__all__ = ["compare", "dropped", "failed", "report_of", "take"]

_ALL = "all"


def compare(counts: Counter[str], segment: str, served: Slate, mirrored: Slate, ms: float, partial: bool) -> None:
    """Count one pair of slates.

    Args:
        ms: that the candidate's stages took. partial: one of its stages failed, and the slate came about without it.
    """
    counts["made"] += 1
    counts["errors"] += partial
    counts["empty"] += not mirrored.item_ids
    counts[f"ms:{int(np.searchsorted(LATENCY_MS, ms))}"] += 1
    tau = kendall_tau(served.item_ids, mirrored.item_ids)
    before = dict(zip(served.item_ids, served.scores.tolist(), strict=True))
    after = zip(mirrored.item_ids, mirrored.scores.tolist(), strict=True)
    shifts = [score - before[item_id] for item_id, score in after if item_id in before]
    shift = float(np.mean(shifts)) if shifts else float("nan")
    for name in (_ALL, segment):
        counts[f"requests|{name}"] += 1
        for what, value in (
            ("overlap", overlap(served.item_ids, mirrored.item_ids)),
            ("tau", tau),
            ("score_shift", shift),
            ("ms", ms),
        ):
            if np.isfinite(value):
                counts[f"{what}|{name}"] += value  # type: ignore[assignment]
                counts[f"{what}_n|{name}"] += 1


def failed(counts: Counter[str], segment: str) -> None:
    """Count one that got no slate."""
    counts["made"] += 1
    counts["errors"] += 1
    for name in (_ALL, segment):
        counts[f"requests|{name}"] += 1
        counts[f"failed|{name}"] += 1


def dropped(counts: Counter[str]) -> None:
    """Count one that found no place."""
    counts["dropped"] += 1


def take(arm: Arm, counts: Mapping[str, float]) -> None:
    """Let an arm hold what was counted up to now: all of it, not what is new."""
    arm.made, arm.errors, arm.empty = (int(counts.get(name, 0)) for name in ("made", "errors", "empty"))
    arm.latency = np.array([counts.get(f"ms:{at}", 0) for at in range(LATENCY_MS.size + 1)], np.int64)


def report_of(counts: Mapping[str, float]) -> dict[str, dict[str, float | None]]:
    """How far the slates are apart, by segment and over ``all``: means over the requests that have a value."""
    segments = sorted({name.split("|", 1)[1] for name in counts if name.startswith("requests|")})
    found: dict[str, dict[str, float | None]] = {}
    for segment in segments:
        of: dict[str, float | None] = {
            "requests": counts[f"requests|{segment}"],
            "failed": counts.get(f"failed|{segment}", 0.0),
        }
        for what in ("overlap", "tau", "score_shift", "ms"):
            n = counts.get(f"{what}_n|{segment}", 0)
            of[what] = counts[f"{what}|{segment}"] / n if n else None
        found[segment] = of
    if found:
        found[_ALL]["dropped"] = counts.get("dropped", 0.0)
    return found
