"""Keys and calls of the online store.

Every key starts with ``{namespace}:`` and holds no external id: users are named by a hash. User rows carry the version of
the user view, so that a release never reads rows of another meaning.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from types import TracebackType
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from reco_ray.errors import ConfigError
from reco_ray.hashing import user_digest
from reco_ray.store.away import answering
from reco_ray.store.keys import KeyStore
from reco_ray.store.packing import pack_user, unpack_user
from reco_ray.types import EMPTY_USER, UserRow

__all__ = ["MOST_OVERRIDES", "Holdout", "OnlineStore", "Shadow", "Traffic", "read_traffic", "write_traffic"]

MOST_OVERRIDES = 1_000


@dataclass(frozen=True, slots=True)
class Shadow:
    """A release that gets copies of requests, and answers nobody.

    Attributes:
        share: of the requests, in (0, 1]. name: what is counted goes under this name.
    """

    release: str
    share: float
    name: str


@dataclass(frozen=True, slots=True)
class Holdout:
    """Users who are in no rollout, and are reported apart.

    Attributes:
        share: of the users, in (0, 1). salt: of the hash by which they are chosen: the same one, the same users.
        popular: whether they get the popular list, and nothing that was trained.
        release: whose; of a rollout its champion.
    """

    share: float
    salt: str = "holdout"
    popular: bool = False
    release: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or not self.salt:
            raise ConfigError(f"holdout: found share {self.share}, salt {self.salt!r}, expected a share in (0, 1) and a salt")

    def of(self, champion: str) -> "Holdout":
        """With another champion."""
        return replace(self, release="" if self.popular else champion)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Which releases answer, and with which share; written by jobs, polled by gateways.

    Attributes:
        version: grows by one with each change.
        weights: release id -> share of the users, in [0, 1], summing to 1.
        user_views: release id -> version of the user view its models were trained on.
        shadow: one of the releases, without a share; gone with the next change that does not name it.
        salt: of the hash by which users fall to releases: that of a rollout, so that not the same ones are first each time.
        holdout: users who get something else than their share says.
        overrides: digest of a test user -> a release, or ``main`` or ``canary``; before everything else.
    """

    version: int = 0
    weights: Mapping[str, float] = field(default_factory=dict)
    user_views: Mapping[str, str] = field(default_factory=dict)
    shadow: Shadow | None = None
    salt: str = field(default="traffic", kw_only=True)
    holdout: Holdout | None = field(default=None, kw_only=True)
    overrides: Mapping[str, str] = field(default_factory=dict, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if self.weights and abs(sum(self.weights.values()) - 1) > 1e-6:
            raise ValueError(f"traffic weights {dict(self.weights)} sum to {sum(self.weights.values())}, expected 1")
        if set(self.weights) != set(self.user_views):
            raise ValueError(f"traffic weights name {sorted(self.weights)}, user views {sorted(self.user_views)}")

    def moved(self, weights: Mapping[str, float], user_views: Mapping[str, str]) -> "Traffic":
        """With other releases and shares: salt and overrides stay, so that nobody changes sides whose share did not.

        A shadow belongs to the shares that it came with, and ends with them. A holdout goes on, with the champion that is now.
        """
        stay = _live(weights) == _live(self.weights)
        shadow, holdout = self.shadow, self.holdout
        if shadow is not None and not (stay and shadow.release in weights):
            shadow = None
        if holdout is not None and not (stay and holdout.release in weights):
            holdout = holdout.of(max(weights, key=lambda release: weights[release], default=""))
        new = replace(self, weights=dict(weights), user_views=dict(user_views), shadow=shadow, holdout=holdout)
        return replace(new, version=self.version + 1)


class OnlineStore:
    """The store as jobs (blocking methods) and gateways (async methods) use it.

    Args:
        url: ``redis://host:port``; a password in it is never shown.
        namespace: prefix of every key.
        ttl_s: life of a user row that is not written again.
        timeout_s: of one call; the gateway degrades when it passes.

    Attributes:
        keys: the API keys.
        calls, blocking_calls: the connections, for the other files of this room.
    """

    def __init__(self, url: str, namespace: str, ttl_s: int = 30 * 86400, timeout_s: float = 1.0) -> None:
        self._namespace, self._ttl_s = namespace, ttl_s
        self.blocking_calls = redis.Redis.from_url(url, socket_timeout=max(timeout_s, 5.0))
        # once more at once where a pooled connection turns out to be dead, as all are after a restart of the store: without it
        # each of them costs a read, hours later maybe. What is late is not asked twice.
        again = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
        self.calls = redis.asyncio.Redis.from_url(url, socket_timeout=timeout_s, max_connections=64, retry=again)
        self.keys = KeyStore(self.blocking_calls, self.calls, self.key("api_keys"))

    def __enter__(self) -> "OnlineStore":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.blocking_calls.close()

    async def user(self, user_id: str, view: str) -> UserRow:
        """Read a user's row in one round trip; `EMPTY_USER` when there is none.

        Raises: redis.RedisError: the store is away or slower than the timeout.
        """
        raw = await self.calls.get(self.user_key(user_id, view))
        return unpack_user(raw) if isinstance(raw, bytes) else EMPTY_USER

    async def poll_traffic(self) -> Traffic:
        """Read the traffic record; version 0 when nothing was ever deployed."""
        return read_traffic(await self.calls.get(self.key("traffic")))

    async def alive(self) -> bool:
        """Whether the store answers."""
        try:
            return bool(await self.calls.ping())
        except (redis.RedisError, OSError):
            return False

    def users(self, user_ids: Iterable[str], view: str) -> list[UserRow]:
        """Read many rows with one MGET, in order."""
        keys = [self.user_key(user_id, view) for user_id in user_ids]
        found = self.blocking_calls.mget(keys) if keys else []
        return [unpack_user(raw) if isinstance(raw, bytes) else EMPTY_USER for raw in found]

    def write_users(self, rows: Iterable[tuple[str, UserRow]], view: str) -> int:
        """Write rows, replacing what was there; returns how many."""
        n = 0
        pipe = self.blocking_calls.pipeline(transaction=False)
        for n, (user_id, row) in enumerate(rows, 1):
            pipe.set(self.user_key(user_id, view), pack_user(row), ex=self._ttl_s)
            if n % 1000 == 0:
                pipe.execute()
        pipe.execute()
        return n

    def traffic(self) -> Traffic:
        """Read the traffic record.

        Raises: NotReadyError: the store is away.
        """
        with answering():
            return read_traffic(self.blocking_calls.get(self.key("traffic")))

    def set_traffic(self, weights: Mapping[str, float], user_views: Mapping[str, str]) -> Traffic:
        """Change releases and shares atomically, as `Traffic.moved`; the version grows by one.

        Raises: ValueError: the shares do not sum to 1.
        """
        self._change_traffic(lambda now: now.moved(weights, user_views))
        return self.traffic()

    def drop_overrides(self, users: Iterable[str]) -> set[str]:
        """Take back the overrides of users, by their digests; returns those who had one.

        Raises: NotReadyError: the store is away.
        """
        dropped: set[str] = set()

        def without(now: Traffic) -> Traffic | None:
            nonlocal dropped
            dropped = set(users) & set(now.overrides)
            rest = {user: to for user, to in now.overrides.items() if user not in dropped}
            return replace(now, version=now.version + 1, overrides=rest) if dropped else None

        with answering():
            self._change_traffic(without)
        return dropped

    def _change_traffic(self, make: Callable[[Traffic], Traffic | None]) -> None:
        key = self.key("traffic")

        def change(pipe: redis.client.Pipeline) -> None:
            new = make(read_traffic(pipe.get(key)))  # immediate while the key is watched
            pipe.multi()
            if new is not None:
                pipe.set(key, write_traffic(new))

        self.blocking_calls.transaction(change, key)

    def key(self, *parts: str) -> str:
        """Name a key of this namespace."""
        return ":".join((self._namespace, *parts))

    def user_key(self, user_id: str, view: str) -> str:
        """Name the key of a user's row."""
        return self.key("user", view, user_digest(user_id))


def write_traffic(traffic: Traffic) -> str:
    """As the store holds it."""
    found: dict[str, Any] = {
        "version": traffic.version,
        "weights": dict(traffic.weights),
        "user_views": dict(traffic.user_views),
        "salt": traffic.salt,
        "overrides": dict(traffic.overrides),
    }
    found |= {} if traffic.shadow is None else {"shadow": asdict(traffic.shadow)}
    return json.dumps(found if traffic.holdout is None else {**found, "holdout": asdict(traffic.holdout)})


def read_traffic(raw: object) -> Traffic:
    """Read `write_traffic`; version 0 of what is not there."""
    if not isinstance(raw, bytes):
        return Traffic()
    found = json.loads(raw)
    shadow = Shadow(**found["shadow"]) if "shadow" in found else None
    rest: dict[str, Any] = {name: found[name] for name in ("salt", "overrides") if name in found}  # records of before lack them
    rest |= {"holdout": Holdout(**found["holdout"])} if "holdout" in found else {}
    return Traffic(found["version"], found["weights"], found["user_views"], shadow, **rest)


def _live(weights: Mapping[str, float]) -> dict[str, float]:
    return {release: weight for release, weight in weights.items() if weight > 0}
