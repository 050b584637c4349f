"""What gateways counted of mirrored requests: one hash per rollout, ``{namespace}:rollout:shadow:<name>``, of sums."""

from collections.abc import Mapping

from reco_ray.store.away import answering
from reco_ray.store.online import OnlineStore

__all__ = ["ShadowStore"]

_TTL_S = 30 * 86400


class ShadowStore:
    """Sums by field. A gateway that dies takes with it what it counted since its last call."""

    def __init__(self, store: OnlineStore) -> None:
        self._store = store

    async def add(self, name: str, counts: Mapping[str, float]) -> None:
        """Add to the sums, all or nothing.

        Raises: redis.RedisError: the store is away.
        """
        pipe = self._store.calls.pipeline(transaction=True)
        for field, n in counts.items():
            pipe.hincrbyfloat(self._key(name), field, n)
        pipe.expire(self._key(name), _TTL_S)
        await pipe.execute()

    def read(self, name: str) -> dict[str, float]:
        """The sums of all gateways.

        Raises: NotReadyError: the store is away.
        """
        with answering():
            found = self._store.blocking_calls.hgetall(self._key(name))
        return {field.decode(): float(n) for field, n in found.items() if isinstance(field, bytes)}

    def _key(self, name: str) -> str:
        return self._store.key("rollout", "shadow", name)
