"""Packed values: a user's row is a header and arrays as they lie in memory, a slate and a profile a header and their JSON."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import numpy as np
import orjson

from reco_ray.errors import SchemaError
from reco_ray.types import UserRow

__all__ = [
    "NO_INTERESTS",
    "FinishedSlate",
    "Interests",
    "Profile",
    "pack_profile",
    "pack_slate",
    "pack_user",
    "unpack_interests",
    "unpack_profile",
    "unpack_slate",
    "unpack_user",
]

_HEADER = struct.Struct("<HHIIIqq")  # format, whether had is there, len(history), len(seen), len(features), as_of, position
_FORMAT = 3
_SLATE = struct.Struct("<HBBHBHd")  # format, len(etag), len(release), len(degraded), len(draw_id), len(propensities), made
_SLATE_FORMAT = 2
_PROFILE = struct.Struct("<HdI")  # format, saved, length of the interests
_PROFILE_FORMAT = 1


@dataclass(frozen=True, slots=True)
class FinishedSlate:
    """An answer as it went out, ready to go out again.

    Attributes:
        tail: its JSON after the first field, the request_id.
        etag: of the slate without its request_id.
        release: the one that made it. made: unix time in seconds.
        degraded: what is less than full in it.
        rung: of the ladder; only full ones are packed.
        draw_id: request that it was made for.
        propensities: float32 of each place as bytes; empty where nothing was left to chance.
        stored: whether it came from the online store.
    """

    tail: bytes
    etag: str
    release: str
    made: float
    degraded: tuple[str, ...] = ()
    rung: str = "full"
    draw_id: str = ""
    propensities: bytes = b""
    stored: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Interests:
    """What a user says to like, such as in an onboarding survey; names and ids as they were sent, known to a release or not.

    Attributes:
        categories: in any order. items: the one liked most comes first.
    """

    categories: tuple[str, ...] = field(default=(), repr=False)
    items: tuple[str, ...] = field(default=(), repr=False)


NO_INTERESTS = Interests()


@dataclass(frozen=True, slots=True)
class Profile:
    """What an application says of a user.

    Attributes:
        saved: unix time in seconds.
    """

    attributes: Mapping[str, str] = field(default_factory=dict, repr=False)
    interests: Interests = NO_INTERESTS
    saved: float = 0.0


def pack_user(row: UserRow) -> bytes:
    """Pack a row: 32 bytes and 12 per history item, 14 per seen item, 4 per feature."""
    had = row.had.astype("<u2", copy=False)
    return b"".join(
        (
            _HEADER.pack(_FORMAT, had.size > 0, row.history.size, row.seen.size, row.features.size, row.as_of, row.position),
            row.history.astype("<u8", copy=False).tobytes(),
            row.seen.astype("<u8", copy=False).tobytes(),
            row.weights.astype("<f4", copy=False).tobytes(),
            row.features.astype("<f4", copy=False).tobytes(),
            had.tobytes(),
        )
    )


def unpack_user(raw: bytes) -> UserRow:
    """Unpack what `pack_user` made, without copying the arrays.

    Raises: SchemaError: the value has another format or length.
    """
    if len(raw) < _HEADER.size:
        raise SchemaError(f"user row: found {len(raw)} bytes, expected at least {_HEADER.size}; write the rows again")
    version, had, n_history, n_seen, n_features, as_of, position = _HEADER.unpack_from(raw)
    size = _HEADER.size + 12 * n_history + (14 if had else 8) * n_seen + 4 * n_features
    if version != _FORMAT or len(raw) != size:
        raise SchemaError(
            f"user row: found format {version} and {len(raw)} bytes, expected format {_FORMAT} and {size}; write the rows again"
        )
    at = _HEADER.size
    history = np.frombuffer(raw, "<u8", n_history, at)
    seen = np.frombuffer(raw, "<u8", n_seen, at := at + 8 * n_history)
    weights = np.frombuffer(raw, "<f4", n_history, at := at + 8 * n_seen)
    features = np.frombuffer(raw, "<f4", n_features, at := at + 4 * n_history)
    days = np.frombuffer(raw, "<u2", 3 * n_seen if had else 0, at + 4 * n_features).reshape(-1, 3)
    return UserRow(history, weights, seen, features, as_of, position, days)


def pack_slate(slate: FinishedSlate) -> bytes:
    """Pack a finished slate: 17 bytes and its parts, the JSON last."""
    texts = (slate.etag, slate.release, ",".join(slate.degraded), slate.draw_id)
    parts = (*(text.encode() for text in texts), slate.propensities)
    return b"".join((_SLATE.pack(_SLATE_FORMAT, *map(len, parts), slate.made), *parts, slate.tail))


def unpack_slate(raw: bytes) -> FinishedSlate:
    """Unpack what `pack_slate` made.

    Raises: SchemaError: the value has another format.
    """
    if len(raw) < _SLATE.size or (found := _SLATE.unpack_from(raw))[0] != _SLATE_FORMAT:
        raise SchemaError(
            f"finished slate: found {raw[:14]!r}, expected format {_SLATE_FORMAT}; purge the slates with `reco purge`"
        )
    *sizes, made = found[1:]
    ends = list(accumulate(sizes, initial=_SLATE.size))
    if ends[-1] >= len(raw):
        raise SchemaError(f"finished slate: found {len(raw)} bytes, expected more than {ends[-1]}; purge with `reco purge`")
    etag, release, degraded, draw_id, propensities = (raw[start:end] for start, end in pairwise(ends))
    return FinishedSlate(
        tail=raw[ends[-1] :],
        etag=etag.decode(),
        release=release.decode(),
        made=made,
        degraded=tuple(degraded.decode().split(",")) if degraded else (),
        draw_id=draw_id.decode(),
        propensities=propensities,
        stored=True,
    )


def pack_profile(profile: Profile) -> bytes:
    """Pack a profile: 14 bytes, the interests, the attributes; requests read no further than the interests."""
    likes = profile.interests
    interests = b"" if likes == NO_INTERESTS else orjson.dumps((likes.categories, likes.items))
    return b"".join(
        (
            _PROFILE.pack(_PROFILE_FORMAT, profile.saved, len(interests)),
            interests,
            orjson.dumps(dict(profile.attributes)),
        )
    )


def unpack_profile(raw: bytes) -> Profile:
    """Unpack what `pack_profile` made.

    Raises: SchemaError: the value has another format.
    """
    saved, end = _profile_header(raw)
    return Profile(orjson.loads(raw[end:]), unpack_interests(raw), saved)


def unpack_interests(raw: bytes) -> Interests:
    """Unpack the interests of what `pack_profile` made.

    Raises: SchemaError: the value has another format.
    """
    _, end = _profile_header(raw)
    if end == _PROFILE.size:
        return NO_INTERESTS
    categories, items = orjson.loads(raw[_PROFILE.size : end])
    return Interests(tuple(categories), tuple(items))


def _profile_header(raw: bytes) -> tuple[float, int]:
    """When it was saved, and where its interests end."""
    if len(raw) < _PROFILE.size or (found := _PROFILE.unpack_from(raw))[0] != _PROFILE_FORMAT:
        raise SchemaError(
            f"profile: found {len(raw)} bytes of another format, expected format {_PROFILE_FORMAT}; send it again"
        )
    _, saved, n_interests = found
    end = _PROFILE.size + n_interests
    if end >= len(raw):
        raise SchemaError(f"profile: found {len(raw)} bytes, expected more than {end}; send it again")
    return saved, end
