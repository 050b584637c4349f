"""Live items and the lake: changes go into the table of items, and from the store once all releases know them."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl
import pyarrow as pa

from reco_ray.config import PipelineConfig
from reco_ray.errors import RecoError
from reco_ray.events.importing import merge_items
from reco_ray.lake import tables
from reco_ray.release import open_release, verify
from reco_ray.schema import ITEMS, check
from reco_ray.store import ItemStore, LiveItem
from reco_ray.workflow.online import online_store

__all__ = ["TakenItems", "take_live_items"]

log = logging.getLogger(__name__)

_SAID = ("title", "categories", "year", "text", "available", "price")
_KEPT_S = 7 * 86_400.0  # so long a way back to a release that does not know an item has it all the same


@dataclass(frozen=True, slots=True)
class TakenItems:
    """What was done. ``taken``: changes in the table now. ``forgotten``: those that left the store."""

    taken: int = 0
    forgotten: int = 0


def take_live_items(config: PipelineConfig, clock: Callable[[], float] = time.time) -> TakenItems:
    """Write the live items into the lake; doing it again changes nothing.

    A deleted item stays in the table as one that is not available; one that the table never had stays out. A change leaves the
    store when it is a week old and every release with a place in the traffic record was made of a table that has it.

    Raises: NotReadyError: there is a store, and it cannot be had just now.
    """
    with online_store(config) as store:
        if store is None or not tables.exists(config.root, "items"):
            return TakenItems()
        items = ItemStore(store)
        if not (changes := items.all()):
            return TakenItems()
        described = _described(tables.read(config.root, "items"), changes)
        merge_items(config.root, described, set())
        old = [change for change in changes if change.changed < clock() - _KEPT_S]
        known = _known_to_all(config.root, sorted(store.traffic().weights), old) if old else []
        done = TakenItems(len(changes), items.forget(known))
        log.info("live items: %d changes are in the lake, %d of them left the store", done.taken, done.forgotten)
        return done


def _described(stored: pl.DataFrame, changes: Sequence[LiveItem]) -> pa.Table:
    rows = [
        (change.item_id, *_said(change), datetime.fromtimestamp(change.changed, UTC))
        for change in changes
        if change.item is not None
    ]
    columns = zip(*rows, strict=True) if rows else [()] * len(ITEMS)
    put = pa.table([pa.array(list(each), kind) for each, kind in zip(columns, ITEMS.types, strict=True)], schema=ITEMS)
    deleted = {change.item_id: datetime.fromtimestamp(change.changed, UTC) for change in changes if change.item is None}
    gone = stored.filter(pl.col("item_id").is_in(list(deleted)) & pl.col("available")).with_columns(
        pl.lit(False).alias("available"),
        pl.col("item_id").replace_strict(deleted, default=None, return_dtype=stored.schema["updated_ts"]).alias("updated_ts"),
    )
    return pa.concat_tables([put, check(gone.to_arrow(), ITEMS, "items")])


def _said(change: LiveItem) -> tuple[str, list[str], int | None, str | None, bool, float | None]:
    """The columns `_SAID` as the table has them."""
    assert change.item is not None
    item = change.item
    return item.title, list(item.categories), item.year or None, item.text or None, item.available, item.price


def _known_to_all(root: str, releases: Sequence[str], changes: Sequence[LiveItem]) -> list[LiveItem]:
    """Those that each release was made with; none when there is no release, or one does not say what it was made of."""
    known = list(changes) if releases else []
    for release in releases:
        try:
            versions = verify(open_release(root, release)).facts.get("lake_versions")
            table = tables.read(root, "items", at=versions["items"]) if isinstance(versions, dict) else None
        except (RecoError, OSError, KeyError) as exc:
            log.warning("live items stay in the store: release %s does not say what it knows: %s", release, exc)
            return []
        if table is None:
            return []
        wanted = table.filter(pl.col("item_id").is_in([change.item_id for change in known]))
        rows = {row["item_id"]: row for row in wanted.iter_rows(named=True)}
        known = [change for change in known if _knows(rows.get(change.item_id), change)]
    return known


def _knows(row: dict[str, object] | None, change: LiveItem) -> bool:
    if change.item is None:
        return row is None or not row["available"]
    return row is not None and tuple(row.get(name) for name in _SAID) == _said(change)
