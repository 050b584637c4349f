"""What a run of a shop was worth, and how much more one way of running it earned than another."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reco_ray.simulation import Ledger, World

__all__ = ["BASE", "draw", "gain_of", "save", "summary", "worlds_of"]

BASE = "greedy"
_POINTS, _PARTS = 40, 4  # of a curve; of the visits


def summary(ledger: Ledger, world: World) -> dict[str, Any]:
    """Sums from the first new item on; by quarter new items of a slate (``fresh``), and the share of the best (``of_best``)."""
    start = int(world.item_born_s[world.item_born_s > 0].min()) + 1
    expected, best, clicks, fresh = (ledger.by_turn(each)[start:] for each in ("expected", "best", "clicks", "fresh"))
    quarters = zip(np.array_split(expected, _PARTS), np.array_split(best, _PARTS), strict=True)
    return {
        "start": start,
        "clicks": int(clicks.sum()),
        "reward": round(float(expected.sum()), 2),
        "regret": round(float((best - expected).mean()), 4),
        "fresh": [round(float(each.mean()), 3) for each in np.array_split(fresh, _PARTS)],
        "of_best": [round(float(each.sum() / most.sum()), 4) for each, most in quarters],
        "expected": [round(float(each), 4) for each in ledger.by_turn("expected")],
    }


def gain_of(arm: str, worlds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean gain over `BASE` from the first new item on, and its 95% interval, each world being one observation.

    Args:
        worlds: each with `summary` by arm.
    """
    gains, curves, last = [], [], []
    for world in worlds:
        start = world["arms"][BASE]["start"]
        base, mine = (np.array(world["arms"][each]["expected"][start:]) for each in (BASE, arm))
        at = np.linspace(0, base.size - 1, _POINTS).astype(int)
        gains.append(float(mine.sum() / base.sum() - 1))
        curves.append(np.cumsum(mine - base)[at].tolist())
        quarter = base.size - base.size // _PARTS
        last.append(float(mine[quarter:].sum() / base[quarter:].sum() - 1))
    return {**_interval(gains), "gains": gains, "last_quarter": _interval(last), "curve_at": at.tolist(), "curves": curves}


def worlds_of(out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The worlds that a run with the same settings has left in a file, by seed."""
    if out.exists() and (before := json.loads(out.read_text())).get("settings") == settings:
        found: dict[str, Any] = before["worlds"]
        return found
    return {}


def save(out: Path, found: dict[str, Any]) -> None:
    """Write a result whole, or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".part").write_text(json.dumps(found))
    out.with_suffix(".part").replace(out)


def draw(path: Path, gain: dict[str, Any], label: str) -> None:
    """Draw a gain over the visits: each world, and their mean with its 95% interval."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot
    from scipy.stats import t

    at, curves = np.array(gain["curve_at"]), np.array(gain["curves"])
    mean = curves.mean(axis=0)
    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    axes.axhline(0, color="black", lw=0.8)
    axes.plot(at, curves.T, color="tab:blue", lw=0.6, alpha=0.4)
    axes.plot(at, mean, color="tab:blue", lw=2, label=label)
    if len(curves) > 1:
        error = t.ppf(0.975, len(curves) - 1) * curves.std(axis=0, ddof=1) / np.sqrt(len(curves))
        axes.fill_between(at, mean - error, mean + error, color="tab:blue", alpha=0.2)
    axes.set(xlabel="visits since the first new item", ylabel="clicks to be expected,\nmore than without exploration")
    axes.legend(loc="upper left")
    figure.savefig(path)


def _interval(gains: Sequence[float]) -> dict[str, float]:
    from scipy.stats import t

    values = np.array(gains)
    if values.size < 2:
        return {"gain": float(values.mean()), "low": float("-inf"), "high": float("inf")}
    error = t.ppf(0.975, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size)
    return {"gain": float(values.mean()), "low": float(values.mean() - error), "high": float(values.mean() + error)}
