"""From the bus to the online features: one partition of the events, one user view, one micro-batch after another.

A batch is read behind the stored position, added up, and written together with its own position: what is read again after a
crash is applied once. Unlike the sink it does not look for a repeated event everywhere: see `online.REMEMBERED`.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from reco_ray.config import DateUnit, FeaturesConfig, PipelineConfig
from reco_ray.events.bus import EVENTS, Reader, Record
from reco_ray.events.encoding import rows_to_table
from reco_ray.events.open import open_reader
from reco_ray.events.sink import decoded, unfenced
from reco_ray.features import transform
from reco_ray.features.items import ItemFacts
from reco_ray.features.online import UserState, add_item_events, add_user_events, unknown
from reco_ray.hashing import item_keys
from reco_ray.schema import EVENTS as EVENTS_SCHEMA
from reco_ray.store import FeatureStore, Fence, FenceStore, OnlineStore, pack_user

__all__ = ["Applied", "FeatureStream", "all_kept", "go_on_from", "open_stream", "reader_name"]


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of one round.

    Attributes:
        read, events: records, and events of them that changed a feature. users: whose rows were written.
        undecodable: records that are no events; the sink keeps them as dead letters.
        lag_s: age of the oldest record of the batch when its features could be read; 0 where nothing came.
        waiting: whether the view has no positions: it is being rebuilt, or was forgotten.
    """

    read: int = 0
    events: int = 0
    users: int = 0
    undecodable: int = 0
    lag_s: float = 0.0
    waiting: bool = False


class FeatureStream:
    """Applies one partition's events to one view.

    Args:
        reader: of the topic ``events``; the bus keeps what ``name`` has not committed.
        items: of the release whose catalogue the view is of.
        fence: who may not be written.
        rows, wait_s: of a batch: it has so many records at most, and waits so long for the first.
    """

    def __init__(
        self,
        reader: Reader,
        name: str,
        store: FeatureStore,
        items: ItemFacts,
        config: FeaturesConfig,
        partition: int,
        fence: Callable[[], Fence],
        *,
        rows: int = 2_000,
        wait_s: float = 0.5,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._reader, self._name, self._store, self._items, self._config = reader, name, store, items, config
        self._partition, self._fence, self._rows, self._wait_s, self._clock = partition, fence, rows, wait_s, clock

    def run_once(self) -> Applied:
        """Read a batch and apply it. After any error nothing is half applied: call again.

        Raises:
            NotReadyError: the bus or the store is away.
            StaleWriterError: another process applies this partition in our place.
            SchemaError: what is stored is of another version.
        """
        fence = self._fence()  # each round: an erasure waits until all have followed it
        before = self._store.position(self._partition)
        if before is None:
            return Applied(waiting=True)
        records = self._reader.read(before, self._rows, self._wait_s)
        if not records:
            return Applied()
        events, undecodable = self._events(records, fence)
        users, items, fresh = self._add(events)
        position, now_s = records[-1].position, self._clock()
        self._store.apply(self._partition, before, position, users, items, now_s)
        self._reader.commit(self._name, position)  # a hint: the store's word is what is read again from
        return Applied(len(records), fresh, len(users), undecodable, max(0.0, self._clock() - records[0].ts_ms / 1e3))

    def _events(self, records: list[Record], fence: Fence) -> tuple[pl.DataFrame, int]:
        table, bad = decoded(records, rows_to_table, DateUnit.day, EVENTS_SCHEMA)
        raw = pl.DataFrame(unfenced(table, fence)).with_columns(pl.col("bus_position").cast(pl.Int64))
        return transform.prepare(raw, self._config, ("event_id", "bus_position")), len(bad)

    def _add(self, events: pl.DataFrame) -> tuple[dict[str, tuple[bytes, bytes]], dict[bytes, bytes], int]:
        if events.is_empty():
            return {}, {}, 0
        packed = self._store.states(events["user_id"].unique().to_list())
        stored = {user: UserState.unpack(raw) for user, raw in packed.items()}
        fresh = unknown(events, stored)
        changed = add_user_events(fresh, stored, self._items, self._config)
        users = {user: (state.pack(), pack_user(row)) for user, (state, row) in changed.items()}
        ids = fresh["item_id"].unique().to_list()
        keys = dict(zip(ids, (key.tobytes() for key in item_keys(ids)), strict=True))
        sums = self._store.item_sums(self._partition, list(keys.values()))
        known = {item: sums[key] for item, key in keys.items() if key in sums}
        added = add_item_events(fresh, known, self._config)
        return users, {keys[item]: raw for item, raw in added.items()}, fresh.height


def reader_name(view: str) -> str:
    """Name under which a view's stream commits its position to the bus."""
    return f"features:{view}"


@contextlib.contextmanager
def all_kept(readers: Sequence[Reader], view: str) -> Iterator[None]:
    """Let the bus drop nothing more while a view is rebuilt, however far its streams had come and the sinks come meanwhile.

    Left by an error nothing is dropped until a rebuild of the view has ended.
    """
    name = f"{reader_name(view)}:rebuild"
    for reader in readers:
        reader.commit(name, -1)
    yield
    for reader in readers:
        reader.forget(name)


def go_on_from(readers: Sequence[Reader], view: str, positions: Mapping[int, int]) -> None:
    """Say that a view is applied up to these positions, which may lie before those of its last streams."""
    for partition, reader in enumerate(readers):
        reader.forget(reader_name(view))
        reader.commit(reader_name(view), positions[partition])


@contextlib.contextmanager
def open_stream(config: PipelineConfig, store_url: str, view: str, items: ItemFacts, partition: int) -> Iterator[FeatureStream]:
    """Open the stream of one partition into one view.

    Raises: NotReadyError: the bus or the store is away.
    """
    name = reader_name(view)
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(OnlineStore(store_url, config.store.namespace))
        features = FeatureStore(store, view, config.store.ttl_days * 86_400)
        reader = open_reader(config.events, config.store.namespace, store_url, EVENTS, partition)
        stack.callback(reader.close)
        fence = FenceStore(store, f"{name}:{partition}").read
        yield FeatureStream(reader, name, features, items, config.features, partition, fence)
