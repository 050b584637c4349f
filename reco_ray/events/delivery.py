"""One batch to the gateway and back, again until it is answered; the part of `client` that speaks HTTP."""

import random
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
import orjson

from reco_ray.errors import ConfigError

__all__ = ["RETRIED", "Answered", "Delivery", "Rejection", "new_event_id", "pause_s"]

RETRIED = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Statuses after which the same batch may do better."""

_MAX_BACKOFF_S = 30.0
_MAX_RETRY_AFTER_S = 300.0


@dataclass(frozen=True, slots=True)
class Rejection:
    """An event that the gateway will not take however often it is sent; ``event`` is its JSON."""

    event_id: str
    reason: str
    detail: str
    event: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of a batch."""

    accepted: int
    duplicates: int
    rejections: tuple[Rejection, ...]

    @property
    def total(self) -> int:
        """Events of the batch."""
        return self.accepted + self.duplicates + len(self.rejections)


class Delivery:
    """Delivers batches, one at a time, on one thread.

    Attributes:
        retries: batches sent once more so far.
        trouble: why the batch under way is not delivered yet; empty when it is.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout_s: float,
        backoff_s: float,
        transport: httpx.BaseTransport | None,
        rng: random.Random,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"url: found {url!r}, expected http://HOST:PORT or https://HOST")
        headers = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s, transport=transport)
        self._backoff_s, self._rng = backoff_s, rng
        self._stopped = threading.Event()
        self.retries, self.trouble = 0, ""

    def deliver(self, events: Sequence[bytes]) -> Answered | None:
        """Send a batch until it is answered; None when stopped before that.

        Raises: ConfigError: the answer is one that no retry can change, such as 401 or 404.
        """
        body = b"".join((b'{"events":[', b",".join(events), b"]}"))
        attempt = 0
        while not self._stopped.is_set():
            retry_after_s = 0.0
            try:
                response = self._http.post("/v1/events", content=body)
            except httpx.RequestError as exc:  # refused, cut, garbled or late: nobody knows whether it arrived
                self.trouble = f"{type(exc).__name__}: {exc}"
            else:
                if response.status_code == 200 and (answered := _answered(response, events)) is not None:
                    self.trouble = ""
                    return answered
                self.trouble = _said(response)
                if response.status_code != 200 and response.status_code not in RETRIED:
                    raise ConfigError(f"POST {response.url}: {self.trouble}; no retry can change that: check url and key")
                retry_after_s = _retry_after_s(response)
            self._stopped.wait(pause_s(attempt, self._backoff_s, retry_after_s, self._rng))
            attempt += 1
            self.retries += 1
        return None

    def stop(self) -> None:
        """End waiting between attempts; called from another thread."""
        self._stopped.set()

    def close(self) -> None:
        """Close the connections; called on the thread that delivers."""
        self._http.close()


def pause_s(attempt: int, backoff_s: float, retry_after_s: float, rng: random.Random) -> float:
    """Seconds before attempt ``attempt`` + 1: somewhere up to a bound that doubles, on top of what the gateway asked for.

    Reference: Brooker 2015, Exponential Backoff and Jitter ("full jitter").
    """
    return retry_after_s + rng.uniform(0, min(_MAX_BACKOFF_S, backoff_s * 2 ** min(attempt, 16)))


def new_event_id() -> str:
    """Make an id as UUIDv7 does: 48 bits of milliseconds, then random bits; ids made one after the other sort together."""
    raw = (time.time_ns() // 1_000_000).to_bytes(6, "big") + secrets.token_bytes(10)
    number = int.from_bytes(raw, "big") & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62
    text = f"{number:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _answered(response: httpx.Response, events: Sequence[bytes]) -> Answered | None:
    """Read the results; None where they are not those of this batch, as behind a proxy that answers itself."""
    try:
        results = orjson.loads(response.content)["results"]
        if len(results) != len(events):
            return None
        states = [result["status"] for result in results]
        rejections = tuple(
            Rejection(str(result.get("event_id") or ""), str(result.get("reason")), str(result.get("detail")), event)
            for result, event in zip(results, events, strict=True)
            if result["status"] == "rejected"
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    accepted, duplicates = states.count("accepted"), states.count("duplicate")
    return Answered(accepted, duplicates, rejections) if accepted + duplicates + len(rejections) == len(events) else None


def _said(response: httpx.Response) -> str:
    try:
        detail = str(orjson.loads(response.content)["detail"])
    except (ValueError, KeyError, TypeError):
        detail = "found an answer that is not the gateway's"
    return f"{response.status_code} {detail[:300]}"


def _retry_after_s(response: httpx.Response) -> float:
    given = response.headers.get("retry-after", "")
    return min(float(given), _MAX_RETRY_AFTER_S) if given.isascii() and given.isdigit() else 0.0
