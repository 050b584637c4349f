"""Where a service stops keeping up: the knee, found by raising the offered rate, and its plot.

The knee is the highest offered rate that *holds*: at least 97% of what was sent is answered with 200 while it is sent, 99% of
the answers arrive within the deadline, and at least 95% of what was sent is answered in full (nothing left out to be on time).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Sweep", "failing", "find_knee", "plot"]

MIN_ACHIEVED = 0.97
MIN_FULL = 0.95
_FAILS_IN_A_ROW = 2  # one can be a neighbour's doing

Measure = Callable[[float], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Sweep:
    """Reports by offered rate, ascending, each with ``fails`` added; ``knee`` is None when not even the first rate held."""

    steps: list[dict[str, Any]]
    knee: float | None
    deadline_ms: float


def failing(report: dict[str, Any], deadline_ms: float) -> str:
    """Say why a rate does not hold; empty when it does."""
    offered = report["sent"] / report["seconds"]
    if not report["sent"] or report["p99_ms"] is None:
        return "no answers"
    if report["per_s"] < MIN_ACHIEVED * offered:
        return f"achieved {report['per_s'] / offered:.0%}"
    if report["p99_ms"] > deadline_ms:
        return f"p99 {report['p99_ms']:.0f} ms"
    if report["full"] < MIN_FULL * report["sent"]:
        return f"full {report['full'] / report['sent']:.0%}"
    return ""


def find_knee(
    measure: Measure,
    deadline_ms: float,
    *,
    start: float = 20.0,
    factor: float = 1.35,
    limit: float = 5_000.0,
    refine: int = 2,
) -> Sweep:
    """Raise the rate by ``factor`` until two rates in a row fail, then halve the gap above the best one ``refine`` times.

    Args:
        measure: runs an open loop at a rate; returns its report.
        limit: highest rate tried; where even that holds, it is the knee.
    """
    reports: dict[float, dict[str, Any]] = {}

    def holds(rate: float) -> bool:
        report = measure(rate)
        reports[rate] = {**report, "rate": rate, "fails": failing(report, deadline_ms)}
        return not reports[rate]["fails"]

    good, bad, failed, rate = 0.0, limit, 0, start
    while rate <= limit and failed < _FAILS_IN_A_ROW:
        if holds(rate):
            good, failed, bad = rate, 0, limit
        else:
            failed, bad = failed + 1, min(bad, rate)
        rate = round(rate * factor, 1)
    for _ in range(refine if 0 < good < bad < limit else 0):
        middle = round((good + bad) / 2, 1)
        good, bad = (middle, bad) if holds(middle) else (good, middle)
    return Sweep([reports[rate] for rate in sorted(reports)], good or None, deadline_ms)


def plot(sweep: Sweep, path: Path, title: str) -> None:
    """Draw latency against offered load, the knee and the deadline marked."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    rates = [step["rate"] for step in sweep.steps]
    for name, color in (("p50", "#4c78a8"), ("p95", "#f58518"), ("p99", "#e45756")):
        axes.plot(rates, _values(sweep.steps, name), marker="o", ms=4, color=color, label=name)
    axes.axhline(sweep.deadline_ms, color="grey", ls=":", label=f"deadline {sweep.deadline_ms:.0f} ms")
    if sweep.knee is not None:
        axes.axvline(sweep.knee, color="black", ls="--", label=f"knee {sweep.knee:.0f}/s")
    axes.set(xlabel="offered requests/s (open loop, Poisson)", ylabel="latency of 200s, ms", title=title, yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _values(steps: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [float("nan") if (ms := step["latency_ms"][name]) is None else ms for step in steps]
