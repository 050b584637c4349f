"""Items that may not be shown to anybody, as one gateway replica knows them, and slates without them."""

import re
import threading
from collections.abc import Iterable, Sequence

import orjson

from reco_ray.serve.http.answers import also_in, seal
from reco_ray.store import FinishedSlate, LiveItem

__all__ = ["Withdrawn"]

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

    def __contains__(self, item_id: object) -> bool:
        return bool(self._written) and isinstance(item_id, str) and _written(item_id) in self._written

    def __len__(self) -> int:
        return len(self._written)

    def follow(self, changes: Sequence[LiveItem]) -> None:
        """Take changes, in their order."""
        with self._lock:
            for change in changes:
                if change.shown:
                    self._gone.discard(_written(change.item_id))
                else:
                    self._gone.add(_written(change.item_id))
            self._join()

    def rule_out(self, item_ids: Iterable[str]) -> None:
        """Take what rules hide from everybody, in place of what they did before."""
        with self._lock:
            self._ruled = frozenset(map(_written, item_ids))
            self._join()

    def _join(self) -> None:
        self._written = self._gone | self._ruled if self._ruled else self._gone

    def in_slate(self, slate: FinishedSlate) -> bool:
        """Whether a slate holds one: 3 us for ten items."""
        return bool(self._written) and not self._written.isdisjoint(_ID.findall(slate.tail))

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
