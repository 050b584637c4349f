"""The sink: records of one partition of the bus come in, rows of the lake go out, each once.

Where it has come to is what the lake says (`lake.appending`), and never what the bus says: a sink that is killed anywhere goes
on behind the last batch that was committed, and one that lost its place to another is refused by the lake and looks again.
"""

import base64
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from reco_ray.config import DateUnit
from reco_ray.errors import DataError, NotReadyError
from reco_ray.events.bus import LAKE, Reader, Record
from reco_ray.hashing import user_digest
from reco_ray.lake.appending import TableAppender
from reco_ray.lake.ids import Fresh
from reco_ray.store.fence import Fence

__all__ = ["Batch", "Decode", "Sink", "decoded", "unfenced"]

log = logging.getLogger(__name__)

Decode = Callable[[Sequence[Record], DateUnit], pa.Table]
"""Turns records of the bus into rows of the table; raises whatever it likes on a record that cannot be."""

_CHUNK = 5_000  # records of one read: more of them would hold up the bus's other clients


@dataclass(frozen=True, slots=True)
class Batch:
    """What one run did.

    Attributes:
        read: records; each became a row, or is among ``duplicates``, ``fenced`` or ``undecodable``.
        conflicts: commits of others between.
        lag_age_s: age of the last record read, where more may wait behind it; 0 where the partition was read to its end.
        newest_us: latest event time of the rows read, microseconds since 1970.
        decode_s, append_s: where the time went; the rest was waiting for records.
    """

    read: int = 0
    rows: int = 0
    duplicates: int = 0
    fenced: int = 0
    undecodable: int = 0
    conflicts: int = 0
    lag_age_s: float = 0.0
    newest_us: int = 0
    read_s: float = 0.0
    decode_s: float = 0.0
    append_s: float = 0.0


class Sink:
    """Moves one partition of one topic into its table.

    Args:
        fresh: leaves out what the lake holds; none stores what comes.
        fence: reads whose records are dropped. Called after the records of a batch were read, and before anything is done with
            them, so that a batch committed after its next call obeyed what this one said.
        refuse: appends dead letters, durable when it returns.
        rows, interval_s: a batch is written when it has so many records or its first one has waited so long.
    """

    def __init__(
        self,
        reader: Reader,
        appender: TableAppender,
        decode: Decode,
        unit: DateUnit,
        *,
        fresh: Fresh | None,
        fence: Callable[[], Fence],
        refuse: Callable[[Sequence[bytes]], None],
        rows: int = 50_000,
        interval_s: float = 1.0,
        stop: threading.Event | None = None,
    ) -> None:
        self._reader, self._appender, self._decode, self._unit = reader, appender, decode, unit
        self._fresh, self._fence, self._refuse = fresh, fence, refuse
        self._rows, self._interval_s = rows, interval_s
        self._stop = stop or threading.Event()
        self._position: int | None = None

    def run_once(self) -> Batch:
        """Read a batch and commit it; returns an empty one where none came within the interval.

        After any error nothing is lost or half done: call again.

        Raises:
            NotReadyError: the bus, the store or the table cannot be had just now.
            StaleWriterError: another process writes in our place.
            DataError: the bus is not the one that the lake's position is of.
        """
        if self._position is None:
            self._position = self._look()
        position, self._position = self._position, None  # stays so after an error
        started = time.monotonic()
        records = self._collect(position)
        fence = self._fence()
        if not records:
            self._position = position
            return Batch()
        read_at = time.monotonic()
        rows, bad = decoded(records, self._decode, self._unit, self._appender.schema)
        newest_us = _microseconds(pc.max(rows.column("ts"))) if rows.num_rows else 0
        wanted = unfenced(rows, fence)
        decoded_at = time.monotonic()
        if bad:
            self._refuse([_dead_letter(record, exc) for record, exc in bad])
        first, last = records[0].position, records[-1].position
        appended = self._appender.append(wanted, first, last, self._fresh)
        done = time.monotonic()
        self._position = last
        self._tell(last)
        return Batch(
            read=len(records),
            rows=appended.rows,
            duplicates=wanted.num_rows - appended.rows,
            fenced=rows.num_rows - wanted.num_rows,
            undecodable=len(bad),
            conflicts=appended.conflicts,
            lag_age_s=max(0.0, time.time() - records[-1].ts_ms / 1e3) if len(records) >= self._rows else 0.0,
            newest_us=newest_us,
            read_s=read_at - started,
            decode_s=decoded_at - read_at,
            append_s=done - decoded_at,
        )

    def _look(self) -> int:
        """Ask the lake how far we came.

        Raises: DataError: the bus has never been so far: it is another one, or it was set up anew.
        """
        position = self._appender.position()
        newest = self._reader.newest()
        if -1 < newest < position:
            raise DataError(
                f"bus: found position {newest} as its newest, expected {position} or later, where the lake stands; "
                "the bus was set up anew: give it another store.namespace"
            )
        self._tell(position)
        return position

    def _tell(self, position: int) -> None:
        """Say how far we are; the bus keeps what is behind it. A hint that the next batch gives again."""
        try:
            self._reader.commit(LAKE, position)
        except NotReadyError as exc:
            log.info("the bus was not told of position %d: %s", position, exc)

    def _collect(self, after: int) -> list[Record]:
        """Read until the batch is full or its first record has waited for the interval."""
        records = self._reader.read(after, min(_CHUNK, self._rows), self._interval_s)
        deadline = time.monotonic() + self._interval_s
        fetched = len(records)
        while records and len(records) < self._rows:
            left = deadline - time.monotonic()
            if left <= 0 or self._stop.is_set():
                break
            if fetched < _CHUNK // 10:  # a trickle: come back for more of it at once
                self._stop.wait(min(left, self._interval_s / 10))
            more = self._reader.read(records[-1].position, min(_CHUNK, self._rows - len(records)), max(0.0, left))
            fetched = len(more)
            records += more
        return records


def decoded(
    records: Sequence[Record], decode: Decode, unit: DateUnit, schema: pa.Schema
) -> tuple[pa.Table, list[tuple[Record, Exception]]]:
    """Decode all records; where that fails, halves, until those that cannot be are alone."""
    tables: list[pa.Table] = []
    bad: list[tuple[Record, Exception]] = []
    waiting = [records]
    while waiting:
        part = waiting.pop()
        try:
            tables.append(decode(part, unit))
        except Exception as exc:  # whatever it is, the partition must not stand still behind it
            if len(part) == 1:
                bad.append((part[0], exc))
            else:
                waiting += [part[len(part) // 2 :], part[: len(part) // 2]]
    return pa.concat_tables(tables or [schema.empty_table()]), bad


def unfenced(rows: pa.Table, fence: Fence) -> pa.Table:
    """Leave out the rows of users whom the fence keeps out; columns user_id, ts and received_ts, and others."""
    if not fence.entries or not rows.num_rows:
        return rows
    users = pc.unique(rows.column("user_id")).to_pylist()
    fenced = {user: digest for user in users if (digest := user_digest(user)) in fence.entries}
    if not fenced:
        return rows
    times = (rows.column(name).cast(pa.int64()).to_pylist() for name in ("ts", "received_ts"))
    keep = [
        user not in fenced or not fence.drops(fenced[user], ts_us, received_us)
        for user, ts_us, received_us in zip(rows.column("user_id").to_pylist(), *times, strict=True)
    ]
    return rows.filter(pa.array(keep))


def _dead_letter(record: Record, exc: Exception) -> bytes:
    # the kind of the error and no more: its message may quote what somebody wrote
    return orjson.dumps(
        {
            "reason": "undecodable",
            "detail": type(exc).__name__,
            "received_us": record.ts_ms * 1000,
            "raw_b64": base64.b64encode(record.value).decode(),
            "user_digest": _user(record.value),
        }
    )


def _user(value: bytes) -> str | None:
    """Digest of the record's user, so that an erasure finds the letter; None where none can be read."""
    try:
        user_id = orjson.loads(value)["user_id"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return user_digest(user_id) if isinstance(user_id, str) and user_id else None


def _microseconds(ts: pa.Scalar) -> int:
    return int(ts.cast(pa.int64()).as_py() or 0)
