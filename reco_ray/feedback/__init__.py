"""What the gateway showed and what came of it: decisions as records, and the events that followed them.

Decisions come in from `serve` and from the bus, events from the lake; out go the tables ``exposures`` (through the sink) and
``feedback``, and a report per release. Called by `serve`, the sinks and jobs.
"""

__all__: list[str] = []
