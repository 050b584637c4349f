"""Items that may not be shown any more, as one gateway replica knows them, and slates without them."""

import re
from collections.abc import Sequence

import orjson

from reco_ray.serve.http.answers import seal
from reco_ray.store import FinishedSlate, LiveItem

__all__ = ["Withdrawn"]

_ID = re.compile(rb'"item_id":"((?:[^"\\]|\\.)*)"')  # within a string its quotes would be escaped


class Withdrawn:
    """Ids of the items that were deleted, or are not available. One thread changes them, others may ask."""

    def __init__(self) -> None:
        self._written: set[bytes] = set()  # as they stand in JSON

    def __contains__(self, item_id: object) -> bool:
        return bool(self._written) and isinstance(item_id, str) and _written(item_id) in self._written

    def __len__(self) -> int:
        return len(self._written)

    def follow(self, changes: Sequence[LiveItem]) -> None:
        """Take changes, in their order."""
        for change in changes:
            if change.shown:
                self._written.discard(_written(change.item_id))
            else:
                self._written.add(_written(change.item_id))

    def in_slate(self, slate: FinishedSlate) -> bool:
        """Whether a slate holds one: 3 us for ten items."""
        return bool(self._written) and not self._written.isdisjoint(_ID.findall(slate.tail))

    def out_of(self, slate: FinishedSlate) -> FinishedSlate:
        """The slate without them, marked ``short_slate``; itself where it holds none. Propensities were those of the whole."""
        if not self.in_slate(slate):
            return slate
        fields = orjson.loads(b"{" + slate.tail)
        items = [item for item in fields["items"] if item["item_id"] not in self]
        for position, item in enumerate(items, 1):
            item["position"] = position
            item.pop("propensity", None)
        degraded = tuple(dict.fromkeys((*slate.degraded, "short_slate")))
        return seal(items, slate.release, fields["variant"], slate.rung, degraded, slate.made, slate.draw_id)


def _written(item_id: str) -> bytes:
    return orjson.dumps(item_id)[1:-1]
