"""As much of HTTP/1.1 as a load generator needs: requests written once, answers cut out of what has arrived.

Pure functions over bytes, because a parser between the socket and the clock would be measured with the server.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

__all__ = ["Answer", "Malformed", "header", "parse", "write_request"]


class Malformed(ValueError):
    """What arrived is no HTTP/1.x answer."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """One whole answer; ``head`` is in lower case. ``reusable``: the connection may carry another request."""

    status: int
    head: bytes
    body: bytes
    reusable: bool


def write_request(url: str, body: str, headers: Sequence[str] = ()) -> bytes:
    """Write a POST of a JSON body.

    Args:
        headers: more lines, ``Name: value``.
    Raises: ValueError: a header has no colon, or holds a line break.
    """
    parts = urlsplit(url)
    for line in headers:
        if ":" not in line or "\r" in line or "\n" in line:
            raise ValueError(f"header: found {line!r}, expected 'Name: value'")
    payload = body.encode()
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"POST {path} HTTP/1.1", f"Host: {parts.netloc}", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(payload)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + payload


def parse(data: bytes, *, eof: bool = False) -> Answer | None:
    """Cut the answer out of what arrived so far; None while it is not whole.

    Args:
        eof: nothing more will come, which ends a body of unknown length (a proxy's error page).
    Raises: Malformed: this is no answer, and more bytes will not make it one.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if not b"HTTP/1.".startswith(data[:7]):
            raise Malformed(f"found {data[:20]!r}, expected an HTTP/1.x status line")
        return None
    head = data[:end].lower()
    if not head.startswith(b"http/1.") or not head[9:12].isdigit():
        raise Malformed(f"found {data[:20]!r}, expected an HTTP/1.x status line")
    status, start = int(head[9:12]), end + 4
    reusable = head.startswith(b"http/1.1") and header(head, b"connection") != b"close"
    length = header(head, b"content-length")
    body: bytes | None
    if status in (204, 304):
        body = b""
    elif header(head, b"transfer-encoding") == b"chunked":
        body = _chunks(data, start)
    elif length is None:
        body, reusable = (data[start:] if eof else None), False
    elif not length.isdigit():
        raise Malformed(f"content-length: found {length!r}, expected a number")
    else:
        body = data[start : start + int(length)] if len(data) - start >= int(length) else None
    return None if body is None else Answer(status, head, body, reusable)


def header(head: bytes, name: bytes) -> bytes | None:
    """Find a header in a head of lower case."""
    at = head.find(b"\r\n" + name + b":")
    if at < 0:
        return None
    at += len(name) + 3
    end = head.find(b"\r\n", at)
    return head[at : end if end >= 0 else None].strip()


def _chunks(data: bytes, at: int) -> bytes | None:
    parts: list[bytes] = []
    while (end := data.find(b"\r\n", at)) >= 0:
        try:
            size = int(data[at:end].split(b";", 1)[0], 16)
        except ValueError as exc:
            raise Malformed(f"chunk size: found {data[at:end]!r}, expected a hexadecimal number") from exc
        start, at = end + 2, end + 2 + size + 2
        if len(data) < at:
            return None
        if size == 0:
            return b"".join(parts)
        parts.append(data[start : start + size])
    return None
