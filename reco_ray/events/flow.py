"""Import raw data into the lake through Ray Data: read in blocks, admit each by the contract, append what is new, date by date.

It goes past the bus, in few large commits of its own, so that live events do not wait behind it.
"""

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import polars as pl
import pyarrow as pa
import ray

from reco_ray.config import PipelineConfig
from reco_ray.events.contract import Limits
from reco_ray.events.importing import append_batches, append_letters, merge_items, merge_users
from reco_ray.events.staging import Admission, Staged, batches, letters
from reco_ray.hashing import digest
from reco_ray.lake import sources, storage, tables
from reco_ray.store.fence import Fence

__all__ = ["ImportReport", "import_dataset"]

log = logging.getLogger(__name__)

_TASK_ROWS = 100_000
_BATCH_ROWS = 500_000  # of one commit; some 500 MB while it is sorted and written


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import found and changed.

    Attributes:
        events_read: rows of the source: in the lake now, ``refused`` by the contract, or ``fenced``, of users who were erased.
        dead_letters_new: refused rows that were not known before.
    """

    events_read: int
    events_new: int
    refused: int
    fenced: int
    dead_letters_new: int
    items: int
    users: int
    events_version: int
    items_version: int


def import_dataset(config: PipelineConfig, fence: Callable[[], Fence] = Fence) -> ImportReport:
    """Import the configured source; a second import of the same data changes nothing.

    Args:
        fence: reads the users whose events stay out.
    Raises:
        SchemaError: a column is missing.
        DataError: there is nothing, or the contract refuses too much of it; nothing was written.
        NotReadyError: the store or a table cannot be had just now; what was appended stays.
    """
    source, root, unit = config.source, config.root, config.lake.date_unit
    raw = sources.open_source(source)
    writer = f"import:{digest(raw.where, repr(source), str(config.seed))}"
    # no folder of this name, and no erasure begins: `privacy` waits until nobody works under tmp
    folder = storage.join(root, "tmp", f"import-{uuid.uuid4().hex[:12]}")
    limits = Limits(config.events.max_future_s)
    admission = Admission(raw.where, source, raw.columns, config.seed, unit, limits, time.time_ns() // 1000, folder)
    users = None if raw.users is None else sources.map_users(raw.users, source, raw.columns, config.seed, raw.where)
    items = None if raw.items is None else sources.map_items(raw.items, source, raw.columns, config.seed, raw.where)
    if isinstance(raw.events, str):
        # a missing column is found on the first rows, before Ray reads all of them
        head = sources.read_file(raw.events).head(1_000).collect()
        sources.map_events(head, source, raw.columns, config.seed, raw.where)
    try:
        staged = Staged.collect(_decide(_dataset(raw.events), admission))
        staged.check(raw.where, source.refused_share)
        done = append_batches(root, batches(staged, _BATCH_ROWS, bool(raw.columns.event_id)), writer, unit, fence)
        new_letters = append_letters(root, letters(staged), writer, fence)
    finally:
        storage.remove(folder)
    report = ImportReport(
        events_read=staged.rows + staged.refused,
        events_new=done.new,
        refused=staged.refused,
        fenced=done.fenced,
        dead_letters_new=new_letters,
        items=merge_items(root, items, done.items),
        users=merge_users(root, users, done.users),
        events_version=tables.version(root, "events"),
        items_version=tables.version(root, "items"),
    )
    log.info("imported %s: %s", raw.where, report)
    if staged.refused:
        log.warning("%s: %d rows refused, kept in %s", raw.where, staged.refused, tables.table_uri(root, "dead_letters"))
    return report


def _dataset(events: pl.DataFrame | str) -> ray.data.Dataset:
    if not isinstance(events, str):
        return ray.data.from_arrow([part.to_arrow() for part in events.iter_slices(_TASK_ROWS)])
    if events.endswith(".csv"):
        return ray.data.read_csv(events)
    if events.endswith((".parquet", ".pq")):
        return ray.data.read_parquet(events)
    return ray.data.read_json(events)


def _decide(dataset: ray.data.Dataset, admission: Admission) -> list[pa.Table]:
    blocks = dataset.map_batches(_task, batch_size=_TASK_ROWS, batch_format="pyarrow", fn_kwargs={"admission": admission})
    return list(blocks.iter_batches(batch_size=None, batch_format="pyarrow"))


def _task(batch: pa.Table, admission: Admission) -> pa.Table:
    return admission.decide(pl.DataFrame(batch))
