"""What came of a load: a note per request while it runs, and the report made of the notes at its end."""

import json
import re
from array import array
from collections import Counter
from typing import Any

import numpy as np
from http1 import Answer, header
from numpy.typing import NDArray

__all__ = ["REJECTED", "Tally"]

REJECTED = ("503", "429")  # the server's way to say "not now"; anything else that is not 200 is an error

_DEGRADED = re.compile(rb'"degraded"\s*:\s*(\[[^\]]*\])')
_RUNG = re.compile(rb'"rung"\s*:\s*"([^"]*)"')


class Tally:
    """Counts what happens to requests; times are seconds from the start of the load.

    A request belongs to the second it was *meant* to be sent in, and its latency starts there: a server that stalls is
    charged for everyone who would have come meanwhile (coordinated omission). Requests of the warm-up do not count.
    """

    def __init__(self, warmup_s: float) -> None:
        self._warmup_s = warmup_s
        self._intended, self._finished = array("d"), array("d")
        self._kinds: list[str] = []
        self._full = bytearray()
        self._degraded: Counter[str] = Counter()
        self._rungs: Counter[str] = Counter()
        self._undeclared = self._retry_after = 0

    def add(self, intended: float, finished: float, kind: str, answer: Answer | None = None) -> None:
        """Note the end of a request.

        Args:
            kind: the status as text, or what came instead of one: "reset", "refused", "timeout", "malformed", ...
        """
        full = False
        if answer is not None and intended >= self._warmup_s:
            if kind == "200":
                full = self._read(answer.body)
            elif kind == "503":
                self._retry_after += header(answer.head, b"retry-after") is not None
        self._intended.append(intended)
        self._finished.append(finished)
        self._kinds.append(kind)
        self._full.append(full)

    def _read(self, body: bytes) -> bool:
        """Note what an answer says of itself; returns whether it is full."""
        if rung := _RUNG.search(body):
            self._rungs[rung[1].decode(errors="replace")] += 1
        if b'"degraded":[]' in body:
            honest = rung is None or rung[1] == b"full"  # a lower rung has a reason, and an answer on it must name that
            self._undeclared += not honest
            return honest
        try:
            found = _DEGRADED.search(body)
            reasons = None if found is None else json.loads(found[1])
        except ValueError:
            reasons = None
        if reasons is None:
            self._undeclared += 1
            return False
        self._degraded.update({str(reason) for reason in reasons})
        return not reasons

    def report(self, seconds: float, timeline_s: float = 1.0) -> dict[str, Any]:
        """Summarise requests that were meant to be sent within ``seconds`` after the warm-up.

        ``per_s`` counts the 200s that *arrived* within that time, those sent in the warm-up included: what the server got
        done, which is less than what it was offered as soon as a queue grows. Quantiles are null where there is nothing.
        """
        intended = np.asarray(self._intended) - self._warmup_s
        finished = np.asarray(self._finished) - self._warmup_s
        kinds, full = np.array(self._kinds, dtype="U16"), np.frombuffer(self._full, np.uint8).astype(bool)
        answered = kinds == "200"
        done = int((answered & (finished >= 0) & (finished < seconds)).sum())
        counted = (intended >= 0) & (intended < seconds)
        latency_ms = 1e3 * (finished - intended)[counted]
        intended, kinds, full, answered = intended[counted], kinds[counted], full[counted], answered[counted]
        by_kind = Counter(kinds.tolist())
        ok_ms = quantiles(latency_ms[answered])
        quarters = [quantiles(latency_ms[answered & (4 * intended // seconds == q)])["p99"] for q in range(4)]
        return {
            "seconds": seconds,
            "sent": len(kinds),
            "requests": sum(n for kind, n in by_kind.items() if kind.isdigit()),
            "errors": int(len(kinds) - full.sum()),  # an answer that left work out was cheaper to make, and does not count
            "per_s": done / seconds,
            "p50_ms": ok_ms["p50"],
            "p95_ms": ok_ms["p95"],
            "p99_ms": ok_ms["p99"],
            "by_status": {kind: n for kind, n in sorted(by_kind.items()) if kind.isdigit()},
            "errors_by_kind": {kind: n for kind, n in sorted(by_kind.items()) if kind != "200"},
            "full": int(full.sum()),
            "degraded": dict(self._degraded.most_common()),
            "undeclared": self._undeclared,
            "rungs": dict(self._rungs.most_common()),
            "retry_after": self._retry_after,
            "latency_ms": ok_ms,
            "rejected_ms": {q: v for q, v in quantiles(latency_ms[np.isin(kinds, REJECTED)]).items() if q in ("p50", "p99")},
            "quarters_p99_ms": quarters,
            "timeline": _timeline(seconds, timeline_s, intended, latency_ms, kinds, full),
        }


def quantiles(ms: NDArray[np.float64]) -> dict[str, float | None]:
    """Quantiles by the next higher value, so that p99 of few values is one that occurred."""
    names = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    if not len(ms):
        return dict.fromkeys(names)
    found = np.quantile(ms, list(names.values()), method="higher").round(3).tolist()
    return dict(zip(names, found, strict=True))


def _timeline(
    seconds: float,
    step_s: float,
    intended: NDArray[np.float64],
    latency_ms: NDArray[np.float64],
    kinds: NDArray[np.str_],
    full: NDArray[np.bool_],
) -> list[dict[str, Any]]:
    """One entry per step: ``sent = ok + errors_5xx + errors_other``; ``rejected`` are the 503s and 429s among the errors."""
    entries = []
    answered, is_5xx = kinds == "200", np.char.startswith(kinds, "5")
    rejected, steps = np.isin(kinds, REJECTED), intended // step_s
    for step in range(int(np.ceil(seconds / step_s))):
        here = steps == step
        ms = quantiles(latency_ms[here & answered])
        entries.append(
            {
                "t": step * step_s,
                "sent": int(here.sum()),
                "ok": int((here & answered).sum()),
                "full": int((here & full).sum()),
                "rejected": int((here & rejected).sum()),
                "errors_5xx": int((here & is_5xx).sum()),
                "errors_other": int((here & ~answered & ~is_5xx).sum()),
                "p50": ms["p50"],
                "p99": ms["p99"],
            }
        )
    return entries
