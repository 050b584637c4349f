"""Users' records on the bus: found by decoding them, removed where the bus can."""

import base64
from collections import Counter
from collections.abc import Iterator, Mapping

import orjson

from reco_ray.events.bus import Reader, Record
from reco_ray.hashing import user_digest
from reco_ray.privacy.needles import Needle

__all__ = ["Cleared", "clear"]

_AT_ONCE = 1000


class Cleared:
    """What was found on a partition: ``looked_at`` records, and by user id how many were theirs and how many are removed."""

    def __init__(self) -> None:
        self.looked_at = 0
        self.found: Counter[str] = Counter()
        self.removed: Counter[str] = Counter()
        self.last_ms = 0


def clear(reader: Reader, needles: Mapping[str, Needle], cleared: Cleared) -> None:
    """Remove the users' records from a partition, up to its newest one now.

    Args:
        needles: by user id.
        cleared: is added to.
    Raises: NotReadyError: the bus is away.
    """
    digests = {user_digest(user_id): user_id for user_id in needles}
    for records in _records(reader):
        cleared.looked_at += len(records)
        theirs: dict[str, list[int]] = {}
        for record in records:
            if (user_id := _whose(record.value, needles, digests)) is not None:
                theirs.setdefault(user_id, []).append(record.position)
                cleared.last_ms = max(cleared.last_ms, record.ts_ms)
        for user_id, positions in theirs.items():
            cleared.found[user_id] += len(positions)
            cleared.removed[user_id] += reader.remove(positions)


def _records(reader: Reader) -> Iterator[list[Record]]:
    newest, at = reader.newest(), -1
    while at < newest and (records := reader.read(at, _AT_ONCE, 0)):
        at = records[-1].position
        yield records


def _whose(value: bytes, needles: Mapping[str, Needle], digests: Mapping[str, str]) -> str | None:
    """The user that a record is of; a dead letter without a user is of the one whose id stands in its raw bytes."""
    try:
        found = orjson.loads(value)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        return next((user_id for user_id, needle in needles.items() if needle.within(value)), None)
    if "user_id" in found:
        return found["user_id"] if found["user_id"] in needles else None
    if user := found.get("user_digest"):
        return digests.get(user)
    raw = _raw(found.get("raw_b64"))
    return next((user_id for user_id, needle in needles.items() if needle.within(raw)), None)


def _raw(encoded: object) -> bytes:
    try:
        return base64.b64decode(encoded) if isinstance(encoded, str) else b""
    except ValueError:
        return b""
