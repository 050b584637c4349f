"""Profiles of users in the online store: attributes and interests, as an application sends them.

One value per user, ``{namespace}:profile:{digest}``, kept until it is replaced or the user is erased (an erasure removes every
key that ends in the user's digest). It has no end of its own: unlike a row it cannot be made again from the lake.
"""

import redis.asyncio.client

from reco_ray.errors import SchemaError
from reco_ray.hashing import user_digest
from reco_ray.store.away import answering
from reco_ray.store.fence import FenceEntry
from reco_ray.store.online import OnlineStore
from reco_ray.store.packing import NO_INTERESTS, Interests, Profile, pack_profile, unpack_interests, unpack_profile
from reco_ray.store.slates import SlateStore

__all__ = ["ProfileStore"]


class ProfileStore:
    """The profiles of an online store, on an event loop. Every method raises NotReadyError when the store is away.

    Args:
        slates: of the same store; other interests than before purge the user's.
    """

    def __init__(self, store: OnlineStore, slates: SlateStore) -> None:
        self._store, self._slates = store, slates

    async def load(self, user_id: str) -> Profile | None:
        """Read a user's profile; None when there is none.

        Raises: SchemaError: it has another format.
        """
        with answering():
            raw = await self._store.calls.get(self._key(user_digest(user_id)))
        return unpack_profile(raw) if isinstance(raw, bytes) else None

    async def save(self, user_id: str, profile: Profile) -> bool:
        """Replace a user's profile; returns whether it is kept: not that of a user who is being erased.

        One transaction, so that no profile comes in behind the fence, and none is kept while slates of other interests stay.
        """
        user, fence = user_digest(user_id), self._store.key("fence")
        key = self._key(user)

        async def change(pipe: redis.asyncio.client.Pipeline) -> bool:
            entry = await pipe.hget(fence, user)  # immediate while the keys are watched
            if isinstance(entry, bytes) and not FenceEntry.parse(entry).done:
                return False
            before = _interests(await pipe.get(key))
            pipe.multi()  # type: ignore[no-untyped-call]
            pipe.set(key, pack_profile(profile))
            if profile.interests != before:
                self._slates.purge_within(pipe, user)
            return True

        with answering():
            return bool(await self._store.calls.transaction(change, key, fence, value_from_callable=True))

    def _key(self, user: str) -> str:
        return self._store.key("profile", user)


def _interests(raw: object) -> Interests | None:
    """Interests of a value; None of one that cannot be read, and is replaced."""
    try:
        return unpack_interests(raw) if isinstance(raw, bytes) else NO_INTERESTS
    except SchemaError:
        return None
