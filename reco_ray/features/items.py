"""What the features of users take from the items that they acted on."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = ["ItemFacts"]


@dataclass(frozen=True, slots=True, eq=False)
class ItemFacts:
    """Facts of some items.

    Attributes:
        item_ids: distinct. decades: their years in decades since 2000, null where unknown.
        in_category: 1 where item i has category c, float32, shape (n, C).
    """

    item_ids: pl.Series
    decades: pl.Series
    in_category: NDArray[np.float32]

    @classmethod
    def of(cls, items: pl.DataFrame, categories: list[str]) -> "ItemFacts":
        """Take the facts out of rows with item_id, year and categories."""
        decades = (items["year"].cast(pl.Float64) - 2000) / 10
        return cls(items["item_id"], decades, membership(items["categories"], categories))

    def describe(self, events: pl.DataFrame) -> pl.DataFrame:
        """Add the items' rows here as ``item`` (null where there is none) and their ``decade``; the order stays."""
        facts = pl.DataFrame({"item_id": self.item_ids, "decade": self.decades}).with_row_index("item")
        return events.join(facts, on="item_id", how="left", maintain_order="left")


def membership(categories: pl.Series, names: list[str]) -> NDArray[np.float32]:
    """1 where a row's list holds a name, shape (n, len(names))."""
    found = np.zeros((len(categories), len(names)), np.float32)
    if names:
        flat = pl.DataFrame({"c": categories}).with_row_index("row").explode("c").filter(pl.col("c").is_in(names))
        at = {name: i for i, name in enumerate(names)}
        found[flat["row"].to_numpy(), flat["c"].replace_strict(at, return_dtype=pl.Int64).to_numpy()] = 1
    return found
