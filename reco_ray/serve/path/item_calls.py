"""The calls about items: keep what an application says of one, show it, delete it; and how this replica follows them."""

import asyncio

from reco_ray.errors import NotReadyError, SchemaError
from reco_ray.serve.http import problems
from reco_ray.serve.http.item_bodies import ItemBody
from reco_ray.serve.path.items import INTERVAL_S, ItemFollower
from reco_ray.store import Item, ItemStore, LiveItem

__all__ = ["ItemCalls"]


class ItemCalls:
    """Answers them.

    Args:
        items: of a store that is given the time to write.
        follower: of the items that this replica may not show.
    """

    def __init__(self, items: ItemStore, follower: ItemFollower) -> None:
        self._items, self._follower = items, follower

    async def put(self, item_id: str, body: ItemBody) -> LiveItem:
        """Answer ``PUT /v1/items/{item_id}``: durable; other replicas have it within a second or so.

        Raises: HttpProblem: the store is away; the same call may be made again.
        """
        try:
            await self._items.put(item_id, body.item())
            found = await self._items.load(item_id)
        except NotReadyError as exc:
            raise problems.not_ready("the online store does not answer; ask again") from exc
        await self.refresh()
        if found is None or found.item is None:  # deleted meanwhile by another call
            raise problems.item_not_kept(item_id)
        return found

    async def show(self, item_id: str) -> tuple[LiveItem, Item]:
        """Answer ``GET /v1/items/{item_id}``. An item of another format, as while two versions run, is none.

        Raises: HttpProblem: nothing is kept of it, or the store is away.
        """
        try:
            found = await self._items.load(item_id)
        except SchemaError:
            found = None
        except NotReadyError as exc:
            raise problems.not_ready("the online store does not answer; ask again") from exc
        if found is None or found.item is None:
            raise problems.item_not_kept(item_id)
        return found, found.item

    async def delete(self, item_id: str) -> int:
        """Answer ``DELETE /v1/items/{item_id}``: no answer of this replica shows it any more; returns the version.

        Raises: HttpProblem: as `put`.
        """
        try:
            version = await self._items.delete(item_id)
        except NotReadyError as exc:
            raise problems.not_ready("the online store does not answer; ask again") from exc
        await self.refresh()
        return version

    async def refresh(self) -> None:
        """Look once for changes that others made."""
        await asyncio.to_thread(self._follower.look)

    async def run(self) -> None:
        """Follow until cancelled; no error ends it."""
        while True:
            await self.refresh()
            await asyncio.sleep(INTERVAL_S)
