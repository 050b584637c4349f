"""The contract of an event: what an application may send, checked one event at a time, and what becomes of each.

An admitted event is ready for the bus; a refused one has a reason and the bytes that a dead letter keeps. Unknown fields are
kept in ``extra``, without personal data. Context is an allow-list: what is not on it goes nowhere.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from reco_ray.events.encoding import encode
from reco_ray.events.personal import coarse_location, is_personal, maybe_personal, redact
from reco_ray.events.versions import CURRENT, OLDEST, requires, unsupported

__all__ = ["MAX_EVENTS", "Admitted", "Limits", "Refused", "admit", "batch_schema", "event_schema"]

MAX_EVENTS = 1_000
_MAX_EXTRA = 16 * 1024
_IDS = ("event_id", "user_id", "item_id", "session_id", "order_id", "request_id")
_OLDEST_US = -62_135_596_800_000_000  # the year 1
_Reason = Literal["malformed", "invalid", "unsupported_version", "future", "personal_data"]

Id = Annotated[str, Field(min_length=1, max_length=256)]
ShortId = Annotated[str, Field(min_length=1, max_length=128)]
Label = Annotated[str, Field(max_length=64)]


class Location(BaseModel):
    """A point; kept to a tenth of a degree."""

    model_config = ConfigDict(extra="ignore", strict=True)

    lat: Annotated[float, Field(ge=-90, le=90)]
    lon: Annotated[float, Field(ge=-180, le=180)]


class EventContext(BaseModel):
    """Circumstances of an event. Other keys are dropped."""

    model_config = ConfigDict(extra="ignore", strict=True)

    device: Label | None = None
    locale: Label | None = None
    surface: Label | None = None
    location: Annotated[
        Label | Location | None, Field(description='"lat,lon", a point, or a code of ISO 3166: DE, DE-BY. Others are dropped.')
    ] = None


class Event(BaseModel):
    """One thing that a user did. Fields that are not listed are kept.

    From version 1.1 on a purchase has order_id, quantity, price and currency, and a refund order_id.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    event_id: Annotated[ShortId, Field(description="Names the event: sent twice, it is stored once.")]
    schema_version: Annotated[str, Field(max_length=20, description=f"{OLDEST} to 1.x.")] = OLDEST
    type: Literal["impression", "click", "view", "add_to_cart", "purchase", "refund", "rating", "like", "dismiss"]
    user_id: Id
    item_id: Id
    ts: Annotated[int | str, Field(description="When it happened: RFC 3339 with an offset, or microseconds since 1970.")]
    value: Annotated[float | None, Field(ge=-1e30, le=1e30, allow_inf_nan=False, description="A rating.")] = None
    order_id: Id | None = None
    quantity: Annotated[int | None, Field(ge=1, le=1_000_000)] = None
    price: Annotated[float | None, Field(ge=0, le=1e12, allow_inf_nan=False, description="Of one unit.")] = None
    currency: Annotated[str | None, Field(pattern="^[A-Z]{3}$", description="ISO 4217.")] = None
    dwell_ms: Annotated[int | None, Field(ge=0, le=86_400_000)] = None
    session_id: Id | None = None
    request_id: Annotated[ShortId | None, Field(description="Of the answer that showed the item.")] = None
    position: Annotated[int | None, Field(ge=1, le=100_000, description="Of the item in that answer; 1 is the first.")] = None
    context: EventContext | None = None
    consent: Annotated[bool, Field(description="To personalisation; without it the event trains nothing.")] = True


class EventsBody(BaseModel):
    """Body of ``POST /v1/events``."""

    model_config = ConfigDict(extra="forbid")

    events: Annotated[list[Event], Field(min_length=1, max_length=MAX_EVENTS)]


_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


@dataclass(frozen=True, slots=True)
class Limits:
    """What an event is held against besides its form. ``max_future_s``: how far it may be ahead of our clock."""

    max_future_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Admitted:
    """An event that the bus may have; ``value`` is its encoding there."""

    event_id: str
    user_id: str
    ts_us: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """An event that is kept as a dead letter.

    Attributes:
        event_id, user_id: None where they cannot be read. A ``user_id`` that is itself personal data is None too.
        detail: found, expected, remedy; holds no value of the event.
        raw: the event's JSON, without personal data where that was the reason.
    """

    event_id: str | None
    user_id: str | None
    reason: _Reason
    detail: str
    raw: bytes


def admit(raw: Sequence[object], now_us: int, limits: Limits = Limits()) -> list[Admitted | Refused]:
    """Decide on each event of a batch, in order; one event's fate does not depend on the others.

    Args:
        raw: parsed JSON. now_us: our clock, microseconds since 1970; what is admitted carries it as ``received_us``.
    """
    return [_one(each, now_us, limits) for each in raw]


def event_schema() -> dict[str, Any]:
    """Return the JSON Schema of one event."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": f"version {CURRENT}",
        **Event.model_json_schema(),
    }


def batch_schema() -> dict[str, Any]:
    """Return the JSON Schema of a batch."""
    return EventsBody.model_json_schema()


def _one(raw: object, now_us: int, limits: Limits) -> Admitted | Refused:
    if not isinstance(raw, Mapping):
        return Refused(None, None, "malformed", f"found {type(raw).__name__}, expected an object", _dump(raw))
    version = raw.get("schema_version", OLDEST)
    if isinstance(version, str) and (wrong := unsupported(version)) is not None:
        return _refuse(raw, "unsupported_version", wrong)
    try:
        event = _EVENT.validate_python(raw)
    except ValidationError as exc:
        return _refuse(raw, "invalid", _wrong(exc))
    try:
        ts_us = _microseconds(event.ts)
    except ValueError as exc:
        return _refuse(raw, "invalid", str(exc))
    if missing := [name for name in requires(event.type, event.schema_version) if getattr(event, name) is None]:
        return _refuse(
            raw, "invalid", f"a {event.type} of version {event.schema_version} lacks {', '.join(missing)}; send them"
        )
    if named := _personal_ids(event):
        detail = f"{', '.join(named)}: found an e-mail address, a telephone number or an IP address, expected an id of your own"
        return _refuse(raw, "personal_data", detail, personal=True)
    if ts_us > now_us + limits.max_future_s * 1e6:
        ahead_s = (ts_us - now_us) / 1e6
        return _refuse(raw, "future", f"ts: found {ahead_s:.0f} s ahead of our clock, expected at most {limits.max_future_s:g}")
    extra = event.model_extra
    text = None
    if extra:
        text = _dump(extra).decode()
        if maybe_personal(text):
            text = _dump(_cleaned(extra)).decode()
        if len(text) > _MAX_EXTRA:
            return _refuse(raw, "invalid", f"unknown fields: found {len(text)} bytes, expected at most {_MAX_EXTRA}; send less")
    context = event.context
    row = {
        "event_id": event.event_id,
        "schema_version": event.schema_version,
        "type": event.type,
        "user_id": event.user_id,
        "item_id": event.item_id,
        "ts": ts_us,
        "value": event.value,
        "order_id": event.order_id,
        "quantity": event.quantity,
        "price": event.price,
        "currency": event.currency,
        "dwell_ms": event.dwell_ms,
        "session_id": event.session_id,
        "request_id": event.request_id,
        "position": event.position,
        "context": None if context is None else _context(context),
        "consent": event.consent,
        "extra": text,
        "received_us": now_us,
    }
    return Admitted(event.event_id, event.user_id, ts_us, encode(row))


def _personal_ids(event: Event) -> list[str]:
    ids = [event.event_id, event.user_id, event.item_id, event.session_id, event.order_id, event.request_id]
    if not maybe_personal("\n".join([each for each in ids if each is not None])):  # one search instead of six
        return []
    return [name for name, each in zip(_IDS, ids, strict=True) if each is not None and is_personal(each)]


def _context(context: EventContext) -> dict[str, str | None]:
    location = context.location
    if location is not None:
        location = coarse_location(location.model_dump() if isinstance(location, Location) else location)
    found = {"device": context.device, "locale": context.locale, "surface": context.surface, "location": location}
    return {name: value and (value if name == "location" else redact(value)) for name, value in found.items()}


def _refuse(raw: Mapping[object, object], reason: _Reason, detail: str, *, personal: bool = False) -> Refused:
    event_id, user_id = raw.get("event_id"), raw.get("user_id")
    user = user_id if isinstance(user_id, str) and 1 <= len(user_id) <= 256 and not is_personal(user_id) else None
    kept = _cleaned(raw) if personal else raw
    return Refused(_shown(event_id), user, reason, detail, _dump(kept))


def _shown(event_id: object) -> str | None:
    return event_id if isinstance(event_id, str) and len(event_id) <= 128 and not is_personal(event_id) else None


def _wrong(exc: ValidationError) -> str:
    found = exc.errors(include_url=False, include_context=False, include_input=False)
    said = "; ".join(f"{'.'.join(str(part) for part in each['loc'][:2])}: {each['msg']}" for each in found[:5])
    return said or "found an event that cannot be read"


def _microseconds(ts: int | str) -> int:
    if isinstance(ts, str):
        try:
            when = datetime.fromisoformat(ts)
        except ValueError:
            raise ValueError("ts: found text that is no time, expected RFC 3339, such as 2026-01-31T12:00:00Z") from None
        if when.tzinfo is None:
            raise ValueError("ts: found a time without an offset, expected RFC 3339, such as 2026-01-31T12:00:00Z")
        return _since_1970(when)
    if not _OLDEST_US <= ts <= 253_402_300_799_999_999:
        raise ValueError("ts: found a number that is no time, expected microseconds since 1970")
    return ts


def _since_1970(when: datetime) -> int:
    since = when.astimezone(UTC) - datetime.fromtimestamp(0, UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _cleaned(value: Any) -> Any:
    """Redact all text within, keys included; numbers that JSON does not have become null."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(str(name)): _cleaned(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _dump(value: object) -> bytes:
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SORT_KEYS)
    except TypeError:  # a number of more than 64 bits, half a surrogate pair
        return json.dumps(value, default=str).encode()
