"""Items that may not be shown to anybody, as one gateway replica knows them, and slates without them.

And what was put lately: rules may judge it otherwise than when a slate was made.
"""

import re
import threading
from collections.abc import Iterable, Sequence
from math import nan

import orjson

from reco_ray.serve.http.answers import also_in, seal
from reco_ray.store import FinishedSlate, LiveItem

__all__ = ["Withdrawn"]

_LATE_S = 5.0  # a slate made so soon after a change may be of stages that had not heard; clocks differ as well
_ID = re.compile(rb'"item_id":"((?:[^"\\]|\\.)*)"')  # within a string its quotes would be escaped


class Withdrawn:
    """Ids of the items that were deleted, are not available, or that a rule hides from everybody.

    One thread changes what is live, one what rules hide; others may ask.
    """

    def __init__(self) -> None:
        self._gone: set[bytes] = set()  # as they stand in JSON
        self._lock = threading.Lock()
        self._ruled: frozenset[bytes] = frozenset()
        self._written: frozenset[bytes] | set[bytes] = self._gone  # all of them
        self._put: dict[bytes, tuple[float, float | None]] = {}  # when an item was put last, and its price
        self._narrows = False
        self.version = 0

    def __contains__(self, item_id: object) -> bool:
        return bool(self._written) and isinstance(item_id, str) and _written(item_id) in self._written

    def __len__(self) -> int:
        return len(self._written)

    def follow(self, changes: Sequence[LiveItem]) -> None:
        """Take changes, in their order."""
        with self._lock:
            self.version += 1
            for change in changes:
                if change.item is not None:
                    self._put[_written(change.item_id)] = change.changed, change.item.price
                if change.shown:
                    self._gone.discard(_written(change.item_id))
                else:
                    self._gone.add(_written(change.item_id))
            self._join()

    def rule_out(self, item_ids: Iterable[str], narrows: bool = False) -> None:
        """Take what rules hide from everybody, in place of what they did before.

        Args:
            narrows: as `rules.Standing.narrows` says.
        """
        with self._lock:
            self._narrows = narrows
            self._ruled = frozenset(map(_written, item_ids))
            self._join()

    def _join(self) -> None:
        self._written = self._gone | self._ruled if self._ruled else self._gone

    def in_slate(self, slate: FinishedSlate) -> bool:
        """Whether a slate holds one: 3 us for ten items."""
        return bool(self._written) and not self._written.isdisjoint(_ID.findall(slate.tail))

    def outdated(self, slate: FinishedSlate) -> bool:
        """Whether a kept slate holds an item that was put since it was made, while rules go by more than ids."""
        if not self._narrows or not self._put:
            return False
        return any(slate.made < self._put[each][0] + _LATE_S for each in _ID.findall(slate.tail) if each in self._put)

    def price(self, item_id: str, released: float) -> float:
        """Contract of `slate.LivePrices`."""
        if (found := self._put.get(_written(item_id))) is None:
            return released
        return nan if found[1] is None else found[1]

    def out_of(self, slate: FinishedSlate) -> FinishedSlate:
        """The slate without them, marked ``short_slate``; itself where it holds none. Propensities were those of the whole."""
        if not self.in_slate(slate):
            return slate
        fields = orjson.loads(b"{" + slate.tail)
        items = [item for item in fields["items"] if item["item_id"] not in self]
        for position, item in enumerate(items, fields["items"][0]["position"]):
            item["position"] = position
            item.pop("propensity", None)
        degraded = tuple(dict.fromkeys((*slate.degraded, "short_slate")))
        return seal(
            items, slate.release, fields["variant"], slate.rung, degraded, slate.made, slate.draw_id, also=also_in(fields)
        )


def _written(item_id: str) -> bytes:
    return orjson.dumps(item_id)[1:-1]
