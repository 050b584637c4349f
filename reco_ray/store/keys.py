"""API keys of the gateway: one hash, ``{namespace}:api_keys``, with a JSON record for each key id.

A key is ``reco_<key_id>_<secret>`` and is shown once, when it is made. The store holds the SHA-256 of its secret: the slow,
salted hashes that passwords need guard against guessing, and 256 random bits cannot be guessed. Times are seconds since 1970.
"""

import json
import logging
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from hashlib import sha256

import redis
import redis.asyncio

from reco_ray.errors import ConfigError
from reco_ray.store.away import answering

__all__ = ["KeyRecord", "KeyStore", "Scope", "new_key", "rotated"]

log = logging.getLogger(__name__)

_Raw = Mapping[bytes | str, bytes | str]  # key id -> JSON, as the client types it
_MAX_NAME = 100
_DIGEST = re.compile("[0-9a-f]{64}")


class Scope(StrEnum):
    """What a key is for. No scope holds another one: a key for everything names all of them."""

    recommend = "recommend"
    events = "events"
    admin = "admin"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is known of a key; enough to check it, not to use it.

    Attributes:
        digest: SHA-256 of the secret, hexadecimal; never shown.
        expires_ts: 0 means never.
        rate, burst: requests per second, and at once, for each gateway replica; 0 means the gateway's default.
        old_digest, old_until_ts: the secret before a rotation, and when it stops working.
        revoked_ts: 0 means not revoked.

    Raises: ConfigError: no name, no scope, a limit out of range, or a digest that is none.
    """

    key_id: str
    name: str
    scopes: tuple[Scope, ...]
    digest: str = field(repr=False)
    created_ts: float
    expires_ts: float = 0.0
    rate: float = 0.0
    burst: int = 0
    old_digest: str = field(default="", repr=False)
    old_until_ts: float = 0.0
    revoked_ts: float = 0.0

    def __post_init__(self) -> None:
        if not self.name.isprintable() or not 1 <= len(self.name) <= _MAX_NAME:
            raise ConfigError(f"name: found {self.name!r}, expected 1 to {_MAX_NAME} printable characters; say whose it is")
        if not self.scopes:
            raise ConfigError(f"scopes: found none, expected some of {[str(s) for s in Scope]}; give --scope")
        if not _DIGEST.fullmatch(self.digest) or (self.old_digest and not _DIGEST.fullmatch(self.old_digest)):
            raise ConfigError(f"key {self.key_id}: found no SHA-256 as digest, expected 64 hexadecimal digits; rotate it")
        if (self.rate and not 1e-3 <= self.rate <= 1e6) or not 0 <= self.burst <= 1_000_000:
            raise ConfigError(f"rate, burst: found {self.rate}, {self.burst}, expected 0.001 to 1000000, or 0 for the default")

    def state(self, now: float) -> str:
        """Say ``active``, ``rotating`` (two secrets work), ``expired`` or ``revoked``."""
        if self.revoked_ts:
            return "revoked"
        if self.expires_ts and now >= self.expires_ts:
            return "expired"
        return "rotating" if now < self.old_until_ts else "active"


def new_key(
    name: str, scopes: Iterable[Scope], now: float, *, expires_ts: float = 0.0, rate: float = 0.0, burst: int = 0
) -> tuple[KeyRecord, str]:
    """Make a key; returns its record and the key itself, which is nowhere else.

    Raises: ConfigError: as `KeyRecord`.
    """
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    wanted = tuple(scope for scope in Scope if scope in set(scopes))
    record = KeyRecord(key_id, name, wanted, _digest(secret), now, expires_ts, rate, burst)
    return record, f"reco_{key_id}_{secret}"


def rotated(record: KeyRecord, now: float, grace_s: float) -> tuple[KeyRecord, str]:
    """Give a key a new secret; the one before works for ``grace_s`` more, any older one no longer.

    Raises: ConfigError: the key is revoked or expired, so that a new secret would not work.
    """
    if (state := record.state(now)) in ("revoked", "expired"):
        raise ConfigError(f"key {record.key_id}: found it {state}, expected a key that works; create another")
    secret = secrets.token_urlsafe(32)
    old_digest, until = (record.digest, now + grace_s) if grace_s > 0 else ("", 0.0)
    changed = replace(record, digest=_digest(secret), old_digest=old_digest, old_until_ts=until)
    return changed, f"reco_{record.key_id}_{secret}"


class KeyStore:
    """The keys as the command line (blocking) and gateways (`poll`) use them; `OnlineStore.keys` makes it.

    The blocking methods raise NotReadyError when the store is away, and ConfigError for an id that it does not hold.
    """

    def __init__(self, blocking: redis.Redis, async_: redis.asyncio.Redis, key: str) -> None:
        self._blocking, self._async, self._key = blocking, async_, key
        self._raw: _Raw | None = None
        self._records: tuple[KeyRecord, ...] = ()

    async def poll(self) -> tuple[KeyRecord, ...]:
        """Read all keys in one round trip; the same tuple as before while nothing has changed.

        Raises: redis.RedisError: the store is away or slower than the timeout.
        """
        raw = await self._async.hgetall(self._key)
        if raw != self._raw:
            self._raw, self._records = raw, tuple(_readable(raw))
        return self._records

    def all(self) -> list[KeyRecord]:
        """Read all keys, oldest first."""
        with answering():
            return sorted(_readable(self._blocking.hgetall(self._key)), key=lambda record: (record.created_ts, record.key_id))

    def add(self, record: KeyRecord) -> None:
        """Store a new key; one with the same id is never replaced."""
        with answering():
            if not self._blocking.hsetnx(self._key, record.key_id, _dump(record)):
                raise ConfigError(f"key {record.key_id}: found a key with this id, expected a new id; try again")

    def rotate(self, key_id: str, now: float, grace_s: float) -> tuple[KeyRecord, str]:
        """Replace a key's secret as `rotated` does; returns its record and the key."""
        made: list[str] = []

        def change(record: KeyRecord) -> KeyRecord:
            record, key = rotated(record, now, grace_s)
            made.append(key)
            return record

        return self._change(key_id, change), made[-1]

    def revoke(self, key_id: str, now: float) -> KeyRecord:
        """End a key at once and for good; revoking it again changes nothing."""
        return self._change(key_id, lambda record: record if record.revoked_ts else replace(record, revoked_ts=now))

    def _change(self, key_id: str, change: Callable[[KeyRecord], KeyRecord]) -> KeyRecord:
        """Read, change and write one record; nothing that somebody else writes meanwhile is lost."""

        changed: list[KeyRecord] = []

        def within(pipe: redis.client.Pipeline) -> None:
            raw = pipe.hget(self._key, key_id)  # immediate while the hash is watched
            if not isinstance(raw, bytes) or (record := _load(raw)) is None:
                raise ConfigError(f"key {key_id}: found no such id, expected one that `reco keys list` shows")
            changed.append(change(record))  # once more each time that somebody else wrote meanwhile
            pipe.multi()
            pipe.hset(self._key, key_id, _dump(changed[-1]))

        with answering():
            self._blocking.transaction(within, self._key)
        return changed[-1]


def _digest(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


def _dump(record: KeyRecord) -> str:
    return json.dumps(asdict(record))


def _load(raw: bytes | str) -> KeyRecord | None:
    try:
        found = json.loads(raw)
        return KeyRecord(**{**found, "scopes": tuple(Scope(each) for each in found["scopes"])})
    except (ValueError, TypeError, KeyError, AttributeError, ConfigError):
        return None


def _readable(raw: _Raw) -> Iterator[KeyRecord]:
    """Yield what can be read. A damaged record is a key that does not work, and must not keep others from being revoked."""
    for key_id, value in raw.items():
        if (record := _load(value)) is None:
            log.error("API key %r: found a record that cannot be read, so that it does not work; create another", key_id)
        else:
            yield record
