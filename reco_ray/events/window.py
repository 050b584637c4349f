"""The dedup window: ids of events accepted lately, in the online store, so that a batch sent again is answered as such.

Sets ``{namespace}:events:seen:{slice}`` of 16-byte digests, one for each eighth of the window; a slice ends as a whole, so an
id is remembered for the window and up to an eighth longer. It spares the bus what clients repeat and is no proof: an id may be
forgotten, or never get here when a gateway dies between bus and window. What keeps ids unique is the sink (`events.sink`).
"""

import time
from collections.abc import Callable, Sequence
from hashlib import blake2b

from reco_ray.store import OnlineStore
from reco_ray.store.away import answering

__all__ = ["DedupWindow"]

_SLICES = 8

# KEYS: slices. ARGV: digests. Answers the places, from 1, of those that a slice holds. Digests travel once, not once a slice.
_KNOWN = """local found={}
for _,key in ipairs(KEYS) do
if redis.call('EXISTS',key)==1 then
for i,is in ipairs(redis.call('SMISMEMBER',key,unpack(ARGV))) do if is==1 then found[i]=true end end
end
end
local places={}
for i in pairs(found) do places[#places+1]=i end
return places"""


class DedupWindow:
    """Remembers ids on an event loop.

    Args:
        window_s: for at least so long.
        clock: seconds since 1970. A gateway whose clock is ahead of another's by up to an eighth of the window does no harm.
    """

    def __init__(self, store: OnlineStore, window_s: int, clock: Callable[[], float] = time.time) -> None:
        self._store, self._window_s, self._clock = store, window_s, clock
        self._slice_s = window_s / _SLICES
        self._find = store.calls.register_script(_KNOWN)

    async def known(self, ids: Sequence[str]) -> set[str]:
        """Return those of up to 5,000 ids that were marked within the window; one round trip.

        Raises: NotReadyError: the store is away.
        """
        if not ids:
            return set()
        now = self._now()
        slices = [self._key(now - age) for age in range(-1, _SLICES + 1)]
        with answering():
            places = await self._find(keys=slices, args=[_digest(each) for each in ids])
        return {ids[place - 1] for place in places}

    async def mark(self, ids: Sequence[str]) -> None:
        """Remember ids.

        Raises: NotReadyError: the store is away; some may be remembered.
        """
        if not ids:
            return
        key = self._key(self._now())
        with answering():
            async with self._store.calls.pipeline(transaction=False) as pipe:
                pipe.sadd(key, *[_digest(each) for each in ids])
                pipe.expire(key, int(self._window_s + 2 * self._slice_s) + 1)
                await pipe.execute()

    def _now(self) -> int:
        return int(self._clock() / self._slice_s)

    def _key(self, number: int) -> str:
        return self._store.key("events", "seen", str(number))


def _digest(event_id: str) -> bytes:
    return blake2b(event_id.encode(), digest_size=16).digest()
