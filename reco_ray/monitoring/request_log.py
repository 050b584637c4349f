"""The request log: one JSON line per answered request, without users and items, written off the request path."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from logging.handlers import RotatingFileHandler
from pathlib import Path

import orjson

__all__ = ["RequestLog"]

log = logging.getLogger(__name__)

_MOST_WAITING = 20_000
_FILE_BYTES = 64 * 2**20


class _File(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        raise  # called while the error is handled; logging would print it twice a second


class RequestLog:
    """Collects lines and writes them in a thread every half second; ``dropped`` counts those that no line has told of yet.

    When the disk is full or cannot follow, lines are dropped and counted in the next one that is written: a log may neither
    fill the memory nor hold up answers. A failure is said once, until writing works again.

    Args:
        file: rotated at 64 MiB, three are kept; a folder that log shippers read.
    """

    def __init__(self, file: Path) -> None:
        self._handler = _File(file, maxBytes=_FILE_BYTES, backupCount=2, delay=True)
        self._waiting: list[bytes] = []
        self.dropped = 0
        self._works = True

    def add(self, fields: Mapping[str, object]) -> None:
        """Add a line."""
        if len(self._waiting) >= _MOST_WAITING:
            self.dropped += 1
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
        told = self.dropped
        said = [*lines, orjson.dumps({"dropped": told})] if told else lines
        if not said:
            return
        text = b"\n".join(said).decode()
        try:
            self._handler.emit(logging.LogRecord("request", logging.INFO, "", 0, text, None, None))
        except OSError as exc:
            self.dropped += len(lines)
            if self._works:
                log.warning("the request log cannot be written: %s; lines are dropped and counted until it can", exc)
            self._works = False
            with contextlib.suppress(OSError):
                self._handler.close()  # and what it still holds: the next line opens the file anew
        else:
            self.dropped -= told
            self._works = True

    def close(self) -> None:
        """Write what waits, and close the file."""
        self.flush()
        self._handler.close()
