"""What a fault did to the answers, read from the report of the load that ran meanwhile."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["BEFORE_S", "Outcome", "outcome_of"]

BEFORE_S = 5.0  # of load before a fault
_RECOVERED = 0.9
_AFTER_S = 5.0  # at the end of the load, in which all should be as before

Second = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One fault, counted.

    Attributes:
        full: answers that left nothing out. rungs, reasons: what the others say of themselves.
        undeclared: answers that left something out and do not say so.
        worst_p99_ms: of the seconds from the fault's begin until its recovery, or the load's end without one.
        recovery_s: from the fault's end (of a kill, from the kill) until the first second from which at least 90% of what was
            sent in each second got a full answer, until the end of the load; None when the last second was not so.
        full_before, full_after: shares of what was sent in the 5 s before the fault, and in the last 5 s of the load.
    """

    sent: int
    ok: int
    full: int
    rungs: dict[str, int]
    reasons: dict[str, int]
    undeclared: int
    errors_5xx: int
    errors_other: int
    errors_by_kind: dict[str, int]
    worst_p99_ms: float
    recovery_s: float | None
    full_before: float
    full_after: float


def outcome_of(report: Mapping[str, Any], begin: float, end: float) -> Outcome:
    """Count what came of a fault between ``begin`` and ``end``, in seconds of the report's timeline of 1 s steps."""
    timeline: Sequence[Second] = report["timeline"]
    bad = [second["t"] + 1 for second in timeline if second["t"] + 1 > end and _share([second]) < _RECOVERED]
    recovered = max(end, max(bad, default=end))
    lasting = recovered < report["seconds"]
    hit = [second["p99"] or 0.0 for second in timeline if begin - 1 < second["t"] <= recovered]
    errors_5xx = sum(second["errors_5xx"] for second in timeline)
    ok = report["by_status"].get("200", 0)
    return Outcome(
        sent=report["sent"],
        ok=ok,
        full=report["full"],
        rungs={rung: n for rung, n in report["rungs"].items() if rung != "full"},
        reasons=report["degraded"],
        undeclared=report["undeclared"],
        errors_5xx=errors_5xx,
        errors_other=report["sent"] - ok - errors_5xx,
        errors_by_kind=report["errors_by_kind"],
        worst_p99_ms=max(hit, default=0.0),
        recovery_s=round(recovered - end, 2) if lasting else None,
        full_before=_share([s for s in timeline if s["t"] + 1 <= begin]),
        full_after=_share([s for s in timeline if s["t"] >= report["seconds"] - _AFTER_S]),
    )


def _share(seconds: Sequence[Second]) -> float:
    sent = sum(second["sent"] for second in seconds)
    return round(sum(second["full"] for second in seconds) / sent, 4) if sent else 1.0
