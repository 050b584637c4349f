"""The slate cache of a gateway replica, level 1: finished answers, made once however many ask.

fresh (``ttl_s``, with jitter) -> stale (answered at once while ONE task makes it anew) -> a miss, kept only to stand in where
nothing can be made (`SlateCache.fallback`). Level 2 is the online store (`store.SlateStore`), reached by who makes the answer.

cachetools was looked at: its caches bound entries or bytes, not both, and know neither stale entries nor purges by user, so
that nothing but an OrderedDict would be left of it.
"""

import asyncio
import contextvars
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

from reco_ray.config import CacheConfig
from reco_ray.errors import NotReadyError
from reco_ray.serve.caching.cache_key import SlateKey
from reco_ray.serve.caching.finished import fit, mark
from reco_ray.serve.caching.withdrawn import Withdrawn
from reco_ray.store import FinishedSlate

__all__ = ["KEPT_MARKS", "CacheStats", "Found", "SlateCache"]

log = logging.getLogger(__name__)

KEPT_MARKS = frozenset(("unknown_user", "no_consent", "profiling_off", "short_slate", "features_late", "holdout"))
"""Marks of ``degraded`` with which an answer is kept, beside those of flags: asked again, it would be the same."""

_OVERHEAD_BYTES = 1_200  # of an entry beside its tail: key, digests, record and places in dictionaries; 1,050 measured
_MOST_LOOKED_AT = 64
_HASTY = "!"  # after a variant: the flight of those in a hurry

Name = tuple[str, str, str, str]
Make = Callable[[], Awaitable[FinishedSlate]]


@dataclass(slots=True)
class CacheStats:
    """Counts since the start. ``misses`` started a computation, ``joined`` waited for one that ran already."""

    fresh: int = 0
    stale: int = 0
    fallback: int = 0
    misses: int = 0
    joined: int = 0
    evicted: int = 0
    purged: int = 0
    refresh_failed: int = 0


class Found(NamedTuple):
    """An answer and how it came about."""

    slate: FinishedSlate
    how: Literal["fresh", "stale", "made", "joined"]


class _Record(NamedTuple):
    slate: FinishedSlate
    fresh_until: float
    stale_until: float
    end: float
    scope: str
    k: int
    explain: bool
    size: int


class _Flight:
    """A computation under way. ``keep`` turns false when its user or release is purged meanwhile."""

    __slots__ = ("keep", "task")

    def __init__(self) -> None:
        self.keep = True
        self.task: asyncio.Task[FinishedSlate]


class SlateCache:
    """Finished answers of one process; used from one event loop, so it needs no locks.

    Args:
        withdrawn: what no answer may hold; one that does counts as none, and stands in only without it; one that is outdated
            counts as none.
        kept: told of each answer that was made and kept; level 2 is written from there, behind the answer. It must not raise.
        clock: unix time in seconds.
    """

    def __init__(
        self,
        config: CacheConfig,
        kept: Callable[[SlateKey, FinishedSlate], None] | None = None,
        clock: Callable[[], float] = time.time,
        withdrawn: Withdrawn | None = None,
    ) -> None:
        self._config, self._kept, self._clock = config, kept, clock
        self._withdrawn = Withdrawn() if withdrawn is None else withdrawn
        self._records: OrderedDict[Name, _Record] = OrderedDict()
        self._by_user: dict[str, dict[Name, None]] = {}
        self._flights: dict[Name, _Flight] = {}
        self._tasks: set[asyncio.Task[FinishedSlate]] = set()  # the loop itself holds tasks only weakly
        self._refreshing = 0
        self._bytes = 0
        self.stats = CacheStats()

    def __len__(self) -> int:
        return len(self._records)

    @property
    def bytes(self) -> int:
        """Estimate of the memory held."""
        return self._bytes

    def fresh(self, key: SlateKey, made: float) -> bool:
        """Whether an answer of this age needs no computation; the same on every replica, so it holds for level 2 too."""
        return self._clock() < made + self._ttl_s(key)

    async def answer(self, key: SlateKey, make: Make, timeout_s: float, *, hasty: bool = False) -> Found:
        """Answer from the cache, or make the answer, once for all who ask meanwhile.

        Args:
            make: makes the answer. It is shared, and it goes on when the caller leaves. An answer with a mark beyond
                `KEPT_MARKS` goes to all who wait and is not kept.
            timeout_s: of this caller alone.
            hasty: whether ``make`` has much less time than is usual; what comes of it is shared with others in a hurry only.
        Raises:
            TimeoutError: the answer is not there in time; it may come yet, for those who ask next.
            Exception: whatever ``make`` raised, to all who wait; it is not kept.
        """
        record = self._records.get(key.name)
        now = self._clock()
        if record is not None and (self._withdrawn.in_slate(record.slate) or self._withdrawn.outdated(record.slate)):
            self._drop(key.name)
            record = None
        if record is not None and now < record.stale_until:
            self._records.move_to_end(key.name)
            if now < record.fresh_until:
                self.stats.fresh += 1
                return Found(record.slate, "fresh")
            self.stats.stale += 1
            self._refresh(key, make)
            return Found(record.slate, "stale")
        name = (key.user, f"{key.variant}{_HASTY}", key.release, key.rules) if hasty else key.name
        flight = self._flights.get(name)
        how: Literal["made", "joined"] = "joined"
        if flight is None or flight.task.done():
            how = "made"
            flight = self._start(key, make, name)
        self.stats.misses += how == "made"
        self.stats.joined += how == "joined"
        await asyncio.wait((flight.task,), timeout=max(timeout_s, 0.0))  # cancels nothing: neither does who leaves
        if not flight.task.done():
            raise TimeoutError(f"the slate was not made within {timeout_s:.3f} s")
        if flight.task.cancelled():
            raise NotReadyError("the slate's computation was cancelled; the replica is shutting down, ask another one")
        return Found(flight.task.result(), how)

    def usable(self, made: float) -> bool:
        """Whether an answer of this age may stand in."""
        return self._clock() < made + self._config.fallback_s

    def put(self, key: SlateKey, slate: FinishedSlate) -> None:
        """Keep an answer, replacing an older one; the least used leave when there are too many."""
        name, config = key.name, self._config
        now_fresh = slate.made + self._ttl_s(key)
        size = len(slate.tail) + _OVERHEAD_BYTES
        if size > config.max_mb * 2**20:
            return
        self._drop(name)
        end = slate.made + config.fallback_s
        self._records[name] = _Record(slate, now_fresh, now_fresh + config.stale_s, end, key.scope, key.k, key.explain, size)
        self._by_user.setdefault(key.user, {})[name] = None
        self._bytes += size
        while len(self._records) > config.max_entries or self._bytes > config.max_mb * 2**20:
            self._drop(next(iter(self._records)))
            self.stats.evicted += 1

    def fallback(self, key: SlateKey, marks: Sequence[str], *, only_this: bool = False) -> FinishedSlate | None:
        """Find an answer that may stand in where none can be made, on the rung ``cached`` for the reasons in ``marks``.

        Any answer up to ``fallback_s`` old to the same user, surface and filters for at least as many items will do, of
        whatever release, context, session and exclusions: what this request excludes, and its session, is taken out, and the
        rest is cut to k. What was made for this very key comes first, then the newest that fills k, then the newest. The
        64 variants of a user that were made last are looked at; without a user, only what was made for this very key.

        Args:
            only_this: whether only what was made for this very key will do: rules hold by surface, context and time.
        """
        now, hidden = self._clock(), set(key.hidden)
        exact = self._records.get(key.name)
        names = [] if exact is None else [key.name]
        if not key.anonymous:  # visitors without an id are many people, and the session of one is nothing for another
            names += islice(reversed(self._by_user.get(key.user, {})), _MOST_LOOKED_AT)
        best: FinishedSlate | None = None
        for name in names:
            record = self._records[name]
            if only_this and name != key.name:
                continue
            if now >= record.end or record.scope != key.scope or record.k < key.k or (key.explain and not record.explain):
                continue
            if self._withdrawn.outdated(record.slate):
                continue
            whole = self._withdrawn.out_of(record.slate)
            slate = whole if name == key.name else fit(whole, key, hidden)
            if slate is not None and "short_slate" not in slate.degraded:
                best = slate
                break
            best = best or slate
        if best is None:
            return None
        self.stats.fallback += 1
        return mark(best, marks, "cached")

    def purge_user(self, user: str) -> None:
        """Drop all of a user's answers, those being made included.

        Args:
            user: `hashing.user_digest`.
        """
        self._purge(list(self._by_user.get(user, ())), lambda name: name[0] == user)

    def purge_release(self, release: str) -> None:
        """Drop all of a release's answers, those being made included."""
        self._purge([name for name in self._records if name[2] == release], lambda name: name[2] == release)

    def purge(self) -> None:
        """Drop everything, what is being made included."""
        self._purge(list(self._records), lambda _: True)

    def _ttl_s(self, key: SlateKey) -> float:
        """The ttl with the key's own jitter, so that what was written together does not end together."""
        place = (int(key.user[:8], 16) ^ int(key.variant[:8], 16)) / 2**32
        return self._config.ttl_s * (1 + self._config.jitter * (2 * place - 1))

    def _refresh(self, key: SlateKey, make: Make) -> None:
        flight = self._flights.get(key.name)
        if (flight is not None and not flight.task.done()) or self._refreshing >= self._config.max_refreshes:
            return
        self._refreshing += 1
        self._start(key, make, key.name).task.add_done_callback(self._refreshed)

    def _refreshed(self, task: "asyncio.Task[FinishedSlate]") -> None:
        self._refreshing -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            self.stats.refresh_failed += 1
            log.debug("a stale slate could not be made anew: %s: %s", type(error).__name__, error)

    def _start(self, key: SlateKey, make: Make, name: Name) -> _Flight:
        flight = _Flight()
        # in a context of its own: Serve cancels what was called in the context of a request whose client has left
        flight.task = asyncio.get_running_loop().create_task(self._fly(key, make, flight), context=contextvars.Context())
        self._flights[name] = flight
        self._tasks.add(flight.task)
        flight.task.add_done_callback(lambda task: self._landed(name, flight, task))
        return flight

    async def _fly(self, key: SlateKey, make: Make, flight: _Flight) -> FinishedSlate:
        slate = await make()
        if flight.keep and KEPT_MARKS.issuperset(each for each in slate.degraded if not each.startswith("off:")):
            self.put(key, slate)
            if self._kept is not None:
                self._kept(key, slate)
        return slate

    def _landed(self, name: Name, flight: _Flight, task: "asyncio.Task[FinishedSlate]") -> None:
        self._tasks.discard(task)
        if self._flights.get(name) is flight:
            del self._flights[name]
        if not task.cancelled():
            task.exception()  # seen, although nobody may be waiting any more

    def _drop(self, name: Name) -> None:
        record = self._records.pop(name, None)
        if record is None:
            return
        self._bytes -= record.size
        names = self._by_user[name[0]]
        del names[name]
        if not names:
            del self._by_user[name[0]]

    def _purge(self, names: Sequence[Name], concerns: Callable[[Name], bool]) -> None:
        for name in names:
            self._drop(name)
        self.stats.purged += len(names)
        for name in [name for name in self._flights if concerns(name)]:
            self._flights.pop(name).keep = False  # who waits is answered; nobody joins, nothing is kept
