"""What a person or job reads when the store does not answer."""

import contextlib
from collections.abc import Iterator

import redis

from reco_ray.errors import NotReadyError

__all__ = ["answering"]


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """Translate the client's errors.

    Raises: NotReadyError: the store is away.
    """
    try:
        yield
    except (redis.RedisError, OSError) as exc:
        raise NotReadyError(f"the online store does not answer: {exc}; start it, or check store.url") from exc
