"""What is recorded of an answered request: metrics always, a line in the request log, spans for a share of them.

Nothing here names a user or an item.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from reco_ray.monitoring.request_log import RequestLog
from reco_ray.monitoring.tracing import Traces

__all__ = ["Recorder", "Served", "ServedMetrics"]


@dataclass(slots=True)
class Served:
    """One answered request.

    Attributes:
        call: of the table of calls. ms: inside the gateway.
        release, variant, rung, cache, degraded, items, timings: of a slate; empty for other answers.
    """

    request_id: str
    call: str
    status: int
    ms: float
    release: str = ""
    variant: str = ""
    rung: str = ""
    cache: str = ""
    degraded: Sequence[str] = ()
    items: int = 0
    timings: dict[str, float] = field(default_factory=dict)
    traceparent: bytes | None = None


class ServedMetrics(Protocol):
    """Where requests are counted."""

    def served(self, call: str, status: int, release: str, variant: str, rung: str, degraded: Sequence[str], ms: float) -> None:
        """A request was answered."""


class Recorder:
    """Records answered requests.

    Args:
        log, traces: None where they are off.
    """

    def __init__(self, metrics: ServedMetrics, log: RequestLog | None = None, traces: Traces | None = None) -> None:
        self._metrics, self._log, self._traces = metrics, log, traces

    def __call__(self, served: Served) -> None:
        """Record one; a few microseconds, and no writing here."""
        self._metrics.served(
            served.call, served.status, served.release, served.variant, served.rung, served.degraded, served.ms
        )
        if self._log is not None:
            self._log.add(
                {
                    "ts": round(time.time(), 3),
                    "request_id": served.request_id,
                    "call": served.call,
                    "status": served.status,
                    "ms": round(served.ms, 2),
                    "release": served.release,
                    "variant": served.variant,
                    "rung": served.rung,
                    "cache": served.cache,
                    "degraded": served.degraded,
                    "items": served.items,
                    "timings": {stage: round(ms, 2) for stage, ms in served.timings.items()},
                }
            )
        if self._traces is not None and self._traces.wanted(served.traceparent):
            self._traces.write(
                served.call,
                {
                    "request_id": served.request_id,
                    "http.response.status_code": served.status,
                    "release": served.release,
                    "variant": served.variant,
                    "rung": served.rung,
                    "degraded": ",".join(served.degraded),
                },
                time.time(),
                {**served.timings, "total": served.ms},
                served.traceparent,
                failed=served.status >= 500,
            )
