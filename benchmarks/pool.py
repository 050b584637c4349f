"""Keep-alive connections of one load: bare protocols on the event loop, no task and no future per request."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

from http1 import Answer, Malformed, parse

__all__ = ["Pending", "Pool"]

_EXPIRY_TICK_S = 0.05


class Pending:
    """A request that was not answered yet. ``intended``: when it was meant to leave, on `time.perf_counter`'s clock."""

    __slots__ = ("intended", "payload", "then")

    def __init__(self, intended: float, payload: bytes, then: Callable[[str], None] | None = None) -> None:
        self.intended, self.payload, self.then = intended, payload, then


class Pool:
    """Sends each request over an idle connection, or over a new one up to ``limit``, or when one becomes idle.

    Every request that was offered ends exactly once, by ``finish(pending, kind, answer)``: ``kind`` is the status, or
    "reset", "refused", "unreachable", "timeout", "malformed". Nothing is sent twice: what a retry would hide is counted.
    """

    def __init__(self, url: str, limit: int, timeout_s: float, finish: Callable[[Pending, str, Answer | None], None]) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url: found {url!r}, expected http://HOST:PORT/PATH")
        self._tls = parts.scheme == "https" or None
        self._host, self._port = parts.hostname, parts.port or (443 if self._tls else 80)
        self._limit, self.timeout_s, self._finish = limit, timeout_s, finish
        self._loop = asyncio.get_running_loop()
        self._idle: list[_Connection] = []
        self._waiting: deque[Pending] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._all: set[_Connection] = set()
        self._tick: asyncio.TimerHandle | None = None
        self._closed = False
        self._outstanding = 0
        self._settled = asyncio.Event()
        self.opened = self.waited = self.most = 0

    def offer(self, pending: Pending) -> None:
        """Send a request as soon as a connection is there."""
        self._outstanding += 1
        if self._idle:
            self._idle.pop().send(pending)
            return
        self.waited += 1
        self._waiting.append(pending)
        self._grow()
        if self._tick is None:
            self._tick = self._loop.call_later(_EXPIRY_TICK_S, self._expire)

    async def settle(self) -> None:
        """Wait until every request has ended; at most ``timeout_s``, which ends them all."""
        while self._outstanding:
            self._settled.clear()
            await self._settled.wait()

    def close(self) -> None:
        """Close all connections."""
        self._closed = True
        if self._tick is not None:
            self._tick.cancel()
        for task in self._opening:
            task.cancel()
        for connection in self._all:
            connection.abort()

    def end(self, pending: Pending, kind: str, answer: Answer | None = None) -> None:
        """A request has ended."""
        self._outstanding -= 1
        self._finish(pending, kind, answer)
        if pending.then is not None:
            pending.then(kind)
        if not self._outstanding:
            self._settled.set()

    def free(self, connection: "_Connection") -> None:
        """A connection can carry a request."""
        now = time.perf_counter()
        while self._waiting:
            pending = self._waiting.popleft()
            if pending.intended + self.timeout_s > now:
                connection.send(pending)
                return
            self.end(pending, "timeout")
        self._idle.append(connection)

    def up(self, connection: "_Connection") -> None:
        """A connection is open."""
        if self._closed:
            connection.abort()
            return
        self._all.add(connection)
        self.opened, self.most = self.opened + 1, max(self.most, len(self._all))
        self.free(connection)

    def down(self, connection: "_Connection") -> None:
        """A connection is gone."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._grow()

    def _grow(self) -> None:
        while (
            not self._closed and len(self._opening) < len(self._waiting) and len(self._opening) + len(self._all) < self._limit
        ):
            task = self._loop.create_task(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        self._grow()

    async def _open(self) -> None:
        try:
            async with asyncio.timeout(self.timeout_s):
                await self._loop.create_connection(lambda: _Connection(self), self._host, self._port, ssl=self._tls)
        except TimeoutError:
            kind = "timeout"
        except ConnectionRefusedError:
            kind = "refused"
        except ConnectionResetError:
            kind = "reset"
        except OSError:
            kind = "unreachable"
        else:
            return
        if self._waiting:  # whoever waits longest learns it: one attempt, one failure
            self.end(self._waiting.popleft(), kind)

    def _expire(self) -> None:
        now = time.perf_counter()
        while self._waiting and self._waiting[0].intended + self.timeout_s <= now:
            self.end(self._waiting.popleft(), "timeout")
        self._tick = self._loop.call_later(_EXPIRY_TICK_S, self._expire) if self._waiting else None


class _Connection(asyncio.Protocol):
    __slots__ = ("_data", "_pending", "_pool", "_timer", "_transport")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._data = b""
        self._pending: Pending | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def send(self, pending: Pending) -> None:
        assert self._transport is not None
        self._pending, self._data = pending, b""
        left = pending.intended + self._pool.timeout_s - time.perf_counter()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, left), self._late)
        self._transport.write(pending.payload)

    def abort(self) -> None:
        assert self._transport is not None
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not one by inheritance
        self._pool.up(self)

    def data_received(self, data: bytes) -> None:
        self._data = self._data + data if self._data else data
        self._parse(eof=False)

    def eof_received(self) -> None:
        self._parse(eof=True)  # and the transport closes itself

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("reset", None)
        self._pool.down(self)

    def _parse(self, *, eof: bool) -> None:
        if self._pending is None:
            return
        try:
            answer = parse(self._data, eof=eof)
        except Malformed:
            self._end("malformed", None)
            self.abort()
            return
        if answer is None:
            return
        pending, self._pending, self._data = self._pending, None, b""
        if self._timer is not None:
            self._timer.cancel()
        if answer.reusable and not eof:
            self._pool.free(self)
        elif self._transport is not None:
            self._transport.close()
        self._pool.end(pending, str(answer.status), answer)

    def _late(self) -> None:
        self._end("timeout", None)
        self.abort()

    def _end(self, kind: str, answer: Answer | None) -> None:
        pending, self._pending = self._pending, None
        if self._timer is not None:
            self._timer.cancel()
        if pending is not None:
            self._pool.end(pending, kind, answer)
