"""What stands on the bus, for people who look at it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import orjson

from reco_ray.errors import DataError
from reco_ray.events.bus import DEAD_LETTERS, Reader, Record
from reco_ray.events.dead_letters import DeadLetter
from reco_ray.hashing import user_digest

__all__ = ["all_records", "count_reasons", "oldest_age_s", "readable"]

_BATCH = 1_000
_HIDDEN = ("extra", "user_row")  # free text of applications, and packed features
_PERSONAL = ("user_id", "session_id", "order_id")


def all_records(reader: Reader) -> Iterator[Record]:
    """Yield what a partition holds now, oldest first."""
    last, after = reader.newest(), -1
    while after < last and (records := reader.read(after, _BATCH, 0.0)):
        after = records[-1].position
        yield from (record for record in records if record.position <= last)


def oldest_age_s(reader: Reader, now: float) -> float | None:
    """Seconds since the bus took the oldest record it still holds; None where it holds none.

    Args:
        now: unix time in seconds.
    """
    records = reader.read(-1, 1, 0.0)
    return max(0.0, now - records[0].ts_ms / 1e3) if records else None


def count_reasons(readers: Sequence[Reader]) -> Counter[str]:
    """Count the dead letters of all partitions by reason."""
    found: Counter[str] = Counter()
    for reader in readers:
        for record in all_records(reader):
            try:
                found[DeadLetter.decode(record.value).reason] += 1
            except DataError:
                found["unreadable"] += 1
    return found


def readable(topic: str, partition: int, record: Record, *, show_ids: bool) -> str:
    """Write a record as one line of JSON.

    Args:
        show_ids: otherwise users, sessions and orders are named by digests, and what may hold anything is left out.
    """
    head: dict[str, object] = {"partition": partition, "bus_position": record.position}
    try:
        body = _letter(record, show_ids) if topic == DEAD_LETTERS else _fields(orjson.loads(record.value), show_ids)
    except (DataError, orjson.JSONDecodeError):
        body = {"unreadable_bytes": len(record.value)}
    return orjson.dumps({**head, **body}).decode()


def _letter(record: Record, show_ids: bool) -> dict[str, object]:
    letter = DeadLetter.decode(record.value)
    found: dict[str, object] = {"reason": letter.reason, "received_us": letter.received_us, "user": letter.user[:12]}
    if show_ids:  # what was refused may hold anything, and details quote it
        found |= {"detail": letter.detail, "raw": letter.raw.decode(errors="replace")}
    return found


def _fields(found: object, show_ids: bool) -> Mapping[str, object]:
    if not isinstance(found, dict):
        return {"value": found} if show_ids else {}
    if show_ids:
        return found
    kept = {name: value for name, value in found.items() if name not in _HIDDEN}
    return {name: _pseudonym(value) if name in _PERSONAL and value else value for name, value in kept.items()}


def _pseudonym(value: object) -> str:
    return user_digest(str(value))[:12]
