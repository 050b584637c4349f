"""A client of ``POST /v1/events``: for applications that send events, and for tools.

    with EventClient("https://reco.example", key) as events:
        events.send({"type": "click", "user_id": "42", "item_id": "7", "request_id": request_id})

Events get ids when they are handed over, and a batch that fails in whatever way is sent again with the same ids, so that each
is stored once. Nothing is dropped: a full queue holds up or refuses who sends, rejections go to a callback, and
`EventClient.close` raises `Undelivered` with what is left. Imports nothing heavier than httpx and NumPy.
"""

import atexit
import contextlib
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import httpx
import orjson

from reco_ray.errors import ConfigError, DataError, NotReadyError, RecoError
from reco_ray.events.delivery import Answered, Delivery, Rejection, new_event_id

__all__ = ["ClientStats", "EventClient", "QueueFull", "Rejection", "Undelivered"]

log = logging.getLogger(__name__)

MAX_BATCH_BYTES = 2**20 - 64  # the gateway's limit for a body, less what is around the events
MAX_BATCH = 1_000
_AT_EXIT_S = 5.0


class QueueFull(NotReadyError):
    """The queue is full, and who sends did not want to wait, or not longer; the event was not taken."""


class Undelivered(NotReadyError):
    """Some events were not acknowledged. They may or may not have arrived; with the ids they have, sending them again is safe.

    Attributes:
        events: JSON of each, in order.
        spooled: file they were written to; None where no file was asked for.
    """

    def __init__(self, events: Sequence[bytes], reason: str, spooled: Path | None = None) -> None:
        self.events, self.spooled = list(events), spooled
        where = f"they are in {spooled}" if spooled else "Undelivered.spool(file) keeps them"
        super().__init__(
            f"found {len(events)} events not acknowledged ({reason}), expected none; {where}, "
            "and `reco events send FILE` sends them again with the same ids"
        )

    @property
    def count(self) -> int:
        """How many."""
        return len(self.events)

    def spool(self, file: Path) -> None:
        """Append them to a file, one JSON object a line."""
        _spool(self.events, file)


@dataclass(frozen=True, slots=True)
class ClientStats:
    """Counts since the start. ``retries``: batches sent once more; ``waiting``: events not acknowledged yet."""

    accepted: int
    duplicates: int
    rejected: int
    retries: int
    waiting: int


class EventClient:
    """Sends events from any number of threads, in order, by one thread of its own.

    A batch leaves when it is full or its oldest event has waited for ``interval_s``. Where the gateway is away or refuses for
    a while (`delivery.RETRIED`) the batch is sent again, for as long as it takes. An answer that no retry can change, such as
    401, ends sending: each later call raises it, and what waits can be had from `close`.

    Args:
        url: of the gateway, ``https://host:port``.
        key: with the scope ``events``; empty where the gateway asks for none.
        batch: events of a request at most.
        queue: events that may wait to be acknowledged.
        block: whether `send` waits while the queue is full, or raises `QueueFull`.
        on_rejected: called, on the sending thread, with each event that the gateway rejected. By default they are logged by
            reason, without ids.
        spool: file that `close` appends undelivered events to.
        timeout_s: of one request.
        backoff_s: before the first retry; doubles up to 30 s, and jitter makes it shorter.
        transport: of httpx, for tests.
    """

    def __init__(
        self,
        url: str,
        key: str = "",
        *,
        batch: int = 100,
        interval_s: float = 0.2,
        queue: int = 10_000,
        block: bool = True,
        on_rejected: Callable[[Rejection], None] | None = None,
        spool: Path | None = None,
        timeout_s: float = 10.0,
        backoff_s: float = 0.1,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        if not 1 <= batch <= MAX_BATCH or queue < batch:
            raise ConfigError(
                f"batch, queue: found {batch}, {queue}, expected 1 to {MAX_BATCH}, and a queue that holds a batch"
            )
        self._batch, self._interval_s, self._queue, self._block = batch, interval_s, queue, block
        self._on_rejected, self._spool_file = on_rejected or _log_rejection, spool
        self._delivery = Delivery(url, key, timeout_s=timeout_s, backoff_s=backoff_s, transport=transport, rng=random.Random())
        self._changed = threading.Condition()
        self._waiting: deque[tuple[bytes, float]] = deque()  # JSON, since when; a batch leaves it once acknowledged
        self._hurry = 0  # callers of `flush` that wait
        self._closing, self._closed = False, False
        self._failed: RecoError | None = None
        self._accepted, self._duplicates, self._rejected = 0, 0, 0
        self._thread = threading.Thread(target=self._run, name="event-client", daemon=True)
        self._thread.start()
        atexit.register(self._at_exit)

    def __enter__(self) -> "EventClient":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if value is None:
            self.close()
            return
        try:
            self.close()
        except Undelivered as exc:  # must not hide what went wrong inside
            log.error("%s", exc)

    @property
    def stats(self) -> ClientStats:
        """What was sent so far."""
        with self._changed:
            return ClientStats(self._accepted, self._duplicates, self._rejected, self._delivery.retries, len(self._waiting))

    def send(self, event: Mapping[str, object], *, wait_s: float | None = None) -> str:
        """Hand over one event; returns its id, which is made unless it has one. ``ts`` is now unless it is given.

        Args:
            wait_s: for room in the queue; None waits for as long as it takes.
        Raises:
            QueueFull: no room. DataError: it is no JSON, has an id that is none, or exceeds a request.
            NotReadyError: the client is closed, or sending has ended for good.
        """
        event_id = event.get("event_id") or new_event_id()
        if not isinstance(event_id, str):
            raise DataError(f"event_id: found {type(event_id).__name__}, expected text; leave it out to have one made")
        try:
            raw = orjson.dumps({"ts": time.time_ns() // 1000, **event, "event_id": event_id})
        except (TypeError, orjson.JSONEncodeError) as exc:
            raise DataError(f"found an event that is no JSON: {exc}; give text, numbers, booleans, lists and objects") from exc
        if len(raw) > MAX_BATCH_BYTES:
            raise DataError(f"found an event of {len(raw)} bytes, expected at most {MAX_BATCH_BYTES}; send less in it")
        with self._changed:
            until = time.monotonic() + wait_s if wait_s is not None else float("inf")
            while True:
                self._check_open()
                if len(self._waiting) < self._queue:
                    break
                left = until - time.monotonic()
                if not self._block or left <= 0:
                    raise QueueFull(
                        f"found {len(self._waiting)} events waiting, expected fewer than {self._queue}; send it later"
                    )
                self._changed.wait(min(left, 3600.0))
            self._waiting.append((raw, time.monotonic()))
            if len(self._waiting) in (1, self._batch):
                self._changed.notify_all()
        return event_id

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until all events handed over so far are acknowledged; batches leave at once meanwhile.

        Raises: NotReadyError: they are not, within ``timeout_s``, and stay queued; or sending has ended for good.
        """
        until = time.monotonic() + timeout_s
        with self._changed:
            target = self._delivered() + len(self._waiting)
            self._hurry += 1
            self._changed.notify_all()
            try:
                while self._delivered() < target:
                    if self._failed is not None:
                        raise self._failed
                    if self._closed:
                        raise _closed()
                    if (left := until - time.monotonic()) <= 0:
                        raise NotReadyError(
                            f"found {target - self._delivered()} events not acknowledged after {timeout_s:g} s, expected none; "
                            f"they stay queued ({self._delivery.trouble or 'the gateway is slow'})"
                        )
                    self._changed.wait(left)
            finally:
                self._hurry -= 1

    def close(self, timeout_s: float = 30.0) -> None:
        """Send what waits for up to ``timeout_s``, wait for a request that is under way then, and end. Again does nothing.

        Raises: Undelivered: some events were not acknowledged; written to the spool file where one was given.
        """
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify_all()
        atexit.unregister(self._at_exit)
        with contextlib.suppress(RecoError):
            self.flush(timeout_s)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._delivery.stop()
        self._thread.join()
        if left := [raw for raw, _ in self._waiting]:
            reason = str(self._failed or self._delivery.trouble or "the gateway was slow")
            if self._spool_file is not None:
                _spool(left, self._spool_file)
            raise Undelivered(left, reason, self._spool_file)

    def _at_exit(self) -> None:
        try:
            self.close(_AT_EXIT_S)
        except Undelivered as exc:
            log.error("the process ends without EventClient.close: %s", exc)

    def _check_open(self) -> None:
        if self._failed is not None:
            raise self._failed
        if self._closing:
            raise _closed()

    def _delivered(self) -> int:
        return self._accepted + self._duplicates + self._rejected

    def _run(self) -> None:
        try:
            while (batch := self._next()) is not None:
                if (answered := self._delivery.deliver(batch)) is None:  # closed while it waited
                    break
                self._acknowledge(answered)
        except Exception as exc:
            log.error("events are not sent any more: %s", exc)
            with self._changed:
                self._failed = exc if isinstance(exc, RecoError) else NotReadyError(f"sending failed: {exc!r}; report it")
                self._changed.notify_all()
        finally:
            self._delivery.close()

    def _next(self) -> list[bytes] | None:
        """Wait for a batch to be due; None when the client is closed."""
        with self._changed:
            while not self._closed:
                if self._waiting:
                    due = self._waiting[0][1] + self._interval_s - time.monotonic()
                    if len(self._waiting) >= self._batch or due <= 0 or self._hurry or self._closing:
                        return self._take()
                    self._changed.wait(due)
                else:
                    self._changed.wait()
            return None

    def _take(self) -> list[bytes]:
        """Copy the oldest events, as many as a request may hold."""
        batch: list[bytes] = []
        size = 0
        for raw, _ in self._waiting:
            size += len(raw) + 1
            if len(batch) == self._batch or (batch and size > MAX_BATCH_BYTES):
                break
            batch.append(raw)
        return batch

    def _acknowledge(self, answered: Answered) -> None:
        for rejection in answered.rejections:  # before they count as delivered: who flushes has heard of them all
            try:
                self._on_rejected(rejection)
            except Exception:
                log.exception("on_rejected failed")
        with self._changed:
            for _ in range(answered.total):
                self._waiting.popleft()
            self._accepted += answered.accepted
            self._duplicates += answered.duplicates
            self._rejected += len(answered.rejections)
            self._changed.notify_all()


def _closed() -> NotReadyError:
    return NotReadyError("found the event client closed, expected it open; make another one")


def _log_rejection(rejection: Rejection) -> None:
    log.warning("the gateway rejected an event: %s", rejection.reason)


def _spool(events: Sequence[bytes], file: Path) -> None:
    with file.open("ab") as out:
        out.writelines(raw + b"\n" for raw in events)
