"""More than a service can do, and what it is like afterwards."""

import time
from dataclasses import replace
from typing import Any

from load_process import Load, start_load
from memory import Memory, replica_memory
from tally import REJECTED

__all__ = ["Check", "check", "errors", "overload", "recovery"]

Check = dict[str, Any]
_START_S = 2.0  # for two processes to come up, so that one load follows the other without a pause


def overload(
    base: Load, rate: float, seconds: float, after_rate: float, after_s: float, *, own: bool
) -> tuple[list[Check], dict[str, Any]]:
    """Offer ``rate`` for a while, then ``after_rate`` at once, while the overload's last requests are still queued.

    Args:
        own: this process started the cluster; see `memory.replica_memory`.
    Returns: checks, and the reports by name.
    """
    before = replica_memory(own=own)
    start = time.time() + _START_S
    high = _with(base, rate=rate, seconds=seconds, start_at=start)
    after = _with(base, rate=after_rate, seconds=after_s, start_at=start + seconds, seed=base.seed + 1)
    with start_load(high) as flooding, start_load(after) as going_on:
        flood, calm = flooding.result(), going_on.result()
    return [*_flood_checks(flood), *_memory_checks(before, replica_memory(own=own))], {"overload": flood, "recovery": calm}


def recovery(report: dict[str, Any], deadline_ms: float) -> Check:
    """Find the first second from which each has a p99 within the deadline and neither rejections nor errors.

    Where there is none, the value is how long was looked, and ``note`` says so.
    """
    recovered = 0
    for at, entry in enumerate(report["timeline"], 1):
        if entry["sent"] != entry["ok"] or (entry["p99"] is not None and entry["p99"] > deadline_ms):
            recovered = at
    found = check("recovery_s", recovered * report["timeline"][1]["t"] if len(report["timeline"]) > 1 else recovered, "s")
    if recovered == len(report["timeline"]):
        found["note"] = "not recovered when the measurement ended"
    return found


def errors(report: dict[str, Any]) -> int:
    """What is neither an answer nor the server's own way to refuse one."""
    return sum(n for kind, n in report["errors_by_kind"].items() if kind not in REJECTED)


def check(name: str, value: float | None, unit: str) -> Check:
    """A figure to hold against a limit; null where there was nothing to measure."""
    return {"name": name, "value": None if value is None else round(value, 3), "unit": unit}


def _flood_checks(flood: dict[str, Any]) -> list[Check]:
    answered = flood["by_status"].get("200", 0)
    return [
        check("overload_p99_ms", flood["p99_ms"], "ms"),
        check("overload_rejected_p99_ms", flood["rejected_ms"]["p99"], "ms"),
        check("overload_answered_share", answered / max(1, flood["sent"]), "share"),
        check("overload_full_per_s", flood["full"] / flood["seconds"], "1/s"),
        check("overload_errors", errors(flood), "requests"),
    ]


def _memory_checks(before: Memory, after: Memory) -> list[Check]:
    """No check where no replica was seen, as when the service runs elsewhere."""
    if not before.replicas or not after.replicas:
        return []
    return [check("memory_growth_mb", after.mb - before.mb, "MB")]


def _with(base: Load, **changes: Any) -> Load:
    return replace(base, warmup_s=0.0, **changes)
