"""Items that a user was served lately: a bounded, expiring set per user, read and written within calls that are made anyway.

``{namespace}:served:{digest}`` is a sorted set of item keys (8 bytes each) by the unix time at which they were last served. The
key ends in the user's digest, so that an erasure removes it, and after a purge the store refuses what was on its way.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import redis.asyncio.client
from numpy.typing import NDArray

from reco_ray.config import ServedConfig
from reco_ray.store.online import OnlineStore

__all__ = ["NOT_SERVED", "ServedItems"]

NOT_SERVED = np.empty(0, np.uint64)

_REMEMBER = """if redis.call('EXISTS',KEYS[2])>0 then return 0 end
for i=5,#ARGV do redis.call('ZADD',KEYS[1],ARGV[1],ARGV[i]) end
redis.call('ZREMRANGEBYSCORE',KEYS[1],'-inf',ARGV[2])
redis.call('ZREMRANGEBYRANK',KEYS[1],0,-tonumber(ARGV[3])-1)
redis.call('EXPIRE',KEYS[1],ARGV[4])
return 1"""
"""KEYS: the set, a refusal. ARGV: now, the newest time that counts no more, most items, life in s, items."""


@dataclass(frozen=True, slots=True)
class ServedItems:
    """What users were served within ``config.window_s``; of a window of 0 nothing is read or written.

    Args:
        clock: unix time in seconds.
    """

    store: OnlineStore
    config: ServedConfig
    clock: Callable[[], float] = time.time

    def __bool__(self) -> bool:
        return self.config.window_s > 0

    def read_within(self, pipe: redis.asyncio.client.Pipeline, user: str) -> None:
        """Add the read of a user's items to a pipeline; `keys_of` makes sense of what it brings. ``user``: digest."""
        pipe.zrange(self._key(user), f"({self.clock() - self.config.window_s:.3f}", "+inf", byscore=True)

    @staticmethod
    def keys_of(found: object) -> NDArray[np.uint64]:
        """Item keys, sorted, shape (n,)."""
        members = [each for each in found if isinstance(each, bytes) and len(each) == 8] if isinstance(found, list) else []
        return np.sort(np.frombuffer(b"".join(members), "<u8")) if members else NOT_SERVED

    def write_within(self, pipe: redis.asyncio.client.Pipeline, user: str, keys: NDArray[np.uint64], refusal: str) -> None:
        """Add the items of a slate that went out to a pipeline; the oldest leave where there are too many.

        Args:
            user: digest. keys: of the items, shape (n,). refusal: key that stands while the user's slates are refused.
        """
        raw, now = keys.astype("<u8", copy=False).tobytes(), self.clock()
        members = [raw[at : at + 8] for at in range(0, len(raw), 8)]
        window = self.config.window_s
        bounds = f"{now:.3f}", f"{now - window:.3f}", self.config.most, max(1, round(window))
        pipe.eval(_REMEMBER, 2, self._key(user), refusal, *bounds, *members)

    def _key(self, user: str) -> str:
        return self.store.key("served", user)
