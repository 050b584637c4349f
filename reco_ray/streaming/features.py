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
from reco_ray.features.online import UserState, add_item_events, add_user_events, unknown, unshown
from reco_ray.hashing import item_keys
from reco_ray.schema import EVENTS as EVENTS_SCHEMA
from reco_ray.store import Change, FeatureStore, Fence, FenceStore, OnlineStore, pack_user

__all__ = ["Applied", "FeatureStream", "all_kept", "go_on_from", "open_stream", "reader_name"]


_TELL_S = 1.0  # between words that nothing waits


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
        self._told_s = 0.0

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
        now_s = self._clock()
        records = self._reader.read(before, self._rows, self._wait_s)
        if not records:
            if now_s - self._told_s >= _TELL_S:
                self._store.caught_up(self._partition, now_s)
                self._told_s = now_s
            return Applied()
        raw, undecodable = self._decoded(records, fence)
        change, fresh = self._add(raw)
        position = records[-1].position
        self._store.apply(self._partition, before, position, change, records[-1].ts_ms / 1e3, self._clock())
        self._reader.commit(self._name, position)  # a hint: the store's word is what is read again from
        return Applied(len(records), fresh, len(change.users), undecodable, max(0.0, self._clock() - records[0].ts_ms / 1e3))

    def _decoded(self, records: list[Record], fence: Fence) -> tuple[pl.DataFrame, int]:
        table, bad = decoded(records, rows_to_table, DateUnit.day, EVENTS_SCHEMA)
        return pl.DataFrame(unfenced(table, fence)).with_columns(pl.col("bus_position").cast(pl.Int64)), len(bad)

    def _add(self, raw: pl.DataFrame) -> tuple[Change, int]:
        events, shown = transform.prepare(raw, self._config, ("event_id", "bus_position")), transform.shown(raw)
        shown_before = self._store.shown(self._partition) if shown.height else b""
        shown, shown_ids = unshown(shown, shown_before)
        if events.is_empty() and shown.is_empty():
            return Change({}, {}, b""), 0
        packed = self._store.states(events["user_id"].unique().to_list())
        stored = {user: UserState.unpack(raw) for user, raw in packed.items()}
        fresh = unknown(events, stored)
        changed = add_user_events(fresh, stored, self._items, self._config)
        users = {user: (state.pack(), pack_user(row)) for user, (state, row) in changed.items()}
        ids = pl.concat([fresh["item_id"], shown["item_id"]]).unique().to_list()
        keys = dict(zip(ids, (key.tobytes() for key in item_keys(ids)), strict=True))
        sums = self._store.item_sums(self._partition, list(keys.values()))
        known = {item: sums[key] for item, key in keys.items() if key in sums}
        added = add_item_events(fresh, shown, known, stored, self._config)
        return Change(users, {keys[item]: value for item, value in added.items()}, shown_ids), fresh.height + shown.height


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
