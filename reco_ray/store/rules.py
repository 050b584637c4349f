"""The rules in force, and those before them: versioned records in the online store.

``rules`` holds the version and the record of it, ``rules:history`` the last 200 records by version; one script changes both. A
record is JSON: who changed what, when and why, the rules, and the items that are held back or approved one by one.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import orjson

from reco_ray.errors import DataError
from reco_ray.store.away import answering
from reco_ray.store.online import OnlineStore

__all__ = ["Decided", "RuleRecord", "RuleStore"]

_KEPT = 200
_TRIES = 20

# KEYS: rules, history. ARGV: record, version that it replaces, how many versions are kept, an epoch for a store without one.
_PUT = """local now=tonumber(redis.call('HGET',KEYS[1],'version') or '0')
if tonumber(ARGV[2])~=now then return 0 end
redis.call('HSETNX',KEYS[1],'epoch',ARGV[4])
redis.call('HSET',KEYS[1],'version',now+1,'record',ARGV[1])
redis.call('HSET',KEYS[2],now+1,ARGV[1])
redis.call('HDEL',KEYS[2],now+1-tonumber(ARGV[3]))
return now+1"""


@dataclass(frozen=True, slots=True)
class Decided:
    """Who decided on an item, why, and when."""

    author: str
    reason: str
    ts: str


@dataclass(frozen=True, slots=True)
class RuleRecord:
    """One version.

    Attributes:
        version: 0 where nothing was ever put. action: put, rollback, hold or approve.
        rules: as `rules.Document` has them, checked by who put them.
        held: items shown to nobody, by id. approved: items that ``review`` rules let pass.
    """

    version: int = 0
    author: str = ""
    action: str = ""
    note: str = ""
    ts: str = ""
    rules: tuple[Mapping[str, Any], ...] = ()
    held: Mapping[str, Decided] = field(default_factory=dict)
    approved: Mapping[str, Decided] = field(default_factory=dict)

    def dump(self) -> bytes:
        """As JSON, without its version: the store gives it."""
        fields = asdict(self)
        del fields["version"]
        return orjson.dumps(fields)

    @classmethod
    def load(cls, version: int, raw: bytes) -> "RuleRecord":
        """Read what `dump` wrote."""
        found = orjson.loads(raw)
        held, approved = (
            {item_id: Decided(**each) for item_id, each in found.pop(name).items()} for name in ("held", "approved")
        )
        return cls(version=version, rules=tuple(found.pop("rules")), held=held, approved=approved, **found)


class RuleStore:
    """The rules of an online store. Every method blocks, and raises NotReadyError when the store is away."""

    def __init__(self, store: OnlineStore) -> None:
        self._calls = store.blocking_calls
        self._keys = [store.key("rules"), store.key("rules", "history")]

    def mark(self) -> tuple[str, int]:
        """What changes with the rules: the life of the store's data, and the version, 0 where nothing was ever put."""
        with answering():
            found: Any = self._calls.hmget(self._keys[0], ["epoch", "version"])
        return (found[0] or b"").decode(), int(found[1] or 0)

    def current(self) -> RuleRecord:
        """The record in force; of version 0 where nothing was ever put."""
        with answering():
            found: Any = self._calls.hmget(self._keys[0], ["version", "record"])
        return RuleRecord() if None in found else RuleRecord.load(int(found[0]), found[1])

    def history(self) -> list[RuleRecord]:
        """The last 200 records, the newest first."""
        with answering():
            found: Any = self._calls.hgetall(self._keys[1])
        return [RuleRecord.load(version, raw) for version, raw in sorted(((int(v), r) for v, r in found.items()), reverse=True)]

    def at(self, version: int) -> RuleRecord:
        """One of them.

        Raises: DataError: it is not kept, or never was.
        """
        with answering():
            raw: Any = self._calls.hget(self._keys[1], str(version))
        if raw is None:
            raise DataError(
                f"rules: found no version {version}, expected one of the last {_KEPT}; `reco rules history` lists them"
            )
        return RuleRecord.load(version, raw)

    def put(self, rules: tuple[Mapping[str, Any], ...], author: str, note: str = "", expected: int | None = None) -> RuleRecord:
        """Bring rules into force, in place of those before; what was held or approved stays so.

        Args:
            rules: a checked document's. expected: version that they replace; None for whichever is in force.
        Raises: DataError: another version is in force than the expected one.
        """
        return self._change(lambda now: replace(now, rules=rules, action="put", note=note), author, expected)

    def rollback(self, version: int, author: str, note: str = "") -> RuleRecord:
        """Bring the rules of an older version into force again, under a new one.

        Raises: DataError: the version is not kept.
        """
        old = self.at(version)
        said = note or f"rules of version {version}"
        return self._change(lambda now: replace(now, rules=old.rules, action="rollback", note=said), author)

    def hold(self, item_id: str, author: str, reason: str) -> RuleRecord:
        """Show an item to nobody until it is approved."""

        def change(now: RuleRecord) -> RuleRecord:
            held = {**now.held, item_id: Decided(author, reason, _now())}
            approved = {name: each for name, each in now.approved.items() if name != item_id}
            return replace(now, held=held, approved=approved, action="hold", note=f"{item_id}: {reason}")

        return self._change(change, author)

    def approve(self, item_id: str, author: str, reason: str) -> RuleRecord:
        """Show an item again, and let it pass ``review`` rules."""

        def change(now: RuleRecord) -> RuleRecord:
            held = {name: each for name, each in now.held.items() if name != item_id}
            approved = {**now.approved, item_id: Decided(author, reason, _now())}
            return replace(now, held=held, approved=approved, action="approve", note=f"{item_id}: {reason}")

        return self._change(change, author)

    def _change(self, change: Callable[[RuleRecord], RuleRecord], author: str, expected: int | None = None) -> RuleRecord:
        """Replace the record by what becomes of it; what others change meanwhile is not lost."""
        for _ in range(_TRIES):
            now = self.current()
            if expected is not None and now.version != expected:
                raise DataError(
                    f"rules: found version {now.version} in force, expected {expected}; look at what changed, and put again"
                )
            new = replace(change(now), author=author, ts=_now())
            with answering():
                version: Any = self._calls.eval(
                    _PUT, 2, *self._keys, new.dump(), str(now.version), str(_KEPT), uuid.uuid4().hex
                )
            if version > 0:
                return replace(new, version=int(version))
        raise DataError(f"rules: found them changed {_TRIES} times meanwhile, expected a moment of rest; put again")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
