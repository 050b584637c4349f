"""The item view as it is now: the sums of the last rebuild and what the streams have added since, read every few seconds."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reco_ray.config import FeaturesConfig
from reco_ray.errors import RecoError
from reco_ray.features import Catalogue
from reco_ray.features.finish import item_features
from reco_ray.features.online import unpack_items
from reco_ray.features.sums import ITEM_SUMS, Sums, half_lives, merged
from reco_ray.store import LAKE_ITEMS, FeatureStore, OnlineStore, registered_views

__all__ = ["ItemsNow", "LiveItems", "follow_items"]

log = logging.getLogger(__name__)

_INTERVAL_S = 5.0
_OVERLAP_S = 60.0  # clocks of those who write differ, and a batch takes its time
_AT_ONCE = 5_000
_N, _SHOWN = ITEM_SUMS.index("n"), ITEM_SUMS.index("impressions")


class ItemsNow(NamedTuple):
    """The items as they are now, by item_idx.

    Attributes:
        features: the item view's columns, float32, shape (n, F).
        met: how often each was shown or acted on, whichever is more, int64, shape (n,).
    """

    features: NDArray[np.float32]
    met: NDArray[np.int64]


class LiveItems:
    """Items of one catalogue, by item_idx; those that come while it is loaded are followed too.

    Args:
        view: version of the user view of the catalogue's release.
        catalogue: gives it as it is now; it only grows.
    """

    def __init__(
        self, store: OnlineStore, view: str, catalogue: Callable[[], Catalogue], clock: Callable[[], float] = time.time
    ) -> None:
        self._store, self._view, self._catalogue, self._clock = store, view, catalogue, clock
        self._features = FeatureStore(store, view, 1)
        self._keys = np.empty(0, np.uint64)
        self._rows: dict[bytes, list[int]] = {}  # an item that came twice may have left a row behind
        self._of: dict[str, Any] = {}
        self._sums: Sums | None = None
        self._looked = 0.0

    def refresh(self) -> ItemsNow | None:
        """Read what has changed; returns all items, or None where nothing has.

        Raises: NotReadyError: the store is away. SchemaError: it holds sums of another version.
        """
        of = registered_views(self._store).get(self._view, {})
        if "features" not in of:
            return None  # the view is being made, or not kept up to date
        now, catalogue = self._clock(), self._catalogue()
        if of != self._of or self._sums is None:
            self._keys, self._rows = np.empty(0, np.uint64), {}
            self._sums, changed = Sums.none(0, half_lives(ITEM_SUMS, FeaturesConfig(**of["features"]))), list[bytes]()
        else:
            changed = self._features.changed_items(self._looked - _OVERLAP_S)
        new = self._grow(catalogue.keys)
        rows = np.union1d(new, np.array([row for key in changed for row in self._rows.get(key, ())], np.int64))
        for start in range(0, rows.size, _AT_ONCE):
            self._read(rows[start : start + _AT_ONCE], self._sums, of)
        self._of, self._looked = of, now
        if not rows.size:
            return None
        as_of = int(self._sums.last.max(initial=0))
        return ItemsNow(item_features(self._sums, catalogue.years[: self._keys.size], as_of), _met(self._sums, as_of))

    def _grow(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Make room for the catalogue's rows; returns those that are new, or hold another item."""
        assert self._sums is not None
        old, more = self._keys, keys.size - self._keys.size
        new = np.concatenate([np.flatnonzero(keys[: old.size] != old), np.arange(old.size, keys.size)])
        if new.size:
            for row in new.tolist():
                if row < old.size and row in (rows := self._rows.get(old[row].tobytes(), [])):
                    rows.remove(row)
                self._rows.setdefault(keys[row].tobytes(), []).append(row)
            room = Sums.none(more, self._sums.half_lives)
            self._sums = Sums(
                np.concatenate([self._sums.first, room.first]),
                np.concatenate([self._sums.last, room.last]),
                np.concatenate([self._sums.values, room.values]),
                room.half_lives,
            )
            self._keys = keys.copy()  # the catalogue may write in its own
        return new

    def _read(self, rows: NDArray[np.int64], sums: Sums, of: dict[str, Any]) -> None:
        keys, config = [self._keys[row].tobytes() for row in rows], FeaturesConfig(**of["features"])
        total = Sums.none(rows.size, sums.half_lives)
        for part in (LAKE_ITEMS, *range(of["partitions"])):
            found = self._features.item_sums(part, keys)
            total = merged(total, unpack_items([found.get(key) for key in keys], config))
        sums.first[rows], sums.last[rows], sums.values[rows] = total.first, total.last, total.values


def _met(sums: Sums, as_of: int) -> NDArray[np.int64]:
    at = sums.at(as_of)
    return np.asarray(np.maximum(at[:, _N], np.rint(at[:, _SHOWN])), np.int64)


def follow_items(items: LiveItems, take: Callable[[ItemsNow], None], stop: threading.Event) -> threading.Thread:
    """Hand over the items whenever they change, from a thread of its own, until ``stop``; no error ends it."""

    def run() -> None:
        answers = True
        while True:
            try:
                if (now := items.refresh()) is not None:
                    take(now)
                answers = True
            except RecoError as exc:
                if answers:
                    log.warning("item features stay as they are: %s", exc)
                answers = False
            if stop.wait(_INTERVAL_S):
                return

    thread = threading.Thread(target=run, name="item features", daemon=True)
    thread.start()
    return thread
