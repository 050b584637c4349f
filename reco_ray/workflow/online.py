"""The online store of a root, for those who can do without one."""

import contextlib
from collections.abc import Iterator

from reco_ray.cluster import embedded_store
from reco_ray.config import PipelineConfig
from reco_ray.lake import storage
from reco_ray.store import OnlineStore

__all__ = ["online_store"]


@contextlib.contextmanager
def online_store(config: PipelineConfig) -> Iterator[OnlineStore | None]:
    """Yield the store; None for a root that never had one, which gets none by this.

    Raises: NotReadyError: there is a store, and it cannot be had just now.
    """
    if not config.store.url and not storage.exists(storage.join(config.root, "store")):
        yield None
        return
    with embedded_store(config) as url, OnlineStore(url, config.store.namespace) as store:
        yield store
