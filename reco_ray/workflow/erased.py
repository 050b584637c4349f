"""Whom an import must leave out: the fence of the root's online store, running or not."""

import contextlib
from collections.abc import Callable, Iterator

from reco_ray.cluster import embedded_store
from reco_ray.config import PipelineConfig
from reco_ray.lake import storage
from reco_ray.store import Fence, FenceStore, OnlineStore

__all__ = ["erased_users"]


@contextlib.contextmanager
def erased_users(config: PipelineConfig) -> Iterator[Callable[[], Fence]]:
    """Yield what reads the fence; a root that never had a store has an empty one, and gets no store by this.

    Raises: NotReadyError: there is a store, and it cannot be had just now.
    """
    if not config.store.url and not storage.exists(storage.join(config.root, "store")):
        yield Fence
        return
    with embedded_store(config) as url, OnlineStore(url, config.store.namespace) as store:
        yield FenceStore(store).read
