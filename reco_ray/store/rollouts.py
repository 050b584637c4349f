"""The rollout of an online store: its state, what was counted of it, its audit records, and who may change the shares.

``{namespace}:rollout`` holds the state as JSON, ``:evidence`` the counts together with the positions of the bus that they
reach to, ``:audit`` the records, ``:users:*`` for each step and release the users seen, as 64-bit hashes with a salt of the
rollout's own. State, shares and audit record change in one transaction: no share changes without a record of it.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import redis

from reco_ray.store.away import answering
from reco_ray.store.leases import Lease
from reco_ray.store.online import OnlineStore, Shadow, Traffic, read_traffic, write_traffic

__all__ = ["Change", "RolloutStore"]

_AUDIT_MOST = 10_000
_LOCK_S = 10.0
_USERS_TTL_S = 30 * 86400

Found = Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Change:
    """What a transaction writes.

    Attributes:
        state: of the rollout; None leaves it.
        weights: shares of releases that the traffic record names; None leaves them, and the shadow.
        audit: the record of it.
        shadow: that goes with the weights.
        also: other fields of the traffic record, by name.
    """

    state: Found
    weights: Mapping[str, float] | None
    audit: Mapping[str, Any]
    shadow: Shadow | None = None
    also: Mapping[str, Any] = field(default_factory=dict)


class RolloutStore:
    """Every method raises NotReadyError when the store is away."""

    def __init__(self, store: OnlineStore) -> None:
        self._store, self._calls = store, store.blocking_calls
        self._key, self._traffic_key = store.key("rollout"), store.key("traffic")

    def load(self) -> Found:
        """The state of the last rollout, or None."""
        with answering():
            return _json(self._calls.get(self._key))

    def change(self, make: Callable[[Found, Traffic], Change | None]) -> Change | None:
        """Let ``make`` decide from the state and the shares as they are; again when somebody else wrote meanwhile.

        Args:
            make: returns what to write, or None for nothing; what it raises is raised, and nothing written.
        """
        made: list[Change | None] = []

        def within(pipe: redis.client.Pipeline) -> None:
            found, traffic = _json(pipe.get(self._key)), read_traffic(pipe.get(self._traffic_key))
            change = make(found, traffic)
            made.append(change)
            pipe.multi()
            if change is None:
                return
            if change.state is not None:
                pipe.set(self._key, json.dumps(change.state))
            changed = dict(change.also)
            if change.weights is not None:
                changed["weights"] = {**dict.fromkeys(traffic.weights, 0.0), **change.weights}
                changed["shadow"] = change.shadow
                # not the rollout's id alone: that is the salt of the buckets that its tests count users in
                changed["salt"] = traffic.salt if change.state is None else f"traffic {change.state['rollout_id']}"
            if changed:
                pipe.set(self._traffic_key, write_traffic(replace(traffic, version=traffic.version + 1, **changed)))
            pipe.lpush(f"{self._key}:audit", json.dumps(change.audit))
            pipe.ltrim(f"{self._key}:audit", 0, _AUDIT_MOST - 1)

        with answering():
            self._calls.transaction(within, self._key, self._traffic_key)
        return made[-1]

    def history(self, n: int) -> list[dict[str, Any]]:
        """The last ``n`` audit records, newest first."""
        with answering():
            return [json.loads(raw) for raw in self._calls.lrange(f"{self._key}:audit", 0, n - 1)]

    def evidence(self) -> Found:
        """What was counted, with the positions that it reaches to."""
        with answering():
            return _json(self._calls.get(f"{self._key}:evidence"))

    def save_evidence(self, found: Mapping[str, Any]) -> None:
        """Keep counts and positions, in one write."""
        with answering():
            self._calls.set(f"{self._key}:evidence", json.dumps(found))

    def saw_users(self, rollout_id: str, step: int, arm: str, users: Iterable[bytes]) -> int:
        """Note users of one release in one step; returns how many distinct ones there are."""
        key = f"{self._key}:users:{rollout_id}:{step}:{arm}"
        with answering():
            pipe = self._calls.pipeline(transaction=False)
            if seen := list(users):
                pipe.sadd(key, *seen)
                pipe.expire(key, _USERS_TTL_S)
            pipe.scard(key)
            return int(pipe.execute()[-1])

    @contextlib.contextmanager
    def alone(self) -> Iterator[Callable[[], None]]:
        """Hold the lock of the one controller; yields what extends it, to be called every second or so.

        A controller that dies holds it for ten seconds more.

        Raises: NotReadyError: another one holds it, or this one has lost it.
        """
        lease = Lease(self._store, "rollouts", _LOCK_S)
        lease.take()
        try:
            yield lease.renew
        finally:
            lease.give_back()


def _json(raw: object) -> Found:
    return json.loads(raw) if isinstance(raw, bytes) else None
