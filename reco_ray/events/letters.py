"""Dead letters of imports: rows of the lake's table `dead_letters`. Those of the gateway stay on the bus."""

from collections.abc import Sequence

import polars as pl
import pyarrow as pa
from deltalake import DeltaTable

from reco_ray.config import DateUnit
from reco_ray.events.contract import Refused
from reco_ray.hashing import digest, user_bucket, user_digest
from reco_ray.lake.dates import date_of
from reco_ray.lake.files import files_of, read_columns
from reco_ray.schema import DEAD_LETTERS
from reco_ray.store.fence import Fence

__all__ = ["DATES", "letters_table", "new_letters", "unfenced_letters"]


DATES = DateUnit.day
"""Of the table, whatever the unit of the events: it is small, and kept for days."""


def letters_table(refused: Sequence[Refused], source: str, now_us: int) -> pa.Table:
    """Write down what was refused just now as rows of `schema.DEAD_LETTERS`."""
    date = date_of(now_us, DATES)
    rows = [
        {
            "letter_id": digest(each.raw, length=32),
            "ts": now_us,
            "source": source,
            "reason": each.reason,
            "detail": each.detail,
            "raw": each.raw.decode(),
            "user_id": each.user_id or "",
            "date": date,
            "user_bucket": user_bucket(each.user_id or ""),
        }
        for each in refused
    ]
    return pa.Table.from_pylist(rows, schema=DEAD_LETTERS)


def new_letters(rows: pa.Table, table: DeltaTable) -> pa.Table:
    """Leave out the letters that the table holds, under whatever date; of equal ones the first stays. Contract of `Fresh`."""
    files = [path for paths in files_of(table).values() for path in paths]
    stored = [pl.Series(read_columns(table.table_uri, path, ["letter_id"]).column(0)) for path in files]
    ids = pl.Series(rows.column("letter_id"))
    new = ids.is_first_distinct()
    for known in stored:
        new &= ~ids.is_in(known.implode())
    return rows.filter(pa.array(new.to_numpy()))


def unfenced_letters(rows: pa.Table, fence: Fence) -> pa.Table:
    """Leave out the letters of users in the fence: when their events were is not known."""
    users = rows.column("user_id").unique().to_pylist()
    kept = [user for user in users if user_digest(user) not in fence.entries]
    return rows if len(kept) == len(users) else rows.filter(pl.Series(rows.column("user_id")).is_in(kept).to_arrow())
