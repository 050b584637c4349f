"""Online features in the store: users' states and rows, items' sums, and how far each partition of the bus is applied.

Per user view: ``user:{view}:{digest}`` is the row that requests read, ``state:{view}:{digest}`` what the stream adds to,
``items:{view}:lake`` the items' sums of the last rebuild and ``items:{view}:{partition}`` what came since, fields by item key.
``features:{view}`` holds the positions, and up to which time all events are in. What a micro-batch changes is written with its
position in one transaction: applied once, whatever is read again. While a rebuild runs there are no positions, and nothing is
applied.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson
import redis

from reco_ray.errors import StaleWriterError
from reco_ray.hashing import user_digest
from reco_ray.store.away import answering
from reco_ray.store.online import OnlineStore

__all__ = ["LAKE_ITEMS", "Change", "FeatureStore", "fresh_until", "registered_views"]

LAKE_ITEMS = "lake"
_AT_ONCE = 1_000


def registered_views(store: OnlineStore) -> dict[str, dict[str, Any]]:
    """The user views that are kept up to date: version -> root and release whose catalogue it is of, and what else was given.

    Raises: NotReadyError: the store is away.
    """
    with answering():
        found = store.blocking_calls.hgetall(store.key("features"))
    return {view.decode(): orjson.loads(raw) for view, raw in found.items() if isinstance(view, bytes)}


@dataclass(frozen=True, slots=True)
class Change:
    """What a micro-batch changes.

    Attributes:
        users: id -> packed state and row. items: key -> packed sums.
        shown: what to remember of the impressions; empty where there were none.
    """

    users: Mapping[str, tuple[bytes, bytes]]
    items: Mapping[bytes, bytes]
    shown: bytes = b""


async def fresh_until(store: OnlineStore, view: str, partitions: int) -> list[float | None]:
    """Time up to which all events are in a view's features, seconds since 1970, by partition; None where no stream says so.

    Raises: redis.RedisError: the store is away or slower than its timeout.
    """
    found = await store.calls.hmget(store.key("features", view), [_fresh(partition) for partition in range(partitions)])
    return [None if each is None else float(each) for each in found]


class FeatureStore:
    """Features of one view.

    Args:
        ttl_s: life of a user's row and state that nothing is added to.
    """

    def __init__(self, store: OnlineStore, view: str, ttl_s: int) -> None:
        self._store, self._view, self._ttl_s = store, view, ttl_s
        self._calls = store.blocking_calls
        self._meta = store.key("features", view)

    def position(self, partition: int) -> int | None:
        """Position up to which a partition is applied; None while it is not known.

        Raises: NotReadyError: the store is away; so do all methods here.
        """
        with answering():
            found = self._calls.hget(self._meta, _position(partition))
        return None if found is None else int(found)

    def shown(self, partition: int) -> bytes:
        """What a partition remembers of its last impressions; empty at first."""
        with answering():
            found = self._calls.hget(self._meta, f"shown:{partition}")
        return found if isinstance(found, bytes) else b""

    def states(self, user_ids: Sequence[str]) -> dict[str, bytes]:
        """Packed states of those who have one."""
        return self._found(user_ids, [self._state_key(user) for user in user_ids])

    def item_sums(self, part: int | str, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Packed sums of a partition, or of `LAKE_ITEMS`, by item key; of items that have some."""
        if not keys:
            return {}
        with answering():
            found = self._calls.hmget(self._items(part), list(keys))
        return {key: raw for key, raw in zip(keys, found, strict=True) if isinstance(raw, bytes)}

    def apply(
        self,
        partition: int,
        before: int,
        position: int,
        changed: Change,
        fresh_s: float,
        now_s: float,
    ) -> None:
        """Write what a micro-batch changed, with its position.

        Args:
            before: the position that the change was computed from. fresh_s: as for `caught_up`.
            now_s: seconds since 1970, for `changed_items`.
        Raises: StaleWriterError: somebody else has moved the position meanwhile; nothing was written.
        """

        def change(pipe: redis.client.Pipeline) -> None:
            found = pipe.hget(self._meta, _position(partition))  # immediate while the key is watched
            if found is None or int(found) != before:
                raise StaleWriterError(f"features of partition {partition}: found position {found!r}, expected {before}")
            pipe.multi()
            for user, (state, row) in changed.users.items():
                pipe.set(self._state_key(user), state, ex=self._ttl_s)
                pipe.set(self._store.user_key(user, self._view), row, ex=self._ttl_s)
            if changed.items:
                pipe.hset(self._items(partition), mapping={key: raw for key, raw in changed.items.items()})  # noqa: C416
                pipe.zadd(self._items("changed"), dict.fromkeys(changed.items, now_s))
            if changed.shown:
                pipe.hset(self._meta, f"shown:{partition}", changed.shown)
            pipe.hset(self._meta, mapping={_position(partition): position, _fresh(partition): fresh_s})

        with answering():
            self._calls.transaction(change, self._meta)

    def caught_up(self, partition: int, fresh_s: float) -> None:
        """Say that all events that had come by a time, seconds since 1970, are in the features."""
        with answering():
            self._calls.hset(self._meta, _fresh(partition), fresh_s)

    def changed_items(self, since_s: float) -> list[bytes]:
        """Keys of the items that something was added to since a time, seconds since 1970."""
        with answering():
            found = self._calls.zrangebyscore(self._items("changed"), since_s, "+inf")
        return [key for key in found if isinstance(key, bytes)]

    def begin_rebuild(self) -> None:
        """Forget the positions and the states. Rows stay: requests go on reading them until they are written anew."""
        with answering():
            self._calls.delete(self._meta)
            for pattern in (self._state_key_of("*"), self._items("*")):
                keys = self._calls.scan_iter(pattern, count=_AT_ONCE)
                while batch := list(islice(keys, _AT_ONCE)):
                    self._calls.unlink(*batch)

    def write_users(self, users: Iterable[tuple[str, bytes, bytes]]) -> int:
        """Write id, packed state and row of users, in a rebuild; returns how many."""
        n, waiting = 0, iter(users)
        while batch := list(islice(waiting, _AT_ONCE)):
            pipe = self._calls.pipeline(transaction=False)
            for user, state, row in batch:
                pipe.set(self._state_key(user), state, ex=self._ttl_s)
                pipe.set(self._store.user_key(user, self._view), row, ex=self._ttl_s)
            with answering():
                pipe.execute()
            n += len(batch)
        return n

    def end_rebuild(self, items: Mapping[bytes, bytes], positions: Mapping[int, int], of: Mapping[str, object]) -> None:
        """Write the items' sums and the positions, from which the streams go on.

        Args:
            items: item key -> sums. of: root and release, and what readers of the items' sums need; for `registered_views`.
        """
        with answering():
            pipe = self._calls.pipeline(transaction=True)
            if items:
                pipe.hset(self._items(LAKE_ITEMS), mapping={key: raw for key, raw in items.items()})  # noqa: C416
            pipe.hset(self._meta, mapping={_position(partition): at for partition, at in positions.items()})
            pipe.hset(self._store.key("features"), self._view, orjson.dumps(dict(of)))
            pipe.execute()

    def forget(self) -> None:
        """Stop keeping the view up to date; its rows end with their time."""
        with answering():
            self._calls.hdel(self._store.key("features"), self._view)
        self.begin_rebuild()

    def _found(self, names: Sequence[str], keys: Sequence[str]) -> dict[str, bytes]:
        if not keys:
            return {}
        with answering():
            found = self._calls.mget(keys)
        return {name: raw for name, raw in zip(names, found, strict=True) if isinstance(raw, bytes)}

    def _state_key(self, user_id: str) -> str:
        return self._state_key_of(user_digest(user_id))

    def _state_key_of(self, digest: str) -> str:
        return self._store.key("state", self._view, digest)

    def _items(self, part: int | str) -> str:
        return self._store.key("items", self._view, str(part))


def _fresh(partition: int) -> str:
    return f"fresh:{partition}"


def _position(partition: int) -> str:
    return f"position:{partition}"
