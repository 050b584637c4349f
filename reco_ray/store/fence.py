"""The fence: users whose data are being erased or were erased lately, as gateways, sinks and imports ask for it.

One hash, ``{namespace}:fence``: user digest -> ``{"receipt_id", "erased_us", "done"}``, and a version that grows with changes.
Who reads under a name says with each read which version it has worked by until then, so that an erasure can wait until nobody
works by an older one. `store.erasures` writes it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from reco_ray.store.away import answering
from reco_ray.store.online import OnlineStore

__all__ = ["Fence", "FenceEntry", "FenceReader", "FenceStore"]

# KEYS: fence, version, readers. ARGV: name of the reader, or "", and the version it has. An unchanged fence is not sent.
_READ = """local version=redis.call('GET',KEYS[2]) or '0'
if ARGV[1]~='' then
redis.call('HSET',KEYS[3],ARGV[1],ARGV[2]..' '..redis.call('TIME')[1])
redis.call('EXPIRE',KEYS[3],86400)
end
if version==ARGV[2] then return {version} end
return {version,redis.call('HGETALL',KEYS[1])}"""


@dataclass(frozen=True, slots=True)
class FenceEntry:
    """One user's erasure. ``erased_us``: microseconds since 1970, when it was asked for, and once done when it ended."""

    receipt_id: str
    erased_us: int
    done: bool

    @classmethod
    def parse(cls, raw: bytes | str) -> "FenceEntry":
        """Read what `store.erasures` wrote."""
        found = orjson.loads(raw)
        return cls(found["receipt_id"], found["erased_us"], found["done"])


@dataclass(frozen=True, slots=True)
class Fence:
    """The fence as last read; ``entries`` by user digest."""

    version: int = 0
    entries: Mapping[str, FenceEntry] = field(default_factory=dict)

    def drops(self, user: str, ts_us: int, received_us: int) -> bool:
        """Whether a record of a user may not be kept: the erasure runs, or the record is from before its end.

        Args:
            user: digest. ts_us, received_us: event time, and when we got it.
        """
        entry = self.entries.get(user)
        return entry is not None and (not entry.done or ts_us <= entry.erased_us or received_us <= entry.erased_us)

    def running(self, user: str) -> bool:
        """Whether a user (digest) is being erased just now: requests of theirs are those of nobody."""
        entry = self.entries.get(user)
        return entry is not None and not entry.done


@dataclass(frozen=True, slots=True)
class FenceReader:
    """Who reads the fence. ``version``: that it has worked by since its last read. ``age_s``: since that read."""

    name: str
    version: int
    age_s: float


class FenceStore:
    """Reads the fence of an online store; while nothing has changed a read returns the same object.

    Args:
        reader: unique name of who works by it, ``gateway:<replica>`` or ``sink:<topic>:<partition>``; empty for onlookers.
    """

    def __init__(self, store: OnlineStore, reader: str = "") -> None:
        self._store, self._reader = store, reader
        self._fence = Fence()
        self._keys = (store.key("fence"), store.key("fence", "version"), store.key("fence", "readers"))

    async def poll(self) -> Fence:
        """Read it, on an event loop.

        Raises: redis.RedisError: the store is away or slower than the timeout.
        """
        return self._take(await self._store.calls.eval(_READ, 3, *self._keys, self._reader, str(self._fence.version)))

    def read(self) -> Fence:
        """Read it.

        Raises: NotReadyError: the store is away.
        """
        with answering():
            return self._take(self._store.blocking_calls.eval(_READ, 3, *self._keys, self._reader, str(self._fence.version)))

    def readers(self) -> list[FenceReader]:
        """Who has read it under a name within the last day.

        Raises: NotReadyError: the store is away.
        """
        calls = self._store.blocking_calls
        with answering():
            now, found = int(calls.time()[0]), calls.hgetall(self._keys[2])
        readers = []
        for name, value in found.items():
            version, read_s = str(value, "ascii").split(" ") if isinstance(value, bytes) else value.split(" ")
            known_as = name.decode() if isinstance(name, bytes) else name
            readers.append(FenceReader(known_as, int(version), max(0.0, now - int(read_s))))
        return sorted([each for each in readers if each.age_s < 86_400], key=lambda each: each.name)

    def _take(self, answer: Any) -> Fence:
        if len(answer) > 1:
            raw = answer[1]
            pairs = raw.items() if isinstance(raw, dict) else zip(raw[::2], raw[1::2], strict=True)
            self._fence = Fence(int(answer[0]), dict(_entries(pairs)))
        return self._fence


def _entries(pairs: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[str, FenceEntry]]:
    for user, raw in pairs:
        yield user.decode(), FenceEntry.parse(raw)
