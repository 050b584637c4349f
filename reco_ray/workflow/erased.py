"""Whom an import must leave out: the fence of the root's online store, running or not."""

import contextlib
from collections.abc import Callable, Iterator

from reco_ray.config import PipelineConfig
from reco_ray.store import Fence, FenceStore
from reco_ray.workflow.online import online_store

__all__ = ["erased_users"]


@contextlib.contextmanager
def erased_users(config: PipelineConfig) -> Iterator[Callable[[], Fence]]:
    """Yield what reads the fence; a root that never had a store has an empty one.

    Raises: NotReadyError: there is a store, and it cannot be had just now.
    """
    with online_store(config) as store:
        yield Fence if store is None else FenceStore(store).read
