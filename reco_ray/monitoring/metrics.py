"""Metrics of the processes that Ray runs. Made in a replica's ``__init__``, never at import; no label holds a user or item."""

from collections.abc import Iterable

from ray.util.metrics import Counter, Histogram

__all__ = ["GatewayMetrics"]

_LATENCY_MS = [0.5, 1, 1.5, 2, 3, 4, 5, 7, 10, 14, 20, 28, 40, 56, 80, 110, 150, 250, 500, 1000]


class GatewayMetrics:
    """What a gateway replica counts: 2.6 us a call.

    Labels: call (of the table of calls), status, reason (of ``degraded``; at most some tens), stage.
    """

    def __init__(self) -> None:
        self._requests = Counter(
            "reco_serve_requests_total", description="Requests answered, by call and status.", tag_keys=("call", "status")
        )
        self._degraded = Counter(
            "reco_serve_degraded_total", description="Answers that were less than full, by reason.", tag_keys=("reason",)
        )
        self._rejected = Counter(
            "reco_serve_rejected_total", description="Requests refused for their API key, by reason.", tag_keys=("reason",)
        )
        self._failures = Counter(
            "reco_serve_stage_failures_total",
            description="Stages that failed, were late or held back.",
            tag_keys=("release", "stage", "reason"),
        )
        self._stage_ms = Histogram(
            "reco_serve_stage_latency_ms",
            description="Milliseconds until a stage had answered, queueing included.",
            boundaries=_LATENCY_MS,
            tag_keys=("release", "stage"),
        )
        self._request_ms = Histogram(
            "reco_serve_request_latency_ms",
            description="Milliseconds of an answered slate inside the gateway.",
            boundaries=_LATENCY_MS,
            tag_keys=("call",),
        )

    def request(self, call: str, status: int, degraded: Iterable[str], ms: float) -> None:
        """A request was answered; ``ms`` is 0 where no slate was made."""
        self._requests.inc(1, {"call": call, "status": str(status)})
        for reason in degraded:
            self._degraded.inc(1, {"reason": reason})
        if ms > 0:
            self._request_ms.observe(ms, {"call": call})

    def rejected(self, reason: str) -> None:
        """A request was refused as ``unauthorized``, ``forbidden`` or ``rate_limited``; nothing says whose it was."""
        self._rejected.inc(1, {"reason": reason})

    def stage(self, release: str, stage: str, ms: float) -> None:
        """A stage answered."""
        self._stage_ms.observe(ms, {"release": release, "stage": stage})

    def failed(self, release: str, stage: str, reason: str, error: BaseException | None) -> None:
        """A stage was ``late``, ``failed`` or ``open``."""
        self._failures.inc(1, {"release": release, "stage": stage, "reason": reason})
