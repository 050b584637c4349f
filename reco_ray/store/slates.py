"""Slates in the online store: finished answers shared by all gateway replicas, and the purges that reach their caches.

A user's answers are fields of one hash, read together with the user's row and interests in one round trip. After a purge the
store refuses that user's (or release's) slates for some seconds, so that an answer begun before it cannot come back behind it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import redis
import redis.asyncio.client
from numpy.typing import NDArray

from reco_ray.config import ServedConfig
from reco_ray.errors import SchemaError
from reco_ray.hashing import user_digest
from reco_ray.store.away import answering
from reco_ray.store.online import OnlineStore
from reco_ray.store.packing import (
    NO_INTERESTS,
    FinishedSlate,
    Interests,
    pack_slate,
    unpack_interests,
    unpack_slate,
    unpack_user,
)
from reco_ray.store.precomputed import Precomputed, pack_precomputed, unpack_precomputed
from reco_ray.store.shown import NOT_SERVED, ServedItems
from reco_ray.types import EMPTY_USER, UserRow

__all__ = ["Purges", "SlateStore"]

T = TypeVar("T")

_MAX_FIELDS = 32
_MAX_PURGES = 1000
_REFUSAL_S = 10
"""Longer than any request lives."""

# EVAL with the text, not its hash: the server keeps what it compiled by text, and one that starts anew needs no second try.

# KEYS: the user's hash, two refusals. ARGV: field, value, life in s, most fields.
_WRITE = """if redis.call('EXISTS',KEYS[2],KEYS[3])>0 then return 0 end
if redis.call('HLEN',KEYS[1])>=tonumber(ARGV[4]) and redis.call('HEXISTS',KEYS[1],ARGV[1])==0 then redis.call('DEL',KEYS[1]) end
redis.call('HSET',KEYS[1],ARGV[1],ARGV[2])
redis.call('EXPIRE',KEYS[1],ARGV[3])
return 1"""

# KEYS: the slate, two refusals. ARGV: value, unix time in s at which it ends. A value starts with its format and its age.
_WRITE_PRECOMPUTED = """if redis.call('EXISTS',KEYS[2],KEYS[3])>0 then return 0 end
local found=redis.call('GETRANGE',KEYS[1],0,9)
if string.len(found)==10 and select(2,struct.unpack('<Hd',found))>select(2,struct.unpack('<Hd',ARGV[1])) then return 0 end
redis.call('SET',KEYS[1],ARGV[1],'EXAT',ARGV[2])
return 1"""


@dataclass(frozen=True, slots=True)
class Purges:
    """What was purged since the last look.

    Attributes:
        last_id: to ask with next time.
        users: digests. releases: ids.
        everything: purges were missed; whoever keeps slates must drop them all.
    """

    last_id: str
    users: tuple[str, ...] = ()
    releases: tuple[str, ...] = ()
    everything: bool = False


class SlateStore:
    """The slates of an online store, as gateways (async methods) and jobs (blocking methods) use them.

    Args:
        life_s: of a user's finished answers after the last one written.
        precomputed_s: age at which a precomputed slate goes.
        served: for how long items served to a user are remembered.
    """

    def __init__(
        self,
        store: OnlineStore,
        *,
        life_s: float = 300.0,
        precomputed_s: float = 7 * 86_400.0,
        served: ServedConfig | None = None,
    ) -> None:
        self._served = ServedItems(store, served or ServedConfig())
        self._store, self._life_s, self._precomputed_s = store, max(1, round(life_s)), precomputed_s

    async def users_and_slates(
        self, user_ids: Sequence[str], views: Sequence[str], fields: Sequence[str]
    ) -> list[tuple[UserRow | SchemaError, FinishedSlate | None, Interests, NDArray[np.uint64]]]:
        """Read users' rows, finished answers, interests and keys of items served lately in one round trip, in order.

        Interests count until the user has done something: those of a user with a history are `NO_INTERESTS`.

        Args:
            views: of the row of each. fields: name the answer among the user's, `serve.cache_key.SlateKey.field`; "" for none.
        Returns: a row that cannot be read is the error that says so: it is one user's, not that of all who were asked for.
        Raises: redis.RedisError: the store is away or slower than its timeout.
        """
        store = self._store
        pipe = store.calls.pipeline(transaction=False)
        for user_id, view, field in zip(user_ids, views, fields, strict=True):
            user = user_digest(user_id)
            pipe.get(store.key("user", view, user))
            if field:
                pipe.hget(store.key("slates", user), field)
            if user_id:
                pipe.get(store.key("profile", user))
            if user_id and self._served:
                self._served.read_within(pipe, user)
        found = iter(await pipe.execute())
        answers = []
        for user_id, field in zip(user_ids, fields, strict=True):
            row, slate = _row(next(found)), next(found) if field else None
            interests = _interests(row, next(found) if user_id else None)
            served = self._served.keys_of(next(found)) if user_id and self._served else NOT_SERVED
            answers.append((row, _readable(unpack_slate, slate), interests, served))
        return answers

    async def precomputed(self, user_id: str) -> Precomputed | None:
        """Read a user's precomputed slate; None when there is none.

        Raises: redis.RedisError: the store is away or slower than its timeout.
        """
        return _readable(unpack_precomputed, await self._store.calls.get(self._store.key("precomputed", user_digest(user_id))))

    async def write(
        self,
        slates: Sequence[tuple[str, str, FinishedSlate]] = (),
        precomputed: Sequence[tuple[str, Precomputed]] = (),
        served: Sequence[tuple[str, NDArray[np.uint64]]] = (),
    ) -> int:
        """Write finished answers (user digest, field, slate), precomputed slates (user digest, slate) and keys of items that
        went out (user digest, keys) in one round trip.

        Returns how many the store took; it refuses those of what was just purged, and precomputed ones older than its own.
        """
        pipe = self._store.calls.pipeline(transaction=False)
        for user, field, slate in slates:
            refusals = self._refusals(user, slate.release)
            pipe.eval(
                _WRITE, 3, self._store.key("slates", user), *refusals, field, pack_slate(slate), self._life_s, _MAX_FIELDS
            )
        for user, each in precomputed:
            pipe.eval(_WRITE_PRECOMPUTED, *self._precomputed_call(user, each))
        for user, keys in served:
            self._served.write_within(pipe, user, keys, self._refusal(user))
        return sum(await pipe.execute())

    def write_precomputed(self, slates: Iterable[tuple[str, Precomputed]]) -> int:
        """Write precomputed slates of user ids, 1000 at a time; returns how many the store took."""
        taken, rest = 0, iter(slates)
        while batch := list(islice(rest, 1000)):
            pipe = self._store.blocking_calls.pipeline(transaction=False)
            for user_id, each in batch:
                pipe.eval(_WRITE_PRECOMPUTED, *self._precomputed_call(user_digest(user_id), each))
            taken += sum(pipe.execute())
        return taken

    async def purges_since(self, last_id: str = "") -> Purges:
        """Read what was purged after ``last_id``; with an empty one only where the list ends now."""
        calls, key = self._store.calls, self._store.key("purges")
        if not last_id:
            newest = await calls.xrevrange(key, count=1)
            return Purges(_id(newest[0]) if newest else "0-0")
        pipe = calls.pipeline(transaction=False)
        pipe.xrange(key, count=1)
        pipe.xrange(key, min=f"({last_id}", count=2 * _MAX_PURGES)
        oldest, new = await pipe.execute()
        if not oldest and last_id != "0-0":
            return Purges("0-0", everything=True)  # the store has lost the list
        full = len(new) >= _MAX_PURGES
        if oldest and _position(_id(oldest[0])) > _position(last_id) and (last_id != "0-0" or full):
            return Purges(_id(new[-1]) if new else last_id, everything=True)  # the list was cut behind us
        users, releases = [], []
        for _, entry in new:
            users += [entry[b"user"].decode()] if b"user" in entry else []
            releases += [entry[b"release"].decode()] if b"release" in entry else []
        return Purges(_id(new[-1]) if new else last_id, tuple(users), tuple(releases))

    def purge_user(self, user_id: str) -> int:
        """Remove a user's slates here, and within about a second from every replica; returns how many keys there were.

        Raises: NotReadyError: the store is away.
        """
        pipe = self._store.blocking_calls.pipeline()
        self.purge_within(pipe, user_digest(user_id))
        with answering():
            return int(pipe.execute()[1])

    def purge_within(self, pipe: redis.client.Pipeline | redis.asyncio.client.Pipeline, user: str) -> None:
        """Add what `purge_user` does, for a user's digest, to a transaction."""
        pipe.set(self._refusal(user), 1, ex=_REFUSAL_S)
        pipe.delete(self._store.key("slates", user), self._store.key("precomputed", user))
        pipe.xadd(self._store.key("purges"), {"user": user}, maxlen=_MAX_PURGES)

    def purge_release(self, release_id: str) -> int:
        """Remove a release's slates here, and within about a second from every replica; returns how many there were.

        Walks over the keys of all users, 1000 at a time: for people and jobs, not for requests.

        Raises: NotReadyError: the store is away; what was ordered so far holds.
        """
        with answering():
            return self._purge_release(release_id)

    def _purge_release(self, release_id: str) -> int:
        calls = self._store.blocking_calls
        pipe = calls.pipeline()
        pipe.set(self._refusal(release_id), 1, ex=_REFUSAL_S)
        pipe.xadd(self._store.key("purges"), {"release": release_id}, maxlen=_MAX_PURGES)
        pipe.execute()
        removed, prefix = 0, f"{release_id}:".encode()
        keys = calls.scan_iter(self._store.key("slates", "*"), count=1000)
        while batch := list(islice(keys, 1000)):
            calls.set(self._refusal(release_id), 1, ex=_REFUSAL_S)  # as long as the walk lasts
            pipe = calls.pipeline(transaction=False)
            for key in batch:
                pipe.hkeys(key)
            for key, fields in zip(batch, pipe.execute(), strict=True):
                if doomed := [field for field in fields if field.startswith(prefix)]:
                    pipe.hdel(key, *doomed)
            removed += sum(pipe.execute())
        keys = calls.scan_iter(self._store.key("precomputed", "*"), count=1000)
        while batch := list(islice(keys, 1000)):
            calls.set(self._refusal(release_id), 1, ex=_REFUSAL_S)
            made = [_readable(unpack_precomputed, raw) for raw in calls.mget(batch)]
            of_release = [key for key, each in zip(batch, made, strict=True) if each and each.release == release_id]
            removed += int(calls.delete(*of_release)) if of_release else 0
        return removed

    def _precomputed_call(self, user: str, each: Precomputed) -> tuple[int, str, str, str, bytes, int]:
        refused_user, refused_release = self._refusals(user, each.release)
        ends = round(each.made + self._precomputed_s)
        return 3, self._store.key("precomputed", user), refused_user, refused_release, pack_precomputed(each), ends

    def _refusals(self, user: str, release: str) -> tuple[str, str]:
        return self._refusal(user), self._refusal(release)

    def _refusal(self, what: str) -> str:
        return self._store.key("purged", what)


def _row(raw: bytes | None) -> UserRow | SchemaError:
    try:
        return EMPTY_USER if raw is None else unpack_user(raw)
    except SchemaError as exc:
        return exc


def _interests(row: UserRow | SchemaError, raw: object) -> Interests:
    if raw is None or isinstance(row, SchemaError) or row.history.size:
        return NO_INTERESTS
    return _readable(unpack_interests, raw) or NO_INTERESTS


def _readable(unpack: Callable[[bytes], T], raw: object) -> T | None:
    """A value of another format, as while gateways of two versions run, is none."""
    try:
        return unpack(raw) if isinstance(raw, bytes) else None
    except SchemaError:
        return None


def _id(entry: Any) -> str:
    """The id of a stream's entry; redis-py types it as either of two protocols' answers."""
    return str(entry[0].decode())


def _position(entry_id: str) -> tuple[int, int]:
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number)
