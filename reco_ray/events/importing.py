"""An import's own part of the lake: events appended in large batches, dead letters, and the users and items that were met."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import polars as pl
import pyarrow as pa

from reco_ray.config import DateUnit
from reco_ray.errors import NotReadyError, StaleWriterError
from reco_ray.events.letters import DATES, new_letters, unfenced_letters
from reco_ray.events.sink import unfenced
from reco_ray.lake import sources, tables
from reco_ray.lake.appending import TableAppender
from reco_ray.lake.ids import Fresh, StoredIds
from reco_ray.schema import ITEMS, USERS, check
from reco_ray.store.fence import Fence

__all__ = ["Appending", "append_batches", "append_letters", "merge_items", "merge_users"]

log = logging.getLogger(__name__)

_ATTEMPTS = 10


@dataclass(slots=True)
class Appending:
    """What became of an import's rows. ``users``, ``items``: ids met, those of fenced rows left out."""

    rows: int = 0
    new: int = 0
    fenced: int = 0
    conflicts: int = 0
    users: set[str] = field(default_factory=set)
    items: set[str] = field(default_factory=set)


def append_batches(root: str, parts: Iterable[pa.Table], writer: str, unit: DateUnit, fence: Callable[[], Fence]) -> Appending:
    """Append rows of `schema.EVENTS` whose ids the lake lacks, one commit a batch; what the fence keeps out stays out.

    Args:
        fence: asked before each batch.
    Raises: NotReadyError: the store or the table cannot be had just now; what was appended stays.
    """
    done = Appending()
    appender, fresh = TableAppender(root, "events", writer, unit), StoredIds("event_id").fresh
    for rows in parts:
        kept = unfenced(rows, fence())
        new, conflicts = _append(appender, kept, fresh)
        done.rows += rows.num_rows
        done.new += new
        done.conflicts += conflicts
        done.fenced += rows.num_rows - kept.num_rows
        done.users.update(kept.column("user_id").unique().to_pylist())
        done.items.update(kept.column("item_id").unique().to_pylist())
        log.info("%s: %d events, %d new", writer, done.rows, done.new)
    return done


def append_letters(root: str, rows: pa.Table, writer: str, fence: Callable[[], Fence]) -> int:
    """Append the dead letters that the lake lacks; returns how many."""
    kept = unfenced_letters(rows, fence())
    return _append(TableAppender(root, "dead_letters", writer, DATES), kept, new_letters)[0] if kept.num_rows else 0


def merge_users(root: str, described: pa.Table | None, met: set[str]) -> int:
    """Put described users over the stored ones, and add those met without a description; returns how many there are.

    Without a change nothing is committed. Who is described and was not met stays out: the fence may want it so.
    """
    named = None if described is None else pl.DataFrame(described).filter(pl.col("user_id").is_in(list(met)))
    return _merge(root, "users", "user_id", named, sources.bare_users(sorted(met)), USERS)


def merge_items(root: str, described: pa.Table | None, met: set[str]) -> int:
    """Put described items over the stored ones, and add those met without a description; returns how many there are.

    Without a change nothing is committed.
    """
    named = None if described is None else pl.DataFrame(described)
    return _merge(root, "items", "item_id", named, sources.bare_items(sorted(met)), ITEMS)


def _merge(root: str, name: str, column: str, described: pl.DataFrame | None, bare: pa.Table, schema: pa.Schema) -> int:
    old = pl.DataFrame(check(tables.read(root, name).to_arrow(), schema, name)) if tables.exists(root, name) else None
    frames = [frame for frame in (described, old, pl.DataFrame(bare)) if frame is not None]
    merged = pl.concat(frames).unique(column, keep="first", maintain_order=True).sort(column)
    if old is None or tables.content_hash(old, [column]) != tables.content_hash(merged, [column]):
        tables.replace(root, name, merged.to_arrow().cast(schema))
    return merged.height


def _append(appender: TableAppender, rows: pa.Table, fresh: Fresh) -> tuple[int, int]:
    """Append under the next position of the writer: ids decide what is new, so that positions only have to grow."""
    for _ in range(_ATTEMPTS):
        position = appender.position() + 1
        try:
            appended = appender.append(rows, position, position, fresh, empty=False)
        except StaleWriterError:  # the same import runs a second time beside this one
            continue
        return appended.rows, appended.conflicts
    raise NotReadyError(
        "import: found another import of the same source between at each attempt; wait for it, then run this again"
    )
