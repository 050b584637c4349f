"""The date that a row of the lake lies under: the day of its time, or the first day of its month."""

from datetime import UTC, datetime, timedelta

import polars as pl

from reco_ray.config import DateUnit

__all__ = ["date_column", "date_of", "date_span"]

_FORMATS = {DateUnit.day: "%Y-%m-%d", DateUnit.month: "%Y-%m-01"}


def date_of(ts_us: int, unit: DateUnit) -> str:
    """Name the partition of a time, microseconds since 1970."""
    return datetime.fromtimestamp(ts_us / 1e6, UTC).strftime(_FORMATS[unit])


def date_column(ts: pl.Expr, unit: DateUnit) -> pl.Expr:
    """As `date_of`, for a column of times."""
    return ts.dt.strftime(_FORMATS[unit])


def date_span(date: str, unit: DateUnit) -> tuple[datetime, datetime]:
    """Return the first instant of a partition, and the first one after it."""
    start = datetime.fromisoformat(date).replace(tzinfo=UTC)
    if unit is DateUnit.day:
        return start, start + timedelta(days=1)
    return start, (start + timedelta(days=32)).replace(day=1)
