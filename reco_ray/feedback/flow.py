"""Join the lake's events to its exposures, date by date, and report what came of them.

A date is joined again while events may still count for it. What is stored and what a join finds are compared first, so that a
join that finds nothing new commits nothing.
"""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl
from deltalake import Transaction

from reco_ray.config import PipelineConfig
from reco_ray.errors import DataError
from reco_ray.feedback.attribution import DECISION_COLUMNS, EVENT_COLUMNS, attribute
from reco_ray.feedback.report import summarise, write_report
from reco_ray.lake import tables
from reco_ray.lake.dates import date_of, date_span
from reco_ray.schema import FEEDBACK, check

__all__ = ["JoinReport", "join_feedback"]

log = logging.getLogger(__name__)

_SETTLE = timedelta(hours=1)  # until what happened is in the lake


@dataclass(frozen=True, slots=True)
class JoinReport:
    """What a join did. ``joined``: dates looked at; ``changed``: those of them that were written; ``report``: where it lies."""

    joined: tuple[str, ...]
    changed: tuple[str, ...]
    slots: int
    report: str
    text: str


def join_feedback(config: PipelineConfig, now: datetime | None = None) -> JoinReport:
    """Bring the table ``feedback`` up to date, and write ``reports/feedback.json``.

    Args:
        now: the present time, for tests.
    Raises: DataError: there are no exposures.
    """
    root, now = config.root, now or datetime.now(UTC)
    dates = tables.partitions(root, "exposures")
    if not dates:
        raise DataError(f"table 'exposures' under {root}: found nothing, expected decisions; let a gateway answer requests")
    joined, changed, slots = [], [], 0
    for date in dates:
        done_s = tables.remembered(root, "feedback", _writer(date))
        if done_s >= _closes(config, date).timestamp():
            continue
        frame = _join(config, date)
        joined.append(date)
        slots += frame.height
        if _store(config, date, frame, now):
            changed.append(date)
        log.info("feedback of %s: %d slots, %s", date, frame.height, "written" if date in changed else "as stored")
    report = summarise(pl.scan_delta(tables.table_uri(root, "feedback")), config.feedback)
    return JoinReport(tuple(joined), tuple(changed), slots, write_report(root, report), report.text())


def _join(config: PipelineConfig, date: str) -> pl.DataFrame:
    """Attribute what followed the decisions of one date.

    Later decisions are read as well, because the latest one takes an event; and earlier purchases, because a second event of
    the same order and item counts for nobody: those of up to ``delay_hours`` before the date.
    """
    delay = timedelta(hours=config.feedback.delay_hours)
    start, end = date_span(date, config.lake.date_unit)
    decisions = _window(config, "exposures", DECISION_COLUMNS, start, end + delay)
    # imported ratings are the bulk of some lakes, and say nothing of a slot unless they have a grade
    of_interest = None if "rating" in config.feedback.grades else pl.col("type") != "rating"
    events = _window(config, "events", EVENT_COLUMNS, start - delay, end + delay, of_interest)
    return attribute(decisions, events, config.feedback).filter(date=date)


def _window(
    config: PipelineConfig,
    name: str,
    columns: tuple[str, ...],
    start: datetime,
    end: datetime,
    of_interest: pl.Expr | None = None,
) -> pl.DataFrame:
    """Read the rows of a time, from the partitions of its dates only."""
    unit = config.lake.date_unit
    first, last = (date_of(int(each.timestamp() * 1e6), unit) for each in (start, end))
    where = pl.col("date").is_between(pl.lit(first), pl.lit(last)) & pl.col("ts").is_between(start, end)
    if not tables.exists(config.root, name):
        raise DataError(f"table {name!r} under {config.root}: found nothing, expected it beside exposures; run the sinks")
    return tables.read(config.root, name, columns, where if of_interest is None else where & of_interest)


def _store(config: PipelineConfig, date: str, frame: pl.DataFrame, now: datetime) -> bool:
    """Replace a date's rows unless they are what is stored and the date stays open; returns whether rows changed."""
    root = config.root
    same = tables.exists(root, "feedback") and _stored(root, date).equals(frame)
    closed = now >= _closes(config, date)
    if same and not closed:
        return False
    rows = check(frame.to_arrow(), FEEDBACK, f"feedback of {date}")
    transaction = Transaction(_writer(date), int(now.timestamp()))
    tables.replace(root, "feedback", rows, f"date = '{date}'", transaction)
    return not same


def _stored(root: str, date: str) -> pl.DataFrame:
    return tables.read(root, "feedback", FEEDBACK.names, pl.col("date") == date).sort("ts", "request_id", "position")


def _closes(config: PipelineConfig, date: str) -> datetime:
    """When no event counts any more for a decision of the date, and all that do are stored."""
    _, end = date_span(date, config.lake.date_unit)
    return end + timedelta(hours=config.feedback.delay_hours) + _SETTLE


def _writer(date: str) -> str:
    return f"join_feedback:{date}"
