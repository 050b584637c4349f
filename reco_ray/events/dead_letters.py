"""Dead letters: what was refused, as it came, with the reason; on the bus, so that it can be looked at and replayed.

A record is JSON: ``reason``, ``detail``, ``received_us``, ``raw_b64``, ``user_digest`` (null where no user could be read), so
that a user's letters are found without their id. A letter that names personal data holds it redacted (`events.contract`).
"""

import binascii
from base64 import b64decode, b64encode
from dataclasses import dataclass

import orjson

from reco_ray.errors import DataError
from reco_ray.events.bus import partition_of
from reco_ray.hashing import digest, user_digest

__all__ = ["DeadLetter", "letter_key", "letter_partition"]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One refused event.

    Attributes:
        raw: the event as it came, one JSON value. user: digest of its user; empty where none could be read.
    """

    reason: str
    detail: str
    received_us: int
    raw: bytes
    user: str = ""

    @classmethod
    def of(cls, reason: str, detail: str, raw: bytes, user_id: str | None, received_us: int) -> "DeadLetter":
        """Make the letter of an event that was refused just now."""
        return cls(reason, detail, received_us, raw, user_digest(user_id) if user_id else "")

    def encode(self) -> bytes:
        """Write the record."""
        return orjson.dumps(
            {
                "reason": self.reason,
                "detail": self.detail,
                "received_us": self.received_us,
                "raw_b64": b64encode(self.raw).decode(),
                "user_digest": self.user or None,
            }
        )

    @classmethod
    def decode(cls, value: bytes) -> "DeadLetter":
        """Read a record.

        Raises: DataError: it is none.
        """
        try:
            found = orjson.loads(value)
            raw = b64decode(found["raw_b64"], validate=True)
            return cls(str(found["reason"]), str(found["detail"]), int(found["received_us"]), raw, found["user_digest"] or "")
        except (ValueError, KeyError, TypeError, binascii.Error) as exc:
            raise DataError(f"found a record of {len(value)} bytes that is no dead letter; remove it") from exc


def letter_partition(raw: bytes, user_id: str | None, partitions: int) -> int:
    """Return the partition of a letter: its user's, or any one where none could be read."""
    return partition_of(user_id or digest(raw), partitions)


def letter_key(raw: bytes) -> str:
    """Name a letter by what it holds, for the dedup window: the same event refused twice is one letter. No event id is this."""
    return f"\0dead letter {digest(raw, length=32)}"
