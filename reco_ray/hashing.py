"""Stable hashes: the same in every process, on every machine, in every release.

Python's `hash()` differs per process; nothing that is stored, split or served may depend on it. All of these are blake2b
of UTF-8 text with a salt. External ids become 64-bit keys where arrays of ids must be compact (`item_keys`).
"""

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["USER_BUCKETS", "digest", "hash64", "hash64_many", "item_keys", "unit_interval", "user_bucket", "user_digest"]

USER_BUCKETS = 64


def hash64(text: str, salt: str = "") -> int:
    """Hash ``text`` to an unsigned 64-bit integer."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, key=salt.encode()).digest(), "little")


def hash64_many(texts: Iterable[str], salt: str = "") -> NDArray[np.uint64]:
    """Hash each text, shape (n,)."""
    key, blake = salt.encode(), hashlib.blake2b
    raw = b"".join(blake(t.encode(), digest_size=8, key=key).digest() for t in texts)
    return np.frombuffer(raw, dtype="<u8").astype(np.uint64, copy=False)


def item_keys(item_ids: Iterable[str]) -> NDArray[np.uint64]:
    """Turn external item ids into the 64-bit keys that packed rows carry, shape (n,).

    A release refuses to be built when two of its items share a key, so that a key stands for one item.
    """
    return hash64_many(item_ids, "item")


def user_bucket(user_id: str) -> int:
    """Return the lake bucket of a user, in [0, 64)."""
    return hash64(user_id, "user_bucket") % USER_BUCKETS


def unit_interval(text: str, salt: str) -> float:
    """Return a number in [0, 1) that depends only on ``text`` and ``salt``."""
    return hash64(text, salt) / 2**64


def digest(*parts: str | bytes, length: int = 12) -> str:
    """Hash parts to ``length`` hexadecimal characters; parts cannot run into each other (each is length-prefixed)."""
    h = hashlib.blake2b(digest_size=32)
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        h.update(len(raw).to_bytes(8, "little"))
        h.update(raw)
    return h.hexdigest()[:length]


def user_digest(user_id: str) -> str:
    """Name a user where no external id may stand: 32 hexadecimal characters."""
    return digest(user_id, length=32)
