"""The fault injection of the benchmarks: how a fault's effect is counted, and the switch that replicas look at."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # scripts, not a package; last, as one is named `serve`

from faults import Switch
from outcome import Outcome, outcome_of


def outcome(full: list[int], begin: float, end: float) -> Outcome:
    """Of a load of 10 requests a second, all answered, so many of them full."""
    timeline: list[dict[str, Any]] = [
        {"t": float(t), "sent": 10, "full": n, "errors_5xx": 0, "p99": 100.0 - n} for t, n in enumerate(full)
    ]
    report = {"seconds": float(len(full)), "sent": 10 * len(full), "full": sum(full), "timeline": timeline, "undeclared": 0}
    counts: dict[str, Any] = {"by_status": {"200": 10 * len(full)}, "rungs": {"full": 1}, "degraded": {}, "errors_by_kind": {}}
    return outcome_of(report | counts, begin, end)


def test_recovery_counts_from_the_faults_end_to_the_last_second_that_was_not_full() -> None:
    found = outcome([10, 10, 10, 0, 10, 8, 9, 10, 10, 10, 10, 10], begin=3.2, end=4.0)
    assert found.recovery_s == 2.0
    assert (found.full_before, found.full_after) == (1.0, 1.0)
    assert found.worst_p99_ms == 100.0


def test_a_fault_that_nobody_noticed_took_no_time_to_recover_from() -> None:
    assert outcome([10] * 12, begin=3.0, end=3.5).recovery_s == 0.0


def test_a_load_that_ends_degraded_never_recovered() -> None:
    found = outcome([10] * 9 + [5], begin=3.0, end=4.0)
    assert found.recovery_s is None
    assert found.full_after == 0.9


def test_a_switch_hits_its_target_for_its_time_in_every_process_that_looks(tmp_path: Path) -> None:
    now = 1000.0

    def clock() -> float:
        return now

    operator, replica = Switch(str(tmp_path), clock), Switch(str(tmp_path), clock)
    replica.pass_through("popular")
    operator.write("popular", 0.2)
    now += 0.06
    replica.pass_through("ranker")
    with pytest.raises(RuntimeError, match="popular fails on purpose"):
        replica.pass_through("popular")
    now += 0.2
    replica.pass_through("popular")
