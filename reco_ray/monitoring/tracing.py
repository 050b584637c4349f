"""Spans of served requests, OpenTelemetry: one for the request, a child for each stage.

They are written after the answer from the timings that are taken anyway, so that a request that is not sampled costs nothing.
No attribute names a user or an item.
"""

import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags, set_span_in_context

__all__ = ["Traces"]

_TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


class Traces:
    """Writes the spans of a share of the requests.

    A caller that sends a ``traceparent`` (W3C Trace Context) decides by its sampled flag, and the spans join its trace.

    Args:
        share: of the requests without such a header, in [0, 1].
        endpoint: OTLP over HTTP, e.g. ``http://collector:4318/v1/traces``; when empty, spans go to ``file`` as JSON lines.
        name: of this process, for ``service.instance.id``.
        draw: numbers in [0, 1).
    """

    def __init__(self, share: float, endpoint: str, file: Path, name: str, draw: Callable[[], float] = random.random) -> None:
        self._share, self._draw = share, draw
        resource = Resource.create({"service.name": "reco_ray", "service.instance.id": name})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._file: TextIO | None = None
        exporter: SpanExporter
        if endpoint:
            exporter = OTLPSpanExporter(endpoint=endpoint)
        else:
            self._file = file.open("a", buffering=1)
            exporter = ConsoleSpanExporter(out=self._file, formatter=_line)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("reco_ray")

    def wanted(self, traceparent: bytes | None) -> bool:
        """Whether a request is traced."""
        if traceparent is not None and (found := _TRACEPARENT.fullmatch(traceparent)) is not None:
            return bool(int(found[3], 16) & 1)
        return self._draw() < self._share

    def write(
        self,
        call: str,
        attributes: Mapping[str, str | int | bool],
        ended: float,
        timings: Mapping[str, float],
        traceparent: bytes | None,
        *,
        failed: bool,
    ) -> None:
        """Write the spans of one request.

        Args:
            ended: unix seconds. timings: milliseconds by stage in the order they ran; ``total`` is the whole.
        """
        at = int(ended * 1e9) - int(timings.get("total", 0.0) * 1e6)
        span = self._tracer.start_span(call, _parent(traceparent), attributes=dict(attributes), start_time=at)
        inside = set_span_in_context(span)
        for stage, ms in timings.items():
            if stage != "total":
                child = self._tracer.start_span(stage, inside, start_time=at)
                at += int(ms * 1e6)
                child.end(at)
        if failed:
            span.set_status(Status(StatusCode.ERROR))
        span.end(int(ended * 1e9))

    def close(self) -> None:
        """Send what has not been sent."""
        self._provider.shutdown()
        if self._file is not None:
            self._file.close()


def _parent(traceparent: bytes | None) -> Context:
    found = _TRACEPARENT.fullmatch(traceparent) if traceparent is not None else None
    if found is None:
        return Context()
    parent = SpanContext(int(found[1], 16), int(found[2], 16), is_remote=True, trace_flags=TraceFlags(int(found[3], 16)))
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _line(span: ReadableSpan) -> str:
    return f"{span.to_json(indent=None)}\n"
