"""The calls about users' profiles: keep what an application says of a user, show it."""

import time
from collections.abc import Callable

from reco_ray.errors import NotReadyError, SchemaError
from reco_ray.hashing import user_digest
from reco_ray.serve.http import problems
from reco_ray.serve.http.user_bodies import UserBody
from reco_ray.store import Profile, ProfileStore

__all__ = ["ProfileCalls"]


class ProfileCalls:
    """Answers them.

    Args:
        profiles: of a store that is given the time to write.
        hides: whether a user (id) is being erased, as far as this replica knows.
        purged: told, as a digest, of whose slates are old now; other replicas follow the list of purges.
        clock: unix time in seconds.
    """

    def __init__(
        self,
        profiles: ProfileStore,
        hides: Callable[[str], bool],
        purged: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._profiles, self._hides, self._purged, self._clock = profiles, hides, purged, clock

    async def keep(self, user_id: str, body: UserBody) -> Profile:
        """Answer ``PUT /v1/users/{user_id}``: durable; the next slate here follows it, in other replicas within a second or so.

        Raises: HttpProblem: the user is being erased, or the store is away; the same call may be made again.
        """
        profile = body.profile(self._clock())
        try:
            kept = await self._profiles.save(user_id, profile)
        except NotReadyError as exc:
            raise problems.not_ready("the online store does not answer; ask again") from exc
        if not kept:
            raise problems.being_erased()
        self._purged(user_digest(user_id))
        return profile

    async def show(self, user_id: str) -> Profile:
        """Answer ``GET /v1/users/{user_id}``. A profile of another format, as while two versions run, is none.

        Raises: HttpProblem: nothing is kept of the user, or the store is away.
        """
        try:
            found = None if self._hides(user_id) else await self._profiles.load(user_id)
        except SchemaError:
            found = None
        except NotReadyError as exc:
            raise problems.not_ready("the online store does not answer; ask again") from exc
        if found is None:
            raise problems.unknown_user()
        return found
