"""How many replicas a stage should have: a rule on what really queues.

The gateway coalesces requests, so a stage sees few calls however many wait; Serve's own signal, calls under way, says nothing.
Replicas report what `load.LoadWindow` measures, and this turns their reports into a number. It runs in Serve's controller,
which gets this module by value: it imports the standard library only.

Serve adds the rest: bounds, the delays before a decision counts, and the start of the first replica when a call waits at none.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = [
    "BUSY",
    "DELAY_MS",
    "ROWS_PER_S",
    "ROWS_QUEUED",
    "WINDOW_S",
    "Signals",
    "StagePolicy",
    "desired_replicas",
    "enough_replicas",
]

BUSY = "busy"
DELAY_MS = "delay_ms"
ROWS_PER_S = "rows_per_s"
ROWS_QUEUED = "rows_queued"

WINDOW_S = 5.0
"""What a replica reports covers so many seconds; after a change the reports need as long to mean something again."""

_FULL = 0.8  # a replica at work for more than this share of the time has no room for the rows that queue
_LATE = 0.6  # below this share more replicas do not make rows leave sooner: the wait is for one call, not for a place
_SPARE = 0.4  # replicas go when the others would stay below this share; the gap to _LATE is what keeps the number still
_AIM = 0.6  # share at work that a larger number aims at
_GROWTH = 4  # at most so many times as many at once: what saturated replicas say of the demand is an estimate


@dataclass(frozen=True)
class Signals:
    """What the replicas of one stage report, taken together.

    Attributes:
        replicas: replicas that run.
        reporting: of these, how many have said anything.
        busy: sum over them of the share of time at work: 1.5 keeps a replica and a half at work.
        rows_per_s: rows answered, over all.
        rows_queued: rows that wait in the gateways.
        delay_ms: how long the oldest row of a batch waited there, on average.
        calls: calls under way or waiting in handles.
    """

    replicas: int
    reporting: int = 0
    busy: float = 0.0
    rows_per_s: float = 0.0
    rows_queued: float = 0.0
    delay_ms: float = 0.0
    calls: float = 0.0


def desired_replicas(signals: Signals, target_delay_ms: float) -> int:
    """Return how many replicas the signals ask for; 0 when nothing came at all. Without reports, as many as there are.

    Up: rows wait longer than the target, or wait at all while the replicas are full. By one, or by the demand when that says
    more: rows queued / time they wait is what arrives (Little), rows per second at work is what a replica can do.
    Down: to as many as would stay below `_SPARE` each, at most by half.
    """
    n = signals.replicas
    if n == 0 or signals.reporting == 0:
        return n
    busy = signals.busy / signals.reporting
    late = signals.delay_ms > target_delay_ms and busy > _LATE
    full = signals.rows_queued >= 1 and busy > _FULL
    if late or full:
        arriving = signals.rows_per_s
        if late:
            arriving = max(arriving, 1e3 * signals.rows_queued / signals.delay_ms)
        per_replica = signals.rows_per_s / signals.busy  # while it works
        needed = math.ceil(arriving / (per_replica * _AIM)) if per_replica > 0 else n + 1
        return max(n + 1, min(needed, _GROWTH * n))
    enough = enough_replicas(signals)
    if enough == 0 or not (signals.delay_ms > target_delay_ms / 2 and busy > _SPARE):
        return min(n, max(enough, n // 2))
    return n


def enough_replicas(signals: Signals) -> int:
    """Return how many replicas would clearly be unloaded by what is being done now; 0 when nothing came at all."""
    if signals.rows_per_s == 0 and signals.calls == 0:
        return 0
    return max(1, math.ceil(signals.busy * signals.replicas / signals.reporting / _SPARE))


class Context(Protocol):
    """The part of ``ray.serve.config.AutoscalingContext`` that is used here."""

    current_num_replicas: int
    target_num_replicas: int
    capacity_adjusted_min_replicas: int
    current_time: float | None
    policy_state: dict[str, Any]

    @property
    def total_num_requests(self) -> float: ...

    @property
    def raw_metrics(self) -> Mapping[str, Mapping[Any, Any]] | None: ...


class StagePolicy:
    """What Serve calls each control loop; keeps its memory in the context's ``policy_state``.

    While replicas start or stop, and until reports cover only the time since, it asks for nothing more than was decided.
    """

    def __init__(self, target_delay_ms: float) -> None:
        self._target_delay_ms = target_delay_ms

    def __call__(self, ctx: Context) -> tuple[int, dict[str, Any]]:
        now = ctx.current_time or 0.0
        state = dict(ctx.policy_state)
        if state.get("replicas") != ctx.current_num_replicas:
            state["replicas"], state["since"] = ctx.current_num_replicas, now
        signals = signals_of(ctx)
        if now - state["since"] < WINDOW_S or signals.reporting == 0:
            desired = ctx.target_num_replicas
        elif ctx.current_num_replicas != ctx.target_num_replicas:
            desired = min(ctx.target_num_replicas, enough_replicas(signals))
        else:
            desired = desired_replicas(signals, self._target_delay_ms)
        return max(desired, ctx.capacity_adjusted_min_replicas), state


def signals_of(ctx: Context) -> Signals:
    """Put the newest report of each replica together.

    Each replica hears of the same queues in the gateways. So rows queued are not added up, the largest number counts; and the
    delay is the mean over all rows, whoever answered them.
    """
    newest = {
        name: {replica: float(series[-1].value) for replica, series in by_replica.items() if series}
        for name, by_replica in (ctx.raw_metrics or {}).items()
    }
    rates, delays, busy = (newest.get(name, {}) for name in (ROWS_PER_S, DELAY_MS, BUSY))
    rows_per_s = sum(rates.values())
    late = sum(rate * delays.get(replica, 0.0) for replica, rate in rates.items())
    return Signals(
        replicas=ctx.current_num_replicas,
        reporting=len(busy),
        busy=sum(busy.values()),
        rows_per_s=rows_per_s,
        rows_queued=max(newest.get(ROWS_QUEUED, {}).values(), default=0.0),
        delay_ms=late / rows_per_s if rows_per_s > 0 else 0.0,
        calls=ctx.total_num_requests,
    )
