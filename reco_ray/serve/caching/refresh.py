"""Precomputed slates of active users kept young: a full answer that was made anyway becomes the new one."""

import time
from collections import OrderedDict
from collections.abc import Callable

from reco_ray.serve.caching.cache_key import SlateKey
from reco_ray.store import FinishedSlate

__all__ = ["Refresher"]


class Refresher:
    """Decides which full answers replace their user's precomputed slate.

    Per process; the store's own rule, that a slate never replaces a younger one, makes it right for many.

    Args:
        refresh_after_s: at most one write per user in this time.
        min_k: answers to a wish for fewer items replace nothing.
        writes_per_s: of all users together; what exceeds it waits for the user's next answer.
        max_users: remembered; the ones written longest ago are forgotten first, which costs a write too many at most.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        refresh_after_s: float,
        *,
        min_k: int = 10,
        writes_per_s: float = 20.0,
        max_users: int = 50_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._refresh_after_s, self._min_k, self._writes_per_s = refresh_after_s, min_k, writes_per_s
        self._max_users, self._clock = max_users, clock
        self._written: OrderedDict[int, float] = OrderedDict()  # oldest write first
        self._allowance, self._counted = max(1.0, writes_per_s), clock()

    def __len__(self) -> int:
        return len(self._written)

    def due(self, key: SlateKey, slate: FinishedSlate) -> bool:
        """Whether to write this answer, which was just made, as its user's precomputed slate; a yes counts as written.

        No: it is less than full, nobody's, shaped by filters or exclusions, for fewer than ``min_k`` items, or this user's
        precomputed slate is young enough.
        """
        if slate.degraded or key.anonymous or key.filtered or key.excludes or key.k < self._min_k:
            return False
        now, user = self._clock(), int(key.user[:16], 16)
        written = self._written.get(user)
        if written is not None and now - written < self._refresh_after_s:
            return False
        self._allowance = min(max(1.0, self._writes_per_s), self._allowance + (now - self._counted) * self._writes_per_s)
        self._counted = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        self._written[user] = now
        self._written.move_to_end(user)
        if len(self._written) > self._max_users:
            self._written.popitem(last=False)
        return True

    def forget(self, user: str) -> None:
        """A user was purged (`hashing.user_digest`): the next full answer is written."""
        self._written.pop(int(user[:16], 16), None)
