"""Charts as inline SVG, drawn by hand: they take the page's font and its light or dark colours, and need no files.

Every function returns one ``<svg>`` and escapes the text it is given. Classes are styled by `page`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from reco_ray.evaluation.bootstrap import Interval

__all__ = ["Mark", "bars", "curves", "scatter"]

WIDTH = 460
_CHAR = 7.5  # width of a character at the charts' 13 px, in the widest of the fonts that a reader may have
_LABEL_LIMIT = 22


@dataclass(frozen=True, slots=True)
class Mark:
    """One bar or point: its label, its value, a tone ("base", "source" or "pipeline"), and x of a scatter."""

    label: str
    value: Interval
    tone: str
    x: float = 0.0


def bars(marks: Sequence[Mark], title: str, show: Callable[[float], str]) -> str:
    """Draw horizontal bars from zero, in the order given, with whiskers where there is an interval."""
    left = 14 + _CHAR * max(min(len(m.label), _LABEL_LIMIT) for m in marks)
    right, step, top = WIDTH - 16, 30, 8
    bottom = top + step * len(marks)
    ends = [m.value.high if m.value.known else m.value.mean for m in marks]
    # room for the number behind the longest whisker
    scale = (right - left - 50) / (max(*ends, 0.0) or 1.0)
    parts = []
    for tick in _ticks(max(*ends, 0.0)):
        x = left + tick * scale
        parts.append(_line(x, top, x, bottom, "grid") + _text(x, bottom + 18, show(tick), "tick", "middle"))
    for row, (mark, end) in enumerate(zip(marks, ends, strict=True)):
        y = top + step * (row + 0.5)
        x = left + max(mark.value.mean, 0) * scale
        parts.append(f"<g><title>{escape(mark.label)}: {_words(mark.value, show)}</title>")
        parts.append(_text(left - 8, y + 4.5, _short(mark.label), "name", "end"))
        parts.append(
            f'<rect class="{mark.tone}" x="{left:.1f}" y="{y - 9:.1f}" width="{max(x - left, 1):.1f}" height="18" rx="2"/>'
        )
        if mark.value.known:
            low, high = left + max(mark.value.low, 0) * scale, left + end * scale
            parts.append(_line(low, y, high, y, "whisker"))
            parts.extend(_line(at, y - 4, at, y + 4, "whisker") for at in (low, high))
        parts.append(_text(left + max(end, 0) * scale + 7, y + 4.5, show(mark.value.mean), "value") + "</g>")
    parts.append(_line(left, top, left, bottom, "axis"))
    return _svg(bottom + 28, title, parts)


def curves(series: Mapping[str, Mapping[int, float]], title: str, emphasised: str, x_title: str) -> str:
    """Draw a line per series over list lengths (log scale), named at its end; ``emphasised`` is drawn strong."""
    lengths = sorted({n for curve in series.values() for n in curve})
    left, top, bottom = 44, 12, 258
    right = WIDTH - 16 - _CHAR * max(min(len(name), _LABEL_LIMIT) for name in series)
    first, last = math.log(lengths[0]), math.log(lengths[-1])
    peak = max((v for curve in series.values() for v in curve.values() if math.isfinite(v)), default=0.0) or 1.0

    def x_of(n: int) -> float:
        return left + (right - left) * ((math.log(n) - first) / (last - first) if last > first else 0.5)

    def y_of(value: float) -> float:
        return bottom - (bottom - top) * value / (peak * 1.06)

    parts = []
    for tick in _ticks(peak):
        parts.append(_line(left, y_of(tick), right, y_of(tick), "grid"))
        parts.append(_text(left - 7, y_of(tick) + 4.5, f"{tick:.0%}", "tick", "end"))
    parts.extend(_text(x_of(n), bottom + 18, str(n), "tick", "middle") for n in lengths)
    parts.append(_line(left, bottom, right, bottom, "axis"))
    parts.append(_text((left + right) / 2, bottom + 36, x_title, "tick", "middle"))
    drawn = {name: [(n, v) for n, v in sorted(curve.items()) if math.isfinite(v)] for name, curve in series.items()}
    drawn = {name: points for name, points in drawn.items() if points}
    heights = _spread({name: y_of(points[-1][1]) for name, points in drawn.items()}, 16)
    for index, (name, points) in enumerate(drawn.items()):
        style = "union" if name == emphasised else f"s{index % 6}"
        path = " ".join(f"{x_of(n):.1f},{y_of(v):.1f}" for n, v in points)
        parts.append(f'<g class="{style}"><polyline points="{path}"/>')
        parts.extend(
            f'<circle cx="{x_of(n):.1f}" cy="{y_of(v):.1f}" r="3"><title>{escape(name)}, {n} items: {v:.1%}</title></circle>'
            for n, v in points
        )
        parts.append(_text(x_of(points[-1][0]) + 9, heights[name] + 4.5, _short(name), "series") + "</g>")
    return _svg(bottom + 46, title, parts)


def scatter(marks: Sequence[Mark], title: str, x_title: str, y_title: str) -> str:
    """Draw points with vertical whiskers over a share ``x`` in (0, 1], log scale; the pipeline's stages are joined."""
    left, right, top, bottom = 48, WIDTH - 16, 30, 266
    low, high = min(m.x for m in marks) / 1.5, max(m.x for m in marks) * 1.5
    peak = max(*(m.value.high if m.value.known else m.value.mean for m in marks), 0.0) or 1.0

    def x_of(share: float) -> float:
        return left + (right - left) * math.log(share / low) / math.log(high / low)

    def y_of(value: float) -> float:
        return bottom - (bottom - top) * value / (peak * 1.08)

    parts = [_text(8, 14, y_title, "tick")]
    for tick in _ticks(peak):
        parts.append(_line(left, y_of(tick), right, y_of(tick), "grid"))
        parts.append(_text(left - 7, y_of(tick) + 4.5, _trim(tick), "tick", "end"))
    for share in (m * 10.0**e for e in range(-5, 1) for m in (1, 3)):
        if low <= share <= min(high, 1.0):
            parts.append(_line(x_of(share), bottom, x_of(share), bottom + 4, "axis"))
            parts.append(_text(x_of(share), bottom + 18, f"{share * 100:g}%", "tick", "middle"))
    parts.append(_line(left, bottom, right, bottom, "axis"))
    parts.append(_text((left + right) / 2, bottom + 36, x_title, "tick", "middle"))
    way = " ".join(f"{x_of(m.x):.1f},{y_of(m.value.mean):.1f}" for m in marks if m.tone == "pipeline")
    parts.append(f'<polyline class="way" points="{way}"/>')
    places = [(x_of(m.x), y_of(m.value.mean)) for m in marks]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    for mark, (x, y) in zip(marks, places, strict=True):
        text = _short(mark.label)
        box = _place(x, y, _CHAR * len(text), taken, (left, top - 8, right + 12, bottom - 2))
        taken.append(box)
        parts.append(f'<g class="{mark.tone}"><title>{escape(mark.label)}: {mark.x:.1%}, {_words(mark.value, _trim)}</title>')
        if mark.value.known:
            parts.append(_line(x, y_of(max(mark.value.low, 0)), x, y_of(mark.value.high), "whisker"))
        # anchored on the side of the point, since the width of the text is only an estimate
        at, anchor = (box[0], "start") if box[0] > x else (box[2], "end") if box[2] < x else (x, "middle")
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5"/>' + _text(at, box[3] - 3.5, text, "name", anchor) + "</g>")
    return _svg(bottom + 46, title, parts)


Box = tuple[float, float, float, float]


def _place(x: float, y: float, width: float, taken: Sequence[Box], frame: Box) -> Box:
    """Find a place for a label near its point that covers no other, the first of the least covered."""
    corners = [(x + 9, y - 8), (x - 9 - width, y - 8)]
    for far in (24, 32, 40, 50, 62):
        corners += [(x - width / 2, y - far), (x - width / 2, y + far - 16), (x + 9, y - far), (x + 9, y + far - 16)]
        corners += [(x - 9 - width, y - far), (x - 9 - width, y + far - 16)]
    boxes = [(left, top, left + width, top + 16) for left, top in corners]

    def cost(box: Box) -> float:
        outside = box[0] < frame[0] or box[1] < frame[1] or box[2] > frame[2] or box[3] > frame[3]
        return sum(_overlap(box, other) for other in taken) + (1e6 if outside else 0.0)

    return min(boxes, key=cost)


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _spread(heights: Mapping[str, float], gap: float) -> dict[str, float]:
    """Move labels apart to at least ``gap``, keeping their order and, together, their middle."""
    order = sorted(heights, key=heights.__getitem__)
    result: dict[str, float] = {}
    for name in order:
        result[name] = max([heights[name], *(result[other] + gap for other in list(result)[-1:])])
    shift = sum(result[n] - heights[n] for n in order) / max(len(order), 1)
    return {name: at - shift for name, at in result.items()}


def _ticks(peak: float) -> list[float]:
    """Return round numbers from 0 to ``peak``, about four."""
    if not (math.isfinite(peak) and peak > 0):
        return [0.0]
    size = 10.0 ** math.floor(math.log10(peak / 4))
    step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= peak / 4.5)
    return [i * step for i in range(int(peak / step + 1e-9) + 1)]


def _trim(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".") if value else "0"


def _words(value: Interval, show: Callable[[float], str]) -> str:
    return f"{show(value.mean)} ({show(value.low)} to {show(value.high)})" if value.known else show(value.mean)


def _short(text: str) -> str:
    return text if len(text) <= _LABEL_LIMIT else text[: _LABEL_LIMIT - 1] + "…"


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, style: str, anchor: str = "start") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">' + "".join(parts) + "</svg>"
