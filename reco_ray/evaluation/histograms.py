"""Histograms of two samples side by side, as small multiples in one PNG."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Panel", "draw"]

_ACROSS = 4
_BINS = 24
_TAILS = (0.005, 0.995)  # what lies beyond is drawn in the outermost bars
_REFERENCE, _CURRENT, _ALARM = "#4c78a8", "#f58518", "#c0392b"


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One small multiple.

    Attributes:
        reference, current: samples, shapes (n,) and (m,); values that are not finite are left out.
        alarm: whether the title is coloured.
    """

    title: str
    reference: NDArray[np.float32]
    current: NDArray[np.float32]
    alarm: bool


def draw(panels: Sequence[Panel], title: str) -> bytes:
    """Draw at least one panel; returns the PNG."""
    # takes 0.5 s to import; without pyplot no window system is asked for, and nothing is kept between calls
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    down, across = -(-len(panels) // _ACROSS), min(_ACROSS, len(panels))
    figure = Figure(figsize=(max(3.4 * across, 6.8), 2.6 * down + 0.8), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(grid.flat, panels, strict=False):
        edges = _edges(panel)
        for sample, name, colour in ((panel.reference, "reference", _REFERENCE), (panel.current, "current", _CURRENT)):
            shares = _shares(sample, edges)
            axes.stairs(shares, edges, fill=True, alpha=0.25, color=colour)
            axes.stairs(shares, edges, color=colour, lw=1.2, label=name)
        axes.set_title(panel.title, fontsize=9, color=_ALARM if panel.alarm else "black")
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    return png.getvalue()


def _edges(panel: Panel) -> NDArray[np.float64]:
    """Ends of equal bins over both samples without their tails."""
    known = [sample[np.isfinite(sample)].astype(np.float64) for sample in (panel.reference, panel.current)]
    ends = [np.quantile(sample, _TAILS) for sample in known if sample.size] or [np.zeros(1)]
    low, high = float(np.concatenate(ends).min()), float(np.concatenate(ends).max())
    margin = 0.5 if low == high else 0.0
    return np.linspace(low - margin, high + margin, _BINS + 1)


def _shares(sample: NDArray[np.float32], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of all values in each bin; less than 1 in all where some are missing."""
    known = np.clip(sample[np.isfinite(sample)].astype(np.float64), edges[0], edges[-1])
    return np.histogram(known, edges)[0] / max(1, sample.size)
