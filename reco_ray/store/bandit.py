"""A bandit's evidence in the store, and what the stream must remember to add to it.

One hash, ``{namespace}:bandit``: ``sums:{partition}`` of each partition of the bus, which add up, ``position:{partition}``,
how far its two topics are applied, and ``wanted``, when a stage asked for it last. ``{namespace}:drawn:{digest}`` is what one
request drew, by a digest of its id, and ends with its time; neither names a user. What a batch changes is written with its
positions in one transaction: applied once, whatever is read again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import redis

from reco_ray.errors import StaleWriterError
from reco_ray.hashing import digest
from reco_ray.store.away import answering
from reco_ray.store.online import OnlineStore

__all__ = ["BanditState", "BanditStore"]

Positions = tuple[int, int]
"""Of the decisions and of the events, as last applied."""

_SUMS = b"sums:"


@dataclass(frozen=True, slots=True)
class BanditState:
    """What the store holds. ``parts``: packed evidence of each partition; ``wanted_s``: seconds since 1970."""

    parts: tuple[bytes, ...] = ()
    wanted_s: float = 0.0


class BanditStore:
    """The evidence of a namespace. All methods raise NotReadyError when the store is away.

    Args:
        ttl_s: life of evidence that nothing is added to.
    """

    def __init__(self, store: OnlineStore, ttl_s: int = 30 * 86_400) -> None:
        self._store, self._calls, self._ttl_s, self._key = store, store.blocking_calls, ttl_s, store.key("bandit")

    def read(self) -> BanditState:
        """Read it as stages do, in one call."""
        with answering():
            found = self._calls.hgetall(self._key)
        raw = {name: value for name, value in found.items() if isinstance(name, bytes) and isinstance(value, bytes)}
        parts = tuple(raw[name] for name in sorted(raw) if name.startswith(_SUMS))
        return BanditState(parts, float(raw.get(b"wanted", b"0")))

    def want(self, now_s: float) -> None:
        """Say that a stage learns from it; without that word for a day nothing is added."""
        with answering():
            pipe = self._calls.pipeline(transaction=True)
            pipe.hset(self._key, "wanted", now_s)
            pipe.expire(self._key, self._ttl_s)
            pipe.execute()

    def wanted_s(self) -> float:
        """When a stage asked for it last, seconds since 1970; 0 for never."""
        with answering():
            found = self._calls.hget(self._key, "wanted")
        return float(found or 0)

    def begin(self, partition: int, positions: Positions) -> None:
        """Begin behind these positions, with nothing learned, where the partition has none yet."""
        with answering():
            self._calls.hsetnx(self._key, _position(partition), _written(positions))

    def learned(self, partition: int) -> tuple[Positions | None, bytes | None]:
        """Positions and packed evidence of a partition; None for what is not there."""
        with answering():
            at, sums = self._calls.hmget(self._key, [_position(partition), _sums(partition)])
        return (_positions(at) if isinstance(at, bytes) else None), (sums if isinstance(sums, bytes) else None)

    def drawn(self, request_ids: Sequence[str]) -> dict[str, bytes]:
        """What requests drew, as `apply` was given it, of those that are remembered."""
        if not request_ids:
            return {}
        with answering():
            found = self._calls.mget([self._drawn(request_id) for request_id in request_ids])
        return {name: raw for name, raw in zip(request_ids, found, strict=True) if isinstance(raw, bytes)}

    def apply(
        self,
        partition: int,
        before: Positions,
        positions: Positions,
        sums: bytes | None,
        drawn: Mapping[str, bytes],
        remember_s: int,
    ) -> None:
        """Write what a batch changed, with its positions.

        Args:
            before: the positions that it was computed from. sums: None where they stay.
            drawn: by request_id, remembered for ``remember_s`` more.
        Raises: StaleWriterError: somebody else has moved the positions meanwhile; nothing was written.
        """

        def change(pipe: redis.client.Pipeline) -> None:
            found = pipe.hget(self._key, _position(partition))  # immediate while the key is watched
            if not isinstance(found, bytes) or _positions(found) != before:
                raise StaleWriterError(f"bandit of partition {partition}: found positions {found!r}, expected {before}")
            pipe.multi()
            for request_id, raw in drawn.items():
                pipe.set(self._drawn(request_id), raw, ex=remember_s)
            pipe.hset(self._key, _position(partition), _written(positions))
            if sums is not None:
                pipe.hset(self._key, _sums(partition), sums)
            pipe.expire(self._key, self._ttl_s)

        with answering():
            self._calls.transaction(change, self._key)

    def _drawn(self, request_id: str) -> str:
        return self._store.key("drawn", digest(request_id, length=32))


def _position(partition: int) -> str:
    return f"position:{partition}"


def _sums(partition: int) -> str:
    return f"{_SUMS.decode()}{partition}"


def _written(positions: Positions) -> str:
    return f"{positions[0]} {positions[1]}"


def _positions(raw: bytes) -> Positions:
    shown, events = raw.split()
    return int(shown), int(events)
