"""The online store as the request path reads it: what concurrent requests want leaves as one pipeline."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reco_ray.errors import SchemaError
from reco_ray.serve.path.coalesce import Coalescer
from reco_ray.store import FinishedSlate, Interests, OnlineStore, Precomputed, SlateStore
from reco_ray.types import UserRow

__all__ = ["StoreReads"]

_Keys = NDArray[np.uint64]
_Read = tuple[UserRow | SchemaError, FinishedSlate | None, Interests, _Keys]

_PIPELINES = 2  # one at work, one on its way


class StoreReads:
    """`service.Store` over the real one."""

    def __init__(self, store: OnlineStore, slates: SlateStore, rows: int = 64) -> None:
        self._store, self._slates = store, slates
        self._reads: Coalescer[_Read] = Coalescer(self._read, max_in_flight=_PIPELINES, max_rows=rows)

    async def user_and_slate(
        self, user_id: str, view: str, field: str
    ) -> tuple[UserRow, FinishedSlate | None, Interests, _Keys]:
        """As `store.SlateStore.users_and_slates`, for one.

        Raises: SchemaError: this user's row cannot be read.
        """
        row, slate, interests, served = await self._reads(user_id, view, field)
        if isinstance(row, SchemaError):
            raise row
        return row, slate, interests, served

    async def precomputed(self, user_id: str) -> Precomputed | None:
        """As `store.SlateStore.precomputed`."""
        return await self._slates.precomputed(user_id)

    async def alive(self) -> bool:
        """As `store.OnlineStore.alive`."""
        return await self._store.alive()

    async def _read(self, user_ids: Sequence[str], views: Sequence[str], fields: Sequence[str]) -> list[_Read]:
        return await self._slates.users_and_slates(user_ids, views, fields)
