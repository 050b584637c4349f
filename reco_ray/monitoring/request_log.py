"""The request log: one JSON line per answered request, without users and items, written off the request path."""

import asyncio
import logging
from collections.abc import Mapping
from logging.handlers import RotatingFileHandler
from pathlib import Path

import orjson

__all__ = ["RequestLog"]

_MOST_WAITING = 20_000
_FILE_BYTES = 64 * 2**20


class RequestLog:
    """Collects lines and writes them in a thread every half second.

    When the disk cannot follow, lines are dropped and counted in the next one that is written: a log may not fill the memory.

    Args:
        file: rotated at 64 MiB, three are kept; a folder that log shippers read.
    """

    def __init__(self, file: Path) -> None:
        self._handler = RotatingFileHandler(file, maxBytes=_FILE_BYTES, backupCount=2, delay=True)
        self._waiting: list[bytes] = []
        self._dropped = 0

    def add(self, fields: Mapping[str, object]) -> None:
        """Add a line."""
        if len(self._waiting) >= _MOST_WAITING:
            self._dropped += 1
            return
        self._waiting.append(orjson.dumps(fields))

    async def run(self) -> None:
        """Write until cancelled; no error ends it."""
        while True:
            await asyncio.sleep(0.5)
            await asyncio.to_thread(self.flush)

    def flush(self) -> None:
        """Write what waits."""
        lines, self._waiting = self._waiting, []
        if self._dropped:
            lines.append(orjson.dumps({"dropped": self._dropped}))
            self._dropped = 0
        if lines:
            text = b"\n".join(lines).decode()
            self._handler.emit(logging.LogRecord("request", logging.INFO, "", 0, text, None, None))

    def close(self) -> None:
        """Write what waits, and close the file."""
        self.flush()
        self._handler.close()
