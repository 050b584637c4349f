"""Leases: one owner at a time for a piece of work, in the whole cluster; the store ends those of owners that died.

``{namespace}:lease:<name>`` is a lock of the redis client, whose token says whose it is: ``{"owner", "since_ts", "token"}``.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import redis
from redis.exceptions import LockError

from reco_ray.errors import NotReadyError
from reco_ray.store.away import answering
from reco_ray.store.online import OnlineStore

__all__ = ["Lease", "holder", "leased"]


class Lease:
    """One attempt to own a name.

    Args:
        ttl_s: it ends so long after the last renewal.
        owner: for people; empty: this process.
    """

    def __init__(self, store: OnlineStore, name: str, ttl_s: float, owner: str = "") -> None:
        self._calls, self._name, self._key, self._ttl_s = store.blocking_calls, name, store.key("lease", name), ttl_s
        self._lock = self._calls.lock(self._key, timeout=ttl_s, thread_local=False)
        owner = owner or f"process {os.getpid()} on {socket.gethostname()}"
        self._value = json.dumps({"owner": owner, "since_ts": time.time(), "token": secrets.token_hex(8)})

    def take(self) -> None:
        """Take it.

        Raises: NotReadyError: another one has it, or the store is away.
        """
        with answering():
            if self._lock.acquire(blocking=False, token=self._value):
                return
            raw, left_ms = self._calls.get(self._key), self._calls.pttl(self._key)
        if not isinstance(raw, bytes):
            raise NotReadyError(f"{self._name}: found its lock given back just now, expected to get it; start it again")
        raise NotReadyError(
            f"{self._name}: found the lock held by {_say(raw)}, expected nobody; wait for it to end, "
            f"or where it has died {max(0, int(left_ms)) / 1000:.0f} s for its lease to"
        )

    def renew(self) -> None:
        """Hold it for its time to live from now on.

        Raises: NotReadyError: it was lost, or the store is away.
        """
        with answering():
            try:
                self._lock.extend(self._ttl_s, replace_ttl=True)
            except LockError as exc:
                raise NotReadyError(
                    f"{self._name}: the lock was lost, expected to hold it; another one may be at work"
                ) from exc

    def give_back(self) -> None:
        """End it, where it is still ours."""
        with contextlib.suppress(redis.RedisError, OSError):
            self._lock.release()


@contextlib.contextmanager
def leased(store: OnlineStore, name: str, owner: str = "", ttl_s: float = 60.0) -> Iterator[Lease]:
    """Own a name while the block runs; a thread renews the lease three times within its life.

    Before what must not be done twice, call `Lease.renew`: it raises where the lease was lost meanwhile.

    Raises: NotReadyError: another one has it.
    """
    lease, stop = Lease(store, name, ttl_s, owner), threading.Event()
    lease.take()

    def keep() -> None:
        while not stop.wait(ttl_s / 3):
            with contextlib.suppress(NotReadyError):  # the owner asks before what matters
                lease.renew()

    thread = threading.Thread(target=keep, name=f"lease-{name}", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        stop.set()
        thread.join()
        lease.give_back()


def holder(store: OnlineStore, name: str) -> str:
    """Who has a lease, and since when; empty where nobody has.

    Raises: NotReadyError: the store is away.
    """
    with answering():
        raw = store.blocking_calls.get(store.key("lease", name))
    return _say(raw) if isinstance(raw, bytes) else ""


def _say(raw: bytes) -> str:
    held = json.loads(raw)
    return f"{held['owner']} since {datetime.fromtimestamp(held['since_ts'], UTC):%Y-%m-%d %H:%M:%S} UTC"
