"""The calls about erasures: note a wish, show a receipt."""

import asyncio

from reco_ray.errors import NotReadyError
from reco_ray.privacy import Receipt, find_receipt, request_erasure
from reco_ray.serve.http import problems
from reco_ray.serve.privacy.following import FenceFollower
from reco_ray.store import ErasureStore

__all__ = ["ErasureCalls"]


class ErasureCalls:
    """Answers them. Rare calls that wait for the disk of the store: in a thread, with the patience of a job."""

    def __init__(self, erasures: ErasureStore, fence: FenceFollower) -> None:
        self._erasures, self._fence = erasures, fence

    async def erase(self, user_id: str) -> Receipt:
        """Answer ``DELETE /v1/users/{user_id}``: the fence is up in this replica when it returns, in others within a second.

        Raises: HttpProblem: the store is away; nothing was noted, or the wish is the same one next time.
        """
        try:
            receipt = await asyncio.to_thread(request_erasure, self._erasures, user_id)
        except NotReadyError as exc:
            raise problems.not_ready("the online store does not answer; ask again") from exc
        await self._fence.refresh()
        return receipt

    async def receipt(self, receipt_id: str) -> Receipt:
        """Answer ``GET /v1/erasures/{receipt_id}``.

        Raises: HttpProblem: there is no such receipt, or the store is away.
        """
        try:
            receipt = await asyncio.to_thread(find_receipt, self._erasures, receipt_id)
        except NotReadyError as exc:
            raise problems.not_ready("the online store does not answer; ask again") from exc
        if receipt is None:
            raise problems.unknown_receipt()
        return receipt
