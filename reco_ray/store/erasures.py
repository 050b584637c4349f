"""Erasures in the online store: who wants to be erased, how far it is, and the fence before it.

``{namespace}:erasures`` holds a receipt for each, as JSON. ``{namespace}:erasures:pending`` holds the id of the user until the
erasure has no more need of it: the one place of the store that knows one.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from reco_ray.hashing import user_digest
from reco_ray.store.away import answering
from reco_ray.store.leases import leased
from reco_ray.store.online import OnlineStore

__all__ = ["ErasureStore"]

# A fence's version is the time of its change in microseconds, so that one that starts anew is another one too.
_BUMP = """local now=redis.call('TIME')
local version=now[1]*1000000+now[2]
local before=tonumber(redis.call('GET',KEYS[2]) or '0')
if before>=version then version=before+1 end
redis.call('SET',KEYS[2],string.format('%.0f',version))
"""

# KEYS: fence, version, receipts, pending. ARGV: user digest, receipt id, entry, receipt, user id.
_REQUEST = (
    """local found=redis.call('HGET',KEYS[1],ARGV[1])
if found then
local entry=cjson.decode(found)
if not entry.done then return entry.receipt_id end
end
"""
    + _BUMP
    + """redis.call('HSET',KEYS[1],ARGV[1],ARGV[3])
redis.call('HSET',KEYS[3],ARGV[2],ARGV[4])
redis.call('HSET',KEYS[4],ARGV[2],ARGV[5])
return ARGV[2]"""
)

# KEYS: as above. ARGV: user digest, receipt id, entry, receipt.
_FINISH = (
    _BUMP
    + """redis.call('HSET',KEYS[1],ARGV[1],ARGV[3])
redis.call('HSET',KEYS[3],ARGV[2],ARGV[4])
redis.call('HDEL',KEYS[4],ARGV[2])
return 1"""
)

# KEYS: fence, version, receipts. ARGV: microseconds; what ended before goes.
_PRUNE = (
    """local doomed={}
local all=redis.call('HGETALL',KEYS[1])
for i=1,#all,2 do
local entry=cjson.decode(all[i+1])
if entry.done and entry.erased_us<tonumber(ARGV[1]) then table.insert(doomed,{all[i],entry.receipt_id}) end
end
if #doomed==0 then return 0 end
"""
    + _BUMP
    + """for _,each in ipairs(doomed) do
redis.call('HDEL',KEYS[1],each[1])
redis.call('HDEL',KEYS[3],each[2])
end
return #doomed"""
)


class ErasureStore:
    """The erasures of an online store. Every method raises NotReadyError when the store is away."""

    def __init__(self, store: OnlineStore) -> None:
        self._store = store
        receipts = store.key("erasures")
        self._keys = (store.key("fence"), store.key("fence", "version"), receipts, store.key("erasures", "pending"))

    def request(self, user_id: str, receipt_id: str, receipt: bytes, now_us: int) -> str:
        """Put up the fence and note the wish; returns its receipt's id: an erasure that runs is joined."""
        user = user_digest(user_id)
        return _text(self._eval(_REQUEST, 4, user, receipt_id, _entry(receipt_id, now_us, False), receipt, user_id))

    def finish(self, user: str, receipt_id: str, receipt: bytes, now_us: int) -> None:
        """Note the end: from now on only what is from before ``now_us`` is refused. ``user``: digest."""
        self._eval(_FINISH, 4, user, receipt_id, _entry(receipt_id, now_us, True), receipt)

    def pending(self) -> dict[str, str]:
        """Receipt id -> user id, or "" where it was forgotten, of what has not ended."""
        with answering():
            found = self._store.blocking_calls.hgetall(self._keys[3])
        return {_text(receipt_id): _text(user_id) for receipt_id, user_id in found.items()}

    def forget(self, receipt_id: str) -> None:
        """Keep the user's id no longer."""
        with answering():
            self._store.blocking_calls.hset(self._keys[3], receipt_id, "")

    def load(self, receipt_id: str) -> bytes | str | None:
        """Read a receipt; None when there is none."""
        with answering():
            return self._store.blocking_calls.hget(self._keys[2], receipt_id)

    def save(self, receipt_id: str, receipt: bytes) -> None:
        """Write a receipt."""
        with answering():
            self._store.blocking_calls.hset(self._keys[2], receipt_id, receipt)

    def all(self) -> list[bytes | str]:
        """Read all receipts."""
        with answering():
            return list(self._store.blocking_calls.hgetall(self._keys[2]).values())

    def prune(self, before_us: int) -> int:
        """Take away fence and receipt of what ended before a time; returns how many."""
        return int(self._eval(_PRUNE, 3, str(before_us)))

    def purge_keys(self, users: Iterable[str]) -> dict[tuple[str, str], int]:
        """Remove all keys that end in a user's digest, and overrides; returns how many by user and family (as ``user:<view>``).

        Walks over all keys, 1000 at a time. Refusals of `SlateStore.purge_user` stay: they end by themselves.
        """
        wanted = set(users)
        removed = {(user, "overrides"): 1 for user in self._store.drop_overrides(wanted)}
        prefix = self._store.key("")
        calls = self._store.blocking_calls
        with answering():
            for key in calls.scan_iter(f"{_literal(prefix)}*", count=1000):
                family, _, user = key.decode(errors="replace").removeprefix(prefix).rpartition(":")
                if user in wanted and family != "purged":
                    removed[user, family] = removed.get((user, family), 0) + int(calls.unlink(key))
        return removed

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the store's lock on erasures; a process that dies holds it for a minute more.

        Raises: NotReadyError: another process holds it.
        """
        with leased(self._store, "erasures"):
            yield

    def _eval(self, script: str, keys: int, *args: str | bytes) -> Any:
        with answering():
            return self._store.blocking_calls.eval(script, keys, *self._keys[:keys], *args)


def _text(raw: bytes | str) -> str:
    return raw.decode() if isinstance(raw, bytes) else raw


def _entry(receipt_id: str, erased_us: int, done: bool) -> bytes:
    return orjson.dumps({"receipt_id": receipt_id, "erased_us": erased_us, "done": done})


def _literal(text: str) -> str:
    return "".join(f"\\{each}" if each in "*?[]\\^" else each for each in text)
