"""Ids of imported data: permuted where those of the source would tell something, made from the content where it has none.

Ids of public sets often follow popularity or time; ``permute_ids`` replaces them by a seeded keyed hash, so that nothing
downstream can learn from a number. An event without an id gets one from its content, so that a second import finds it.
"""

import polars as pl

from reco_ray.config import SourceConfig
from reco_ray.errors import DataError
from reco_ray.hashing import digest

__all__ = ["content_ids", "number_repeats", "permuted"]

_CONTENT = ("user_id", "item_id", "ts", "type")


def permuted(ids: pl.Expr, kind: str, source: SourceConfig, seed: int) -> pl.Expr:
    """Ids as text, replaced by names without meaning where the source asks for it; ``kind`` is user, item or order."""
    text = ids.cast(pl.String)
    if not source.permute_ids:
        return text

    def permute(column: pl.Series) -> pl.Series:
        unique = column.drop_nulls().unique()
        new = [f"{kind[0]}{digest(str(seed), kind, old, length=10)}" for old in unique]
        if len(set(new)) < len(new):
            raise DataError(f"source.permute_ids: two {kind} ids got the same name; run with another seed")
        return column.replace_strict(unique, pl.Series(new), return_dtype=pl.String)

    return text.map_batches(permute, return_dtype=pl.String)


def content_ids(events: pl.DataFrame) -> pl.Series:
    """An event id for each row from user, item, time and type; equal rows get equal ids, until `number_repeats`."""
    return pl.Series("event_id", [_content_id(row, 0) for row in events.select(_CONTENT).iter_rows()], pl.String)


def number_repeats(events: pl.DataFrame) -> pl.DataFrame:
    """Give the n-th of equal rows an id with n in it: a repeated row is kept, a repeated import is not.

    Args:
        events: with ids of `content_ids`; all rows with one id together, whatever their order.
    """
    count = events.select(pl.int_range(pl.len()).over("event_id").alias("n"))["n"]
    again = count.to_numpy().nonzero()[0]
    if not again.size:
        return events
    repeats = events[again].select(_CONTENT).iter_rows()
    ids = [_content_id(row, n) for row, n in zip(repeats, count[again], strict=True)]
    return events.with_columns(events["event_id"].scatter(again, ids))


def _content_id(row: tuple[object, ...], n: int) -> str:
    return digest("import", *map(str, row), str(n), length=24)
