"""Live items: what applications put and deleted since the releases were built, and in which order.

``live_items`` holds a packed value for each id, ``live_items:log`` its id under the version of its last change, which grows by
one with each. Both change in one script. A reader asks for what is newer than its cursor; an empty one gets all there is.
Deleted is a value without content; it stays, as the releases do not know of it.
"""

import logging
import struct
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from reco_ray.errors import SchemaError
from reco_ray.store.away import answering
from reco_ray.store.online import OnlineStore

__all__ = ["NO_SLOT", "Cursor", "Item", "ItemChanges", "ItemStore", "LiveItem"]

log = logging.getLogger(__name__)

NO_SLOT = 2**32 - 1
"""Slot of an item that was deleted and never put."""

_HEADER = struct.Struct("<dI")  # when it changed, seconds since 1970; slot
_AT_ONCE = 500

# KEYS: values, log, meta, free slots. ARGV: id, content or "", an epoch for a store without one, NO_SLOT.
_CHANGE = """local found=redis.call('HGET',KEYS[1],ARGV[1])
local slot=tonumber(ARGV[4])
if found then
if string.sub(found,13)==ARGV[2] then return redis.call('ZSCORE',KEYS[2],ARGV[1]) end
slot=select(2,struct.unpack('<dI4',found))
end
if ARGV[2]~='' and slot==tonumber(ARGV[4]) then
slot=tonumber(redis.call('SPOP',KEYS[4]) or redis.call('HINCRBY',KEYS[3],'slots',1)-1)
end
redis.call('HSETNX',KEYS[3],'epoch',ARGV[3])
local version=redis.call('HINCRBY',KEYS[3],'version',1)
local now=redis.call('TIME')
redis.call('HSET',KEYS[1],ARGV[1],struct.pack('<dI4',now[1]+now[2]/1e6,slot)..ARGV[2])
redis.call('ZADD',KEYS[2],version,ARGV[1])
return tostring(version)"""

# KEYS: as above. ARGV: epoch and version of the reader, most. A reader of another epoch, or ahead, begins anew.
_SINCE = """local meta=redis.call('HMGET',KEYS[3],'epoch','version')
local from=ARGV[2]
if (meta[1] or '')~=ARGV[1] or tonumber(meta[2] or '0')<tonumber(from) then from='0' end
local log=redis.call('ZRANGE',KEYS[2],'('..from,'+inf','BYSCORE','LIMIT',0,ARGV[3],'WITHSCORES')
local ids={}
for i=1,#log,2 do ids[#ids+1]=log[i] end
local now=redis.call('TIME')
return {meta[1] or '',from,tostring(now[1]+now[2]/1e6),log,#ids>0 and redis.call('HMGET',KEYS[1],unpack(ids)) or {}}"""

# KEYS: as above. ARGV: version that each id had, and the id, in turns. What has changed since stays.
_FORGET = """local gone=0
for i=1,#ARGV,2 do
if redis.call('ZSCORE',KEYS[2],ARGV[i+1])==ARGV[i] then
local slot=select(2,struct.unpack('<dI4',redis.call('HGET',KEYS[1],ARGV[i+1])))
if slot<4294967295 then redis.call('SADD',KEYS[4],slot) end
redis.call('HDEL',KEYS[1],ARGV[i+1])
redis.call('ZREM',KEYS[2],ARGV[i+1])
gone=gone+1
end
end
return gone"""


@dataclass(frozen=True, slots=True)
class Item:
    """What an application says of an item; the columns of `schema.ITEMS`. ``year``: 0 where unknown; ``price``: None."""

    title: str = ""
    categories: tuple[str, ...] = ()
    year: int = 0
    text: str = ""
    available: bool = True
    price: float | None = None


@dataclass(frozen=True, slots=True)
class LiveItem:
    """The last change of an item.

    Attributes:
        version: of the change; larger is later.
        slot: tells the items apart that a release does not know: there, its row is the number of the release's items + slot.
        changed: seconds since 1970, by the store's clock.
        item: None where it was deleted.
    """

    item_id: str
    version: int
    slot: int
    changed: float
    item: Item | None

    @property
    def shown(self) -> bool:
        """Whether it may be shown."""
        return self.item is not None and self.item.available


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a reader has come; ``epoch`` names the life of the store's data that the version is of."""

    epoch: str = ""
    version: int = 0


@dataclass(frozen=True, slots=True)
class ItemChanges:
    """Changes in order.

    Attributes:
        cursor: to go on from. now: seconds since 1970, by the store's clock. more: whether there may be more already.
    """

    cursor: Cursor
    items: tuple[LiveItem, ...]
    now: float
    more: bool


class ItemStore:
    """The live items of an online store, as gateways (async methods), and followers and jobs (blocking methods) use them.

    All raise NotReadyError when the store is away.
    """

    def __init__(self, store: OnlineStore) -> None:
        self._store = store
        self._keys = [store.key("live_items"), *(store.key("live_items", part) for part in ("log", "meta", "free"))]

    async def put(self, item_id: str, item: Item) -> int:
        """Keep an item; returns the version of its last change, which is an older one where nothing is new."""
        return await self._change(item_id, _pack(item))

    async def delete(self, item_id: str) -> int:
        """Delete an item, known or not; returns the version of its last change."""
        return await self._change(item_id, b"")

    async def load(self, item_id: str) -> LiveItem | None:
        """Read an item's last change; None where there was none.

        Raises: SchemaError: it has another format.
        """
        pipe = self._store.calls.pipeline(transaction=True)
        pipe.hget(self._keys[0], item_id)
        pipe.zscore(self._keys[1], item_id)
        with answering():
            raw, version = await pipe.execute()
        return None if raw is None else _unpack(item_id, int(version), raw)

    def since(self, cursor: Cursor) -> ItemChanges:
        """Read what has changed since, at most 500 items at a time."""
        with answering():
            answer: Any = self._store.blocking_calls.eval(
                _SINCE, 4, *self._keys, cursor.epoch, str(cursor.version), str(_AT_ONCE)
            )
        epoch, began, now, entries, values = answer
        ids, versions = [raw.decode() for raw in entries[::2]], [int(float(raw)) for raw in entries[1::2]]
        at = Cursor(epoch.decode(), versions[-1] if versions else int(float(began)))
        items = tuple(_readable(zip(ids, versions, values, strict=True)))
        return ItemChanges(at, items, float(now), len(ids) == _AT_ONCE)

    def all(self) -> list[LiveItem]:
        """Read all of them, in the order of their last changes."""
        found: list[LiveItem] = []
        cursor, more = Cursor(), True
        while more:
            changes = self.since(cursor)
            found += changes.items
            cursor, more = changes.cursor, changes.more
        return found

    def forget(self, items: Iterable[LiveItem]) -> int:
        """Drop changes that every release knows, and free their slots; returns how many. What has changed since stays."""
        pairs = [(str(each.version), each.item_id) for each in items]
        gone = 0
        for start in range(0, len(pairs), _AT_ONCE):
            flat = [part for pair in pairs[start : start + _AT_ONCE] for part in pair]
            with answering():
                gone += int(self._store.blocking_calls.eval(_FORGET, 4, *self._keys, *flat))
        return gone

    async def _change(self, item_id: str, content: bytes) -> int:
        with answering():
            version: Any = await self._store.calls.eval(
                _CHANGE, 4, *self._keys, item_id, content, uuid.uuid4().hex, str(NO_SLOT)
            )
        return int(float(version))


def _readable(entries: Iterable[tuple[str, int, bytes]]) -> Iterator[LiveItem]:
    """Yield what can be read: one damaged value must not hold up what comes after it."""
    for item_id, version, raw in entries:
        try:
            yield _unpack(item_id, version, raw)
        except SchemaError as exc:
            log.error("change %d of the live items is passed over: %s", version, exc)


def _pack(item: Item) -> bytes:
    said = (item.title, item.categories, item.year, item.text, item.available)
    return orjson.dumps(said if item.price is None else (*said, item.price))  # readers without prices know five parts


def _unpack(item_id: str, version: int, raw: bytes) -> LiveItem:
    try:
        changed, slot = _HEADER.unpack_from(raw)
        if len(raw) == _HEADER.size:
            return LiveItem(item_id, version, slot, changed, None)
        title, categories, year, text, available, *price = orjson.loads(raw[_HEADER.size :])
        item = Item(title, tuple(categories), year, text, available, *price)
    except (struct.error, ValueError, TypeError) as exc:
        raise SchemaError(f"live item: found {raw[:20]!r}, expected what this version writes; put the item again") from exc
    return LiveItem(item_id, version, slot, changed, item)
