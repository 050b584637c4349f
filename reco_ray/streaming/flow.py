"""Fill the online features anew from the lake, by Ray Data: for a new view, for an emptied store, or to be sure.

The lake is read at one version, which knows the position that each partition's sink had reached; the streams go on from there.
The bus keeps what lies behind it, from before the lake is read.
"""

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import polars as pl
import pyarrow as pa
import ray
from deltalake import DeltaTable

from reco_ray.config import FeaturesConfig, PipelineConfig
from reco_ray.errors import ArtifactError
from reco_ray.events.bus import EVENTS, Reader, partition_of
from reco_ray.events.feed import writer_name
from reco_ray.events.open import open_reader
from reco_ray.features import Catalogue, transform, user_view_version
from reco_ray.features.items import ItemFacts
from reco_ray.features.online import add_user_events, pack_items, unknown
from reco_ray.features.sums import added_up, item_sums, shown_sums
from reco_ray.hashing import USER_BUCKETS, item_keys, user_digest
from reco_ray.lake import tables
from reco_ray.release import features_of, open_release, verify
from reco_ray.store import FeatureStore, FenceStore, OnlineStore, pack_user
from reco_ray.streaming.features import all_kept, go_on_from, reader_name

__all__ = ["Rebuilt", "forget_view", "rebuild"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild wrote.

    Attributes:
        view: version of the user view. lake_version: of the table of events that it read.
        positions: on the bus, from which the streams go on, by partition.
    """

    view: str
    lake_version: int
    users: int
    items: int
    positions: Mapping[int, int]
    seconds: float


@dataclass(frozen=True, slots=True)
class _Plan:
    root: str
    at: int
    store_url: str
    namespace: str
    ttl_s: int
    view: str
    items: ItemFacts
    config: FeaturesConfig
    positions: Mapping[int, int]


def rebuild(config: PipelineConfig, release: str, store_url: str) -> Rebuilt:
    """Fill the online store with the features that a release reads, and register its view with the streams.

    While it runs requests read the rows that were there before.

    Raises:
        ArtifactError: there is no such release, or it was made by a version of the code that computed other features.
        NotReadyError: the store or the bus is away. Started again it begins anew.
    """
    started = time.monotonic()
    folder = open_release(config.root, release)
    manifest, catalogue = verify(folder), Catalogue.load(folder)
    made_with = features_of(manifest)
    if (view := user_view_version(made_with, catalogue.categories)) != manifest.user_view:
        raise ArtifactError(
            f"release {release}: found user view {manifest.user_view}, expected {view}, which this code computes; "
            "publish a new release"
        )
    ttl_s = config.store.ttl_days * 86_400
    with (
        OnlineStore(store_url, config.store.namespace) as store,
        _readers(config, store_url) as readers,
        all_kept(readers, view),
    ):
        features = FeatureStore(store, view, ttl_s)
        features.begin_rebuild()
        table = DeltaTable(tables.table_uri(config.root, EVENTS))
        positions = {at: _position(table, at) for at in range(len(readers))}
        plan = _Plan(
            config.root,
            table.version(),
            store_url,
            config.store.namespace,
            ttl_s,
            view,
            catalogue.facts(),
            made_with,
            positions,
        )
        users, items = _fill(plan)
        go_on_from(readers, view, positions)
        of = {"root": config.root, "release": release, "features": asdict(made_with), "partitions": len(readers)}
        features.end_rebuild(items, positions, {**of, "made": time.time()})
    seconds = time.monotonic() - started
    log.info("features %s: %d users and %d items in the online store, %.1f s", view, users, len(items), seconds)
    return Rebuilt(view, plan.at, users, len(items), positions, seconds)


def forget_view(config: PipelineConfig, view: str, store_url: str) -> None:
    """Stop keeping a view up to date.

    Raises: NotReadyError: the store or the bus is away.
    """
    with OnlineStore(store_url, config.store.namespace) as store, _readers(config, store_url) as readers:
        FeatureStore(store, view, 1).forget()
        for reader in readers:
            reader.forget(reader_name(view))


def _fill(plan: _Plan) -> tuple[int, dict[bytes, bytes]]:
    """Write the users' states and rows; returns how many, and the packed sums of the items by key."""
    groups = ray.data.from_items([{"bucket": bucket} for bucket in range(USER_BUCKETS)], override_num_blocks=USER_BUCKETS)
    built = groups.map_batches(_task, batch_size=1, batch_format="pyarrow", fn_kwargs={"plan": plan}, zero_copy_batch=True)
    users, parts = 0, []
    for batch in built.iter_batches(batch_size=None, batch_format="pyarrow"):
        frame = pl.DataFrame(batch)
        users += int(frame.filter(pl.col("users") >= 0)["users"].sum())
        parts.append(frame.filter(pl.col("users") < 0))
    partials = pl.concat(parts).sort("bucket", maintain_order=True)
    item_ids = partials["item_id"].unique().sort()
    sums = added_up(partials, item_ids, plan.config)
    keys = (key.tobytes() for key in item_keys(item_ids))
    return users, dict(zip(keys, pack_items(sums), strict=True))


def _task(batch: pa.Table, plan: _Plan) -> pa.Table:
    """Write one bucket's users; returns a row with their number, then its items' sums, with -1 in its place."""
    bucket = int(batch.column("bucket")[0].as_py())
    columns = [*transform.EVENT_COLUMNS, "event_id"]
    raw = tables.read(plan.root, EVENTS, columns, pl.col("user_bucket") == bucket, plan.at)
    with OnlineStore(plan.store_url, plan.namespace) as store:
        raw = _unfenced(raw, store)
        ids = raw["user_id"].unique()
        at = pl.Series([plan.positions[partition_of(user, len(plan.positions))] for user in ids], dtype=pl.Int64)
        raw = raw.with_columns(pl.col("user_id").replace_strict(ids, at, return_dtype=pl.Int64).alias("bus_position"))
        events = unknown(transform.prepare(raw, plan.config, ("event_id", "bus_position")), {})
        made = add_user_events(events, {}, plan.items, plan.config)
        features = FeatureStore(store, plan.view, plan.ttl_s)
        written = features.write_users((user, state.pack(), pack_user(row)) for user, (state, row) in made.items())
    sums = pl.concat([item_sums(events, plan.config), shown_sums(transform.shown(raw), plan.config)])
    partials = sums.with_columns(users=pl.lit(-1), bucket=pl.lit(bucket))
    count = pl.DataFrame({"users": [written], "bucket": [bucket]}, schema={"users": pl.Int32, "bucket": pl.Int32})
    return pl.concat([partials, count], how="diagonal_relaxed").to_arrow()


def _unfenced(raw: pl.DataFrame, store: OnlineStore) -> pl.DataFrame:
    """Leave out users who are being erased; what was erased before is not in the lake any more."""
    fence = FenceStore(store).read()
    if not any(not entry.done for entry in fence.entries.values()):
        return raw
    ids = raw["user_id"].unique()
    gone = ids.filter(pl.Series([fence.running(user_digest(user)) for user in ids], dtype=pl.Boolean))
    return raw.filter(~pl.col("user_id").is_in(gone.implode()))


def _position(table: DeltaTable, partition: int) -> int:
    found = table.transaction_version(writer_name(EVENTS, partition))
    return -1 if found is None else int(found)


@contextlib.contextmanager
def _readers(config: PipelineConfig, store_url: str) -> Iterator[list[Reader]]:
    with contextlib.ExitStack() as stack:
        readers = []
        for partition in range(config.events.bus.partitions):
            readers.append(open_reader(config.events, config.store.namespace, store_url, EVENTS, partition))
            stack.callback(readers[-1].close)
        yield readers
