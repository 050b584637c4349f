"""Flags: what of the request path is switched off just now, by whom and why.

``{namespace}:flags`` holds ``{"version", "off": {name: {"by", "why", "ts"}}}``, ``flags:audit`` each change; one transaction
writes both. What is not named is on. Gateways and stages follow within a second or so.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import redis

from reco_ray.config import SourceName
from reco_ray.errors import ConfigError
from reco_ray.store.away import answering
from reco_ray.store.online import OnlineStore

__all__ = ["EXPLORE", "FLAGS", "FLAGS_BEHIND", "NO_FLAGS", "RANKER", "FlagStore", "Flags", "off_in", "source_flag"]

RANKER, EXPLORE = "ranker", "explore"
FLAGS_BEHIND = "flags_behind"  # mark of an answer whose stages may not have followed yet; it is not kept
_SOURCE, _OFF = "source.", "off:"


def source_flag(source: str) -> str:
    """Flag of a recall source."""
    return f"{_SOURCE}{source}"


FLAGS = {
    **{source_flag(each.value): f"recall source {each.value}" for each in SourceName},
    RANKER: "the ranker; off: recall's order",
    EXPLORE: "exploration in the last stage",
    "rung.cached": "the rung of slates that were made before",
    "rung.precomputed": "the rung of precomputed slates",
    "rung.popular": "the rung of the popular list",
}
"""Names of the flags, and what each switches."""

_AUDIT_MOST = 1_000


@dataclass(frozen=True, slots=True)
class Flags:
    """What is switched off.

    Attributes:
        version: grows by one with each change.
        off: by name who did it, why, and when.
        settled: whether everybody must have heard of them by now.
    """

    version: int = 0
    off: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    settled: bool = True

    @property
    def marks(self) -> list[str]:
        """As answers say it."""
        return [*(f"{_OFF}{name}" for name in sorted(self.off)), *([] if self.settled else [FLAGS_BEHIND])]

    @property
    def sources(self) -> frozenset[str]:
        """Names of the recall sources among them."""
        return frozenset(name.removeprefix(_SOURCE) for name in self.off if name.startswith(_SOURCE))


NO_FLAGS = Flags()


def off_in(marks: Iterable[str]) -> Flags:
    """What was off, as the marks of an answer say it."""
    return Flags(off={mark.removeprefix(_OFF): {} for mark in marks if mark.startswith(_OFF)})


class FlagStore:
    """The flags of an online store. Blocking methods raise NotReadyError when the store is away."""

    def __init__(self, store: OnlineStore) -> None:
        self._store, self._key = store, store.key("flags")

    async def poll(self) -> Flags:
        """Read them, for gateways.

        Raises: redis.RedisError: the store is away.
        """
        return _read(await self._store.calls.get(self._key))

    def load(self) -> Flags:
        """Read them."""
        with answering():
            return _read(self._store.blocking_calls.get(self._key))

    def switch(self, name: str, *, off: bool, by: str, why: str) -> Flags:
        """Switch one off or on again; what is as wished stays, and leaves no record.

        Raises: ConfigError: there is no such flag, or nothing says why.
        """
        if name not in FLAGS:
            raise ConfigError(f"flags: found {name!r}, expected one of {sorted(FLAGS)}")
        if not why.strip():
            raise ConfigError(f"flags: found no reason to switch {name}, expected a sentence; give one with --why")
        made: list[Flags] = []

        def within(pipe: redis.client.Pipeline) -> None:
            now = _read(pipe.get(self._key))
            pipe.multi()
            if (name in now.off) == off:
                made.append(now)
                return
            record = {"by": by, "why": why, "ts": datetime.now(UTC).isoformat(timespec="seconds")}
            rest = {each: said for each, said in now.off.items() if each != name}
            new = Flags(now.version + 1, {**rest, name: record} if off else rest)
            made.append(new)
            pipe.set(self._key, json.dumps({"version": new.version, "off": new.off}))
            pipe.lpush(f"{self._key}:audit", json.dumps({**record, "flag": name, "off": off, "version": new.version}))
            pipe.ltrim(f"{self._key}:audit", 0, _AUDIT_MOST - 1)

        with answering():
            self._store.blocking_calls.transaction(within, self._key)
        return made[-1]

    def history(self, n: int) -> list[dict[str, Any]]:
        """The last ``n`` changes, newest first."""
        with answering():
            return [json.loads(raw) for raw in self._store.blocking_calls.lrange(f"{self._key}:audit", 0, n - 1)]


def _read(raw: object) -> Flags:
    if not isinstance(raw, bytes):
        return NO_FLAGS
    found = json.loads(raw)
    # one of a later version of the code says nothing here
    return Flags(found["version"], {name: said for name, said in found["off"].items() if name in FLAGS})
