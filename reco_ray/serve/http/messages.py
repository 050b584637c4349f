"""A request on its way in, a reply on its way out, as the handlers of calls see them."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from pydantic import BaseModel

from reco_ray.serve.http import problems
from reco_ray.serve.http.answers import Answer
from reco_ray.serve.http.contract import MAX_BODY_BYTES
from reco_ray.serve.http.problems import HttpProblem

__all__ = ["Handler", "Header", "Incoming", "Receive", "Reply", "query_of", "reply_of"]

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Header = tuple[bytes, bytes]

_JSON = b"application/json"


@dataclass(slots=True)
class Reply:
    """An answer on its way out."""

    status: int
    body: bytes
    headers: list[Header]
    media: bytes = _JSON
    answer: Answer | None = None


@dataclass(slots=True)
class Incoming:
    """A request on its way in.

    Attributes:
        tail: what stands for the path's parameter.
        key_id: of the API key that it came with; empty where none is asked for.
    """

    scope: MutableMapping[str, Any]
    headers: Mapping[bytes, bytes]
    request_id: str
    tail: str
    receive: Receive
    budget_s: float
    key_id: str = ""

    async def body(self) -> bytes:
        """Read the body, at most the limit.

        Raises: HttpProblem: too large; the rest is not read.
        """
        declared = self.headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
            raise problems.too_large()
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise HttpProblem("invalid-json", "the connection ended before the body did")
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise problems.too_large()
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)


Handler = Callable[[Incoming], Awaitable[Reply]]


def query_of(incoming: Incoming, names: Sequence[str]) -> dict[str, str]:
    """The parameters of a query; the last value of each.

    Raises: HttpProblem: one has another name.
    """
    query = parse_qs(incoming.scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    if unknown := sorted(set(query) - set(names)):
        *first, last = (f"'{name}'" for name in names)
        expected = f"{', '.join(first)} or {last}" if first else last
        errors = tuple((name, f"Unknown parameter; expected {expected}") for name in unknown)
        raise HttpProblem("invalid-request", f"{len(unknown)} parameter(s) cannot be used; see errors", errors)
    return {name: values[-1] for name, values in query.items()}


def reply_of(status: int, model: BaseModel) -> Reply:
    """Write a model, not to be kept."""
    return Reply(status, model.model_dump_json().encode(), [(b"cache-control", b"no-store")])
