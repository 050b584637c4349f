"""The items of one release as dense arrays; every stage addresses them by ``item_idx``, the row number here.

Rows are sorted by item key, a hash, so that a row number says nothing of age or popularity and a key is found by bisection.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from reco_ray.arrays import lookup
from reco_ray.errors import ArtifactError, DataError
from reco_ray.features.items import ItemFacts, membership
from reco_ray.features.views import ITEM_COLUMNS
from reco_ray.hashing import item_keys

__all__ = ["Catalogue"]

_FILE = "catalogue.arrow"
_MAX_CATEGORIES = 64


@dataclass(frozen=True, slots=True, eq=False)
class Catalogue:
    """Items of a release.

    Attributes:
        keys: `hashing.item_keys` of the items, ascending, shape (n,).
        item_ids, titles: external ids and titles, length n.
        categories: names, at most 64, most frequent first.
        in_category: 1 where item i has category c, float32, shape (n, C).
        years: 0 where unknown, int32, shape (n,).
        available: whether an item may be shown, shape (n,).
        events, positives: counts in the snapshot, int64, shape (n,).
        features: the item view's columns, float32, shape (n, F).
    """

    keys: NDArray[np.uint64]
    item_ids: list[str]
    titles: list[str]
    categories: list[str]
    in_category: NDArray[np.float32]
    years: NDArray[np.int32]
    available: NDArray[np.bool_]
    events: NDArray[np.int64]
    positives: NDArray[np.int64]
    features: NDArray[np.float32]
    _table: pa.Table = field(repr=False)

    def __len__(self) -> int:
        return len(self.item_ids)

    def find(self, item_ids: tuple[str, ...] | list[str]) -> NDArray[np.int64]:
        """Rows of external ids; -1 where an id is not in the catalogue. Shape (n,)."""
        return self.find_keys(item_keys(item_ids))

    def find_keys(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Rows of item keys; -1 where absent. Shape (n,)."""
        return lookup(self.keys, keys)

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
        frame = frame.with_columns(pl.col("n", "n_positive", *names).fill_null(0)).sort("key")
        categories = cls.vocabulary(items)
        columns = ("key", "item_id", "title", "categories", "year", "available", "n", "n_positive", *names)
        table = frame.select(columns).to_arrow().replace_schema_metadata({"categories": "\n".join(categories)})
        return cls._from_table(table)

    @staticmethod
    def vocabulary(items: pl.DataFrame) -> list[str]:
        """The category names that get a column: the 64 most frequent of the items table."""
        counts = items["categories"].explode().drop_nulls().value_counts().sort("count", "categories", descending=[True, False])
        return counts["categories"].head(_MAX_CATEGORIES).to_list()

    def save(self, folder: Path) -> None:
        """Write the catalogue into a release's folder."""
        with pa.OSFile(str(folder / _FILE), "wb") as sink, pa.ipc.new_file(sink, self._table.schema) as writer:
            writer.write_table(self._table.combine_chunks())

    @classmethod
    def load(cls, folder: Path) -> "Catalogue":
        """Read what `save` wrote.

        Raises: ArtifactError: the file is not there.
        """
        try:
            with pa.memory_map(str(folder / _FILE)) as source:
                return cls._from_table(pa.ipc.open_file(source).read_all())
        except FileNotFoundError as exc:
            raise ArtifactError(f"{folder}: found no {_FILE}, expected a release's folder; publish it again") from exc

    @classmethod
    def _from_table(cls, table: pa.Table) -> "Catalogue":
        names = [n for n in (table.schema.metadata or {}).get(b"categories", b"").decode().split("\n") if n]
        frame = pl.DataFrame(table)
        features = frame.select(c.name for c in ITEM_COLUMNS).to_numpy().astype(np.float32)
        return cls(
            keys=frame["key"].to_numpy(),
            item_ids=frame["item_id"].to_list(),
            titles=frame["title"].fill_null("").to_list(),
            categories=names,
            in_category=membership(frame["categories"], names),
            years=frame["year"].fill_null(0).cast(pl.Int32).to_numpy(),
            available=frame["available"].to_numpy(),
            events=frame["n"].to_numpy(),
            positives=frame["n_positive"].to_numpy(),
            features=np.ascontiguousarray(features),
            _table=table,
        )
