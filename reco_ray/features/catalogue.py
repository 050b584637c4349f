"""The items of one release as dense arrays; every stage addresses them by ``item_idx``, the row number here.

Rows are sorted by item key, a hash, so that a row number says nothing of age or popularity and a key is found by bisection.
Items that came since the release stand behind its rows (`Catalogue.with_items`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from reco_ray.arrays import lookup
from reco_ray.errors import ArtifactError, DataError
from reco_ray.features.growth import Growth, LiveRows, Room, stranger
from reco_ray.features.items import ItemFacts, membership
from reco_ray.features.views import ITEM_COLUMNS
from reco_ray.hashing import item_keys
from reco_ray.schema import ITEMS
from reco_ray.store import Item, LiveItem

__all__ = ["Catalogue"]

_FILE = "catalogue.arrow"
_MAX_CATEGORIES = 64
_YEAR = [c.name for c in ITEM_COLUMNS].index("item_year")


@dataclass(frozen=True, slots=True, eq=False)
class Catalogue:
    """Items of a release, and those that came since.

    Attributes:
        released: how many rows are the release's: the first ones.
        keys: `hashing.item_keys` of the items, those of the release ascending, 0 in a row that stands empty, shape (n,).
        item_ids, titles: external ids and titles by row.
        categories: names, at most 64, most frequent first.
        in_category: 1 where item i has category c, float32, shape (n, C).
        years: 0 where unknown, int32, shape (n,). prices: of one unit, NaN where unknown, float64, shape (n,).
        available: whether an item may be shown, shape (n,).
        events, positives: counts in the snapshot, int64, shape (n,).
        features: the item view's columns, float32, shape (n, F).
    """

    released: int
    keys: NDArray[np.uint64]
    item_ids: list[str]
    titles: list[str]
    categories: list[str]
    in_category: NDArray[np.float32]
    years: NDArray[np.int32]
    prices: NDArray[np.float64]
    available: NDArray[np.bool_]
    events: NDArray[np.int64]
    positives: NDArray[np.int64]
    features: NDArray[np.float32]
    _table: pa.Table = field(repr=False)
    _live: LiveRows = field(default_factory=LiveRows, repr=False)
    _room: Room | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return int(self.keys.shape[0])

    def find(self, item_ids: tuple[str, ...] | list[str]) -> NDArray[np.int64]:
        """Rows of external ids; -1 where an id is not in the catalogue. Shape (n,)."""
        return self.find_keys(item_keys(item_ids))

    def find_keys(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Rows of item keys; -1 where absent. Shape (n,)."""
        rows = lookup(self.keys[: self.released], keys)
        if self._live.keys.size and (absent := rows < 0).any():
            at = lookup(self._live.keys, keys[absent])
            rows[absent] = np.where(at >= 0, self._live.rows[at], -1)
        return rows

    def column(self, name: str) -> NDArray[np.float32]:
        """One column of the item view, shape (n,)."""
        return self.features[:, [c.name for c in ITEM_COLUMNS].index(name)]

    def facts(self) -> ItemFacts:
        """What the users' features take from these items."""
        years = pl.Series(self.years).cast(pl.Float64)
        decades = pl.select(pl.when(years > 0).then((years - 2000) / 10)).to_series()
        return ItemFacts(pl.Series(self.item_ids, dtype=pl.String), decades, self.in_category)

    @classmethod
    def build(cls, items: pl.DataFrame, rows: pl.DataFrame) -> "Catalogue":
        """Join the items table with the item view.

        Args:
            items: rows of `schema.ITEMS`. rows: of `transform.item_rows`.
        Raises: DataError: two ids share a key; rename one of them.
        """
        keys = item_keys(items["item_id"])
        if len(np.unique(keys)) < len(keys):
            raise DataError("catalogue: found two items with one key, expected distinct ones; rename one of them")
        names = [c.name for c in ITEM_COLUMNS]
        frame = items.with_columns(pl.Series("key", keys)).join(rows.drop("year", strict=False), on="item_id", how="left")
        frame = _priced(frame).with_columns(pl.col("n", "n_positive", *names).fill_null(0)).sort("key")
        categories = cls.vocabulary(items)
        columns = ("key", "item_id", "title", "categories", "year", "available", "price", "n", "n_positive", *names)
        table = frame.select(columns).to_arrow().replace_schema_metadata({"categories": "\n".join(categories)})
        return cls._from_table(table)

    @staticmethod
    def vocabulary(items: pl.DataFrame) -> list[str]:
        """The category names that get a column: the 64 most frequent of the items table."""
        counts = items["categories"].explode().drop_nulls().value_counts().sort("count", "categories", descending=[True, False])
        return counts["categories"].head(_MAX_CATEGORIES).to_list()

    def with_items(self, changes: Sequence[LiveItem]) -> tuple["Catalogue", Growth]:
        """The catalogue after changes, at most one of each item, and what they mean to others.

        Of the release's items only title, availability and price change. Another item stands in row ``released`` + slot, with
        the features of one that nobody has met. What came before stays as it was, but for titles, and for rows behind
        the release's whose item is described anew. Snapshots follow one another: each grows once.
        """
        rows = self.find([change.item_id for change in changes])
        news = [c for c, row in zip(changes, rows.tolist(), strict=True) if c.item and not 0 <= row < self.released]
        behind = {change.item_id: self.released + change.slot for change in news}
        grown = self._reaching(1 + max(behind.values(), default=-1))
        keys = dict(zip(behind, item_keys(list(behind)).tolist(), strict=True))
        available, prices, put = grown.available, grown.prices, dict[int, LiveItem]()
        before = available.copy()
        features = stranger(self.features[: self.released], self.events[: self.released])
        for change, row in zip(changes, rows.tolist(), strict=True):
            at = behind.get(change.item_id, row)
            if row != at and row >= 0:
                available[row] = False  # it has another row now
            if at < 0:
                continue  # deleted, and never known here
            if at >= self.released and change.item is not None:
                grown._write(at, keys[change.item_id], change.item_id, change.item, features)
            elif change.item is not None:
                grown.titles[at] = change.item.title
            if change.item is not None:
                prices[at] = np.nan if change.item.price is None else change.item.price
            available[at] = change.shown
            if change.shown and (at >= self.released or not before[at]):
                put[at] = change
        removed = np.flatnonzero(before & ~available)
        places = {keys[item_id]: row for item_id, row in behind.items()}
        return replace(grown, _live=self._live.updated(places)), Growth(np.array(list(put), np.int64), removed, _described(put))

    def _reaching(self, n: int) -> "Catalogue":
        """A copy with at least ``n`` rows, those that are new empty; what may differ from this one's is its own."""
        n = max(n, len(self))
        room, item_ids, titles = self._room, self.item_ids, self.titles
        if room is None:
            room = Room(self.keys, self.in_category, self.years, self.events, self.positives, self.features)
            item_ids, titles = item_ids.copy(), titles.copy()
        room.reach(n)
        item_ids.extend([""] * (n - len(item_ids)))
        titles.extend([""] * (n - len(titles)))
        return replace(
            self,
            item_ids=item_ids,
            titles=titles,
            keys=room.keys[:n],
            in_category=room.in_category[:n],
            years=room.years[:n],
            prices=np.concatenate([self.prices, np.full(n - len(self), np.nan)]),
            available=np.concatenate([self.available, np.zeros(n - len(self), np.bool_)]),
            events=room.events[:n],
            positives=room.positives[:n],
            features=room.features[:n],
            _room=room,
        )

    def _write(self, row: int, key: int, item_id: str, item: Item, features: NDArray[np.float32]) -> None:
        self.keys[row], self.item_ids[row], self.titles[row] = key, item_id, item.title
        self.in_category[row] = membership(pl.Series([list(item.categories)], dtype=pl.List(pl.String)), self.categories)[0]
        self.years[row] = item.year
        self.events[row] = self.positives[row] = 0
        self.features[row] = features
        self.features[row, _YEAR] = (item.year - 2000) / 10 if item.year > 0 else 0

    def save(self, folder: Path) -> None:
        """Write the release's items into a release's folder."""
        with pa.OSFile(str(folder / _FILE), "wb") as sink, pa.ipc.new_file(sink, self._table.schema) as writer:
            writer.write_table(self._table.combine_chunks())

    @classmethod
    def load(cls, folder: Path) -> "Catalogue":
        """Read what `save` wrote.

        Raises: ArtifactError: the file is not there, or of another item view.
        """
        try:
            with pa.memory_map(str(folder / _FILE)) as source:
                return cls._from_table(pa.ipc.open_file(source).read_all())
        except FileNotFoundError as exc:
            raise ArtifactError(f"{folder}: found no {_FILE}, expected a release's folder; publish it again") from exc

    @classmethod
    def _from_table(cls, table: pa.Table) -> "Catalogue":
        names = [n for n in (table.schema.metadata or {}).get(b"categories", b"").decode().split("\n") if n]
        frame = _priced(pl.DataFrame(table))
        if missing := [c.name for c in ITEM_COLUMNS if c.name not in frame.columns]:
            raise ArtifactError(f"{_FILE}: found no {missing}, expected this version's item view; publish the release again")
        features = frame.select(c.name for c in ITEM_COLUMNS).to_numpy().astype(np.float32)
        return cls(
            released=table.num_rows,
            keys=frame["key"].to_numpy(),
            item_ids=frame["item_id"].to_list(),
            titles=frame["title"].fill_null("").to_list(),
            categories=names,
            in_category=membership(frame["categories"], names),
            years=frame["year"].fill_null(0).cast(pl.Int32).to_numpy(),
            prices=frame["price"].cast(pl.Float64).fill_null(np.nan).to_numpy(),
            available=frame["available"].to_numpy(),
            events=frame["n"].to_numpy(),
            positives=frame["n_positive"].to_numpy(),
            features=np.ascontiguousarray(features),
            _table=table,
        )


def _priced(frame: pl.DataFrame) -> pl.DataFrame:
    """With a column ``price``, which tables and releases from before prices do without."""
    return frame if "price" in frame.columns else frame.with_columns(price=pl.lit(None, pl.Float64))


def _described(put: Mapping[int, LiveItem]) -> pl.DataFrame:
    items = [(each.item_id, each.item or Item(), datetime.fromtimestamp(each.changed, UTC)) for each in put.values()]
    rows = [
        (item_id, item.title, item.categories, item.year or None, item.text, item.available, item.price, at)
        for item_id, item, at in items
    ]
    columns = zip(*rows, strict=True) if rows else [()] * len(ITEMS)
    table = pa.table([pa.array(list(each), kind) for each, kind in zip(columns, ITEMS.types, strict=True)], schema=ITEMS)
    return pl.DataFrame(table)
