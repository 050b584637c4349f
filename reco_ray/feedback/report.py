"""What came of the decisions, per release, variant, surface and rung: clicks, conversions, revenue and order values.

- ``ctr``: clicked slots / seen slots; seen is what has an impression or a click. Null where the application sends no
  impressions: of clicks alone it would be 1.
- ``cvr``: slots clicked and bought / clicked slots.
- ``revenue`` and ``order_value`` (revenue / orders) by currency, refunds taken off. An order counts in each group that it has
  items of, so that orders of groups may add up to more than there are; all other counts add up.
Decisions without consent are counted and show in nothing else. A ratio of nothing is null.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import polars as pl

from reco_ray.config import FeedbackConfig
from reco_ray.lake import storage

__all__ = ["DIMENSIONS", "REPORT", "FeedbackReport", "summarise", "write_report"]

DIMENSIONS = ("release", "variant", "surface", "rung")
REPORT = "feedback.json"

Row = Mapping[str, Any]
_CLICKED, _BOUGHT = pl.col("clicks") > 0, pl.col("purchases") > 0
_ORDERS = pl.col("order_ids").explode().drop_nulls().n_unique().alias("orders")


def _usable(expression: pl.Expr) -> pl.Expr:
    return (expression & pl.col("consent")).sum()


_COUNTS = (
    _usable(pl.col("position") == 1).alias("decisions"),  # later pages belong to that of the first
    ((pl.col("position") == 1) & ~pl.col("consent")).sum().alias("without_consent"),
    pl.col("consent").sum().alias("slots"),
    _usable((pl.col("impressions") > 0) | _CLICKED).alias("seen"),
    pl.col("impressions").sum(),
    pl.col("clicks").sum(),
    _usable(_CLICKED).alias("clicked"),
    _usable(_BOUGHT).alias("bought"),
    _usable(_CLICKED & _BOUGHT).alias("clicked_and_bought"),
    pl.col("purchases").sum(),
    _ORDERS,
)
_SHOWN = ("decisions", "slots", "seen", "clicked", "ctr", "bought", "cvr", "orders", "revenue", "order_value")


@dataclass(frozen=True, slots=True)
class FeedbackReport:
    """Sums and ratios: of everything, and per value of each of `DIMENSIONS`, largest first."""

    delay_hours: float
    total: Row
    by: Mapping[str, Sequence[Row]]

    def content(self) -> bytes:
        """The report as JSON."""
        fields = {"delay_hours": self.delay_hours, "total": self.total, "by": self.by}
        return orjson.dumps(fields, option=orjson.OPT_INDENT_2)

    def text(self) -> str:
        """The report for a terminal."""
        rows = [("", *_SHOWN), ("total", *map(_cell, (self.total[name] for name in _SHOWN)))]
        for dimension, found in self.by.items():
            rows += [(f"{dimension} {row[dimension]}", *(_cell(row[name]) for name in _SHOWN)) for row in found]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join([first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))])
            for first, *cells in rows
        ]
        return "\n".join(line.rstrip() for line in lines) + "\n"


def summarise(feedback: pl.LazyFrame, config: FeedbackConfig) -> FeedbackReport:
    """Sum up rows of `schema.FEEDBACK`."""
    (total,) = _rows(feedback, None)
    return FeedbackReport(config.delay_hours, total, {dimension: _rows(feedback, dimension) for dimension in DIMENSIONS})


def write_report(root: str, report: FeedbackReport) -> str:
    """Write ``reports/feedback.json`` under ``root`` unless it says the same already; returns where it lies."""
    uri, content = storage.join(root, "reports", REPORT), report.content()
    if not storage.exists(uri) or storage.read_bytes(uri) != content:
        storage.write_bytes(uri, content)
    return uri


def _rows(feedback: pl.LazyFrame, by: str | None) -> list[dict[str, Any]]:
    """One row per value of a column, or one of all."""
    counts, money = pl.collect_all([_grouped(feedback, [by] if by else [], _COUNTS), _grouped(*_money(feedback, by))])
    sums: dict[str | None, dict[str, tuple[float, int]]] = {}
    for row in money.sort("currency").iter_rows(named=True):
        sums.setdefault(row[by] if by else None, {})[row["currency"]] = (row["revenue"], row["orders"])
    rows = counts.to_dicts()
    for row in rows:
        of_row = sums.get(row[by] if by else None, {})
        row["ctr"] = _ratio(row["clicked"], row["seen"]) if row["impressions"] else None
        row["cvr"] = _ratio(row.pop("clicked_and_bought"), row["clicked"])
        row["revenue"] = {currency: round(revenue, 2) for currency, (revenue, _) in of_row.items()}
        row["order_value"] = {currency: round(revenue / n, 2) for currency, (revenue, n) in of_row.items() if n}
    return sorted(rows, key=lambda row: (-row["slots"], str(row[by]) if by else ""))


def _money(feedback: pl.LazyFrame, by: str | None) -> tuple[pl.LazyFrame, list[str], Sequence[pl.Expr]]:
    sold = feedback.filter(pl.col("consent") & pl.col("currency").is_not_null())
    return sold, [*([by] if by else []), "currency"], (pl.col("revenue").sum(), _ORDERS)


def _grouped(frame: pl.LazyFrame, keys: Sequence[str], sums: Sequence[pl.Expr]) -> pl.LazyFrame:
    return frame.group_by(keys).agg(sums) if keys else frame.select(sums)


def _ratio(above: int, below: int) -> float | None:
    return round(above / below, 6) if below else None


def _cell(value: object) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{each:.2f} {name}" for name, each in value.items()) or "-"
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
