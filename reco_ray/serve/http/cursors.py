"""Cursors of pages: what the pages before have shown, in the hands of the caller; decision 0027.

A cursor is a check (8 bytes), unix time in s (4), and the keys of all items shown so far (8 each), in base64url. Any replica of
any release reads it, and nothing is kept of it. The check tells that it is whole and whose it is; it is no secret, since who
changes it gains no more than they could with ``exclude``.
"""

import base64
import binascii
import hashlib
import struct
from collections import OrderedDict

import numpy as np
import orjson
from numpy.typing import NDArray

from reco_ray.hashing import item_keys
from reco_ray.serve.http import problems
from reco_ray.store import FinishedSlate

__all__ = ["LIFE_S", "MOST_SHOWN", "NOTHING_SHOWN", "SlateKeys", "read", "write"]

LIFE_S = 3_600.0
MOST_SHOWN = 600  # items of all pages: 6.4 kB of cursor, which fits into the line of a GET
NOTHING_SHOWN = np.empty(0, np.uint64)

_CHECK = 8
_TIME = struct.Struct("<I")
_HEAD = _CHECK + _TIME.size
_SLATES = 1_000


class SlateKeys:
    """Keys of the items of slates; those of the slates asked for last are remembered, since most are asked for again."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, NDArray[np.uint64]] = OrderedDict()

    def of(self, slate: FinishedSlate) -> NDArray[np.uint64]:
        """Keys of a slate's items, shape (n,)."""
        found = self._known.get(slate.etag)
        if found is None:
            items = orjson.loads(b"{" + slate.tail)["items"]
            found = self._known[slate.etag] = item_keys([item["item_id"] for item in items])
            if len(self._known) > _SLATES:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(slate.etag)
        return found


def write(shown: NDArray[np.uint64], page: NDArray[np.uint64], user_id: str, now: float) -> str:
    """Write the cursor behind a page; empty behind an empty one, and where more than `MOST_SHOWN` items would be shown.

    Args:
        shown: keys of the items of the pages before. page: of this one.
        user_id: empty for nobody. now: unix time in seconds.
    """
    if not page.size or shown.size + page.size > MOST_SHOWN:
        return ""
    keys = np.concatenate([shown, page]) if shown.size else page
    payload = _TIME.pack(int(now)) + keys.astype("<u8", copy=False).tobytes()
    return base64.urlsafe_b64encode(_check(user_id, payload) + payload).rstrip(b"=").decode()


def read(cursor: str, user_id: str, now: float) -> NDArray[np.uint64]:
    """Keys of the items shown before, sorted, shape (n,).

    Raises: HttpProblem: the cursor is not whole or not of this user, or it is older than `LIFE_S`.
    """
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except (binascii.Error, ValueError) as exc:
        raise problems.cursor_refused() from exc
    payload = raw[_CHECK:]
    if len(raw) <= _HEAD or (len(raw) - _HEAD) % 8 or raw[:_CHECK] != _check(user_id, payload):
        raise problems.cursor_refused()
    age_s = now - _TIME.unpack_from(payload)[0]
    if age_s > LIFE_S:
        raise problems.cursor_expired(age_s, LIFE_S)
    return np.unique(np.frombuffer(payload, "<u8", offset=_TIME.size))


def _check(user_id: str, payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=_CHECK, key=hashlib.blake2b(user_id.encode(), digest_size=32).digest()).digest()
