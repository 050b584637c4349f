"""The contract of an event: what an application may send, checked one event at a time, and what becomes of each.

An admitted event is ready for the bus; a refused one has a reason and the bytes that a dead letter keeps. Unknown fields are
kept in ``extra``, without personal data. Context is an allow-list: what is not on it goes nowhere.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reco_ray.events.encoding import encode
from reco_ray.events.personal import coarse_location, is_personal, maybe_personal, redact
from reco_ray.events.versions import CURRENT, OLDEST, requires, unsupported

__all__ = ["MAX_EVENTS", "Admitted", "Limits", "Refused", "admit", "batch_schema", "event_schema"]

MAX_EVENTS = 1_000
_MAX_EXTRA = 16 * 1024
_IDS = ("event_id", "user_id", "item_id", "session_id", "order_id", "request_id")
_MAX_DEPTH = 200
_JSON = orjson.OPT_NON_STR_KEYS | orjson.OPT_SORT_KEYS
_EPOCH, _MICROSECOND = datetime.fromtimestamp(0, UTC), timedelta(microseconds=1)
_OLDEST_US, _NEWEST_US = -62_135_596_800_000_000, 253_402_300_799_999_999  # the years 1 to 9999
_LETTERLESS = re.compile(r"\n\d*[^\w\n][^A-Za-z_\n]*(?=\n|\Z)")  # among ids, one to a line: all that can be numbers of people
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


_validate = Event.__pydantic_validator__.validate_python


@dataclass(frozen=True, slots=True)
class Limits:
    """What an event is held against besides its form. ``max_future_s``: how far it may be ahead of our clock."""

    max_future_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Admitted:
    """An event that the bus may have; ``value`` is its encoding there.

    Attributes:
        dropped: entries of its context that go nowhere: not on the list, or no location.
    """

    event_id: str
    user_id: str
    ts_us: int
    value: bytes
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Refused:
    """An event that is kept as a dead letter.

    Attributes:
        event_id, user_id: None where they cannot be read, or are personal data.
        detail: found, expected, remedy; holds no value of the event.
        raw: the event's JSON; redacted where an id is personal data, cut off where it is nested deeper than 200 levels.
    """

    event_id: str | None
    user_id: str | None
    reason: _Reason
    detail: str
    raw: bytes


def admit(raw: Sequence[object], now_us: int, limits: Limits = Limits()) -> list[Admitted | Refused]:
    """Decide on each event of a batch, in order; one event's fate does not depend on the others.

    An event with several faults is refused for the first of: malformed, personal_data, unsupported_version, invalid, future.

    Args:
        raw: parsed JSON. now_us: our clock, microseconds since 1970; what is admitted carries it as ``received_us``.
    """
    latest_us = now_us + int(limits.max_future_s * 1e6)
    return [_one(each, now_us, latest_us) for each in raw]


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


def _one(raw: object, now_us: int, latest_us: int) -> Admitted | Refused:
    if not isinstance(raw, dict):
        return Refused(None, None, "malformed", f"found {type(raw).__name__}, expected an object", _dump(raw))
    version = raw.get("schema_version", OLDEST)
    if isinstance(version, str) and (wrong := unsupported(version)) is not None:
        return _refuse(raw, "unsupported_version", wrong)
    try:
        event = _validate(raw)
    except ValidationError as exc:
        return _refuse(raw, "invalid", _wrong(exc))
    row = event.__dict__  # in the order of the fields, which is that of the columns
    event_id, user_id = row["event_id"], row["user_id"]
    ids = f"\n{event_id}\n{user_id}\n{row['item_id']}\n{row['session_id']}\n{row['order_id']}\n{row['request_id']}"
    if ("@" in ids or "%" in ids or ":" in ids or _LETTERLESS.search(ids)) and _personal_ids(row):
        return _refuse(raw, "personal_data", "")
    try:
        ts_us = row["ts"] = _microseconds(row["ts"])
        _check_required(row)
        extra = event.__pydantic_extra__
        row["extra"] = _extra(extra) if extra else None
    except ValueError as exc:
        return _refuse(raw, "invalid", str(exc))
    if ts_us > latest_us:
        ahead_s = (ts_us - now_us) / 1e6
        most_s = (latest_us - now_us) / 1e6
        return _refuse(raw, "future", f"ts: found {ahead_s:.0f} s ahead of our clock, expected at most {most_s:g}")
    dropped = 0
    context = row["context"]
    if context is not None:
        row["context"] = kept = _context(context)
        dropped = len(raw["context"]) - len(context.__pydantic_fields_set__)
        dropped += kept["location"] is None and context.location is not None
    row["received_us"] = now_us
    return Admitted(event_id, user_id, ts_us, encode(row), dropped)


def _personal_ids(fields: Mapping[str, object]) -> list[str]:
    return [name for name in _IDS if isinstance(found := fields.get(name), str) and is_personal(found)]


def _check_required(row: Mapping[str, object]) -> None:
    event_type, version = str(row["type"]), str(row["schema_version"])
    if missing := [name for name in requires(event_type, version) if row[name] is None]:
        raise ValueError(f"a {event_type} of version {version} lacks {', '.join(missing)}; send them")


def _extra(fields: Mapping[str, object]) -> str:
    """Unknown fields as JSON text, without personal data."""
    try:
        text = orjson.dumps(fields, default=str, option=_JSON)
    except TypeError:
        if _is_deep(fields, _MAX_DEPTH):
            raise ValueError(f"unknown fields: found more than {_MAX_DEPTH} levels, expected fewer; send less") from None
        text = _dump(fields)
    if len(text) > _MAX_EXTRA:
        raise ValueError(f"unknown fields: found {len(text)} bytes, expected at most {_MAX_EXTRA}; send less")
    return (_dump(_cleaned(fields)) if maybe_personal(text.decode()) else text).decode()


def _context(context: EventContext) -> dict[str, str | None]:
    device, locale, surface, location = context.device, context.locale, context.surface, context.location
    if maybe_personal(f"{device}\n{locale}\n{surface}"):
        device, locale, surface = (text and redact(text) for text in (device, locale, surface))
    if location is not None:
        location = coarse_location(location.__dict__ if isinstance(location, Location) else location)
    return {"device": device, "locale": locale, "surface": surface, "location": location}


def _refuse(raw: dict[str, object], reason: _Reason, detail: str) -> Refused:
    if personal := _personal_ids(raw):
        reason = "personal_data"
        detail = f"{', '.join(personal)}: found an e-mail address, a telephone number or an IP address, expected an id of yours"
    event_id = None if "event_id" in personal else _readable(raw.get("event_id"), 128)
    user_id = None if "user_id" in personal else _readable(raw.get("user_id"), 256)
    return Refused(event_id, user_id, reason, detail, _dump(raw, cleaned=bool(personal)))


def _readable(identifier: object, most: int) -> str | None:
    if not isinstance(identifier, str) or not 1 <= len(identifier) <= most:
        return None
    try:
        identifier.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return None
    return identifier


def _wrong(exc: ValidationError) -> str:
    found = exc.errors(include_url=False, include_context=False, include_input=False)
    said = "; ".join(f"{'.'.join(str(part) for part in each['loc'][:2])}: {each['msg']}" for each in found[:5])
    return said or "found an event that cannot be read"


def _microseconds(ts: int | str) -> int:
    if isinstance(ts, str):
        try:
            when = datetime.fromisoformat(ts.upper())
        except ValueError:
            raise ValueError("ts: found text that is no time, expected RFC 3339, such as 2026-01-31T12:00:00Z") from None
        if when.tzinfo is None:
            raise ValueError("ts: found a time without an offset, expected RFC 3339, such as 2026-01-31T12:00:00Z")
        ts = (when - _EPOCH) // _MICROSECOND
    if not _OLDEST_US <= ts <= _NEWEST_US:
        raise ValueError("ts: found a number that is no time, expected microseconds since 1970")
    return ts


def _cleaned(value: Any) -> Any:
    """Redact all text within, keys included; numbers that JSON does not have become null."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        found: dict[str, Any] = {}
        for name, each in value.items():
            key = redact(str(name))
            found[key if key not in found else f"{key} {len(found)}"] = _cleaned(each)
        return found
    if isinstance(value, list | tuple):
        return [_cleaned(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _dump(value: object, *, cleaned: bool = False) -> bytes:
    try:
        return orjson.dumps(_cleaned(value) if cleaned else value, default=str, option=_JSON)
    except (TypeError, RecursionError):  # a number of more than 64 bits, half a surrogate pair; too deep
        value = _pruned(value, _MAX_DEPTH)
        return json.dumps(_cleaned(value) if cleaned else value, default=str, sort_keys=True).encode()


def _is_deep(value: object, levels: int) -> bool:
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return bool(inner) and (levels == 0 or any(_is_deep(each, levels - 1) for each in inner))


def _pruned(value: object, levels: int) -> object:
    """Cut off what lies deeper than so many levels; numbers that JSON does not have become null."""
    if isinstance(value, Mapping):
        return {str(name): _pruned(each, levels - 1) for name, each in value.items()} if levels else "cut off"
    if isinstance(value, list | tuple):
        return [_pruned(each, levels - 1) for each in value] if levels else "cut off"
    return None if isinstance(value, float) and not math.isfinite(value) else value
