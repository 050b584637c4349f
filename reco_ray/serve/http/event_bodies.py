"""The HTTP contract of ``POST /v1/events``: the envelope. What an event may hold is `events.contract`'s, checked one by one."""

import functools
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, Field

from reco_ray.events.contract import MAX_EVENTS, event_schema
from reco_ray.serve.http.contract import Body
from reco_ray.serve.http.problems import HttpProblem

__all__ = ["EventResult", "EventsAnswer", "EventsBody", "parse_events", "published_schema"]


class EventsBody(Body):
    """Body of ``POST /v1/events``."""

    events: Annotated[
        list[Any],
        Field(
            min_length=1,
            max_length=MAX_EVENTS,
            description="1 to 1000 events, each an object as GET /v1/events/schema describes it. Each is judged for itself: "
            "one that does not fit is rejected in its result and kept as a dead letter, and keeps no other one out.",
        ),
    ]


class EventResult(BaseModel):
    """What became of one event. ``reason`` and ``detail`` are there when it was rejected."""

    event_id: Annotated[str | None, Field(description="As it was sent; null where none could be read.")] = None
    status: Annotated[
        Literal["accepted", "duplicate", "rejected"],
        Field(description="accepted and duplicate: it is durable, do not send it again. rejected: sending it again is no use."),
    ]
    reason: str | None = None
    detail: str | None = None


class EventsAnswer(BaseModel):
    """The results, in the order of the events, and how many there are of each."""

    results: list[EventResult]
    accepted: int
    duplicates: int
    rejected: int


def parse_events(body: bytes) -> list[object]:
    """Return the events of a body, unchecked.

    Raises: HttpProblem: it is no JSON. ValidationError: the envelope is another one.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise HttpProblem("invalid-json", str(exc)) from exc
    return EventsBody.model_validate(found, strict=True).events


@functools.cache
def published_schema() -> bytes:
    """Return ``/v1/events/schema``."""
    return orjson.dumps(event_schema())
