"""Waiting until nobody works by an older fence: from then on nothing of the fenced users is written any more."""

import time
from collections.abc import Callable, Sequence

from reco_ray.errors import NotReadyError
from reco_ray.store import FenceReader

__all__ = ["settle"]

_GATEWAY_SILENT_S = 15.0  # one that cannot reach the store takes no events either
_SINK_SILENT_S = 120.0  # longer than any batch; one that comes back reads the fence before it does anything


def settle(
    readers: Callable[[], Sequence[FenceReader]],
    version: int,
    timeout_s: float = 300.0,
    pause: Callable[[float], None] = time.sleep,
) -> int:
    """Wait until every gateway and sink works by a version of the fence or a later one; returns how many there are.

    Who has not read the fence for a while has gone.

    Raises: NotReadyError: somebody reads it and yet works by an older one.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        alive = [each for each in readers() if each.age_s < _silent_s(each.name)]
        behind = [each.name for each in alive if each.version < version]
        if not behind:
            return len(alive)
        if time.monotonic() > deadline:
            raise NotReadyError(
                f"fence: found {', '.join(behind[:5])} behind version {version} after {timeout_s:g} s, "
                "expected them to follow; look at their logs, then run it again"
            )
        pause(0.2)


def _silent_s(name: str) -> float:
    return _GATEWAY_SILENT_S if name.startswith("gateway:") else _SINK_SILENT_S
