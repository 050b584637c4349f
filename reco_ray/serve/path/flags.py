"""Flags reach a replica: a gateway and the stages follow what is switched off in the online store."""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from reco_ray.serve.path.looking import Looks
from reco_ray.slate import SwitchedStage
from reco_ray.store import NO_FLAGS, Flags, FlagStore, OnlineStore

__all__ = ["FlagFollower", "keep_flags"]

log = logging.getLogger(__name__)

_INTERVAL_S = 1.0
_SETTLE_S = 3.0  # until the stages have followed


class FlagFollower:
    """Follows the flags in a gateway; while the store is away those read last stay.

    Args:
        poll: `store.FlagStore.poll`; whatever it raises means that the store is away.
    """

    def __init__(self, poll: Callable[[], Awaitable[Flags]], clock: Callable[[], float] = time.monotonic) -> None:
        self._poll, self._clock, self._store_answers, self._settled_at = poll, clock, True, 0.0
        self.flags = NO_FLAGS

    async def run(self) -> None:
        """Follow until cancelled; no error ends it."""
        while True:
            await self.refresh()
            await asyncio.sleep(_INTERVAL_S)

    async def refresh(self) -> None:
        """Read them once."""
        try:
            found = await self._poll()
        except Exception as exc:
            if self._store_answers:
                log.warning("the flags cannot be read (%s); those read last stay", type(exc).__name__)
            self._store_answers = False
            return
        self._store_answers = True
        if found.version != self.flags.version:
            log.info("flags %d: %s", found.version, ", ".join(found.marks) or "all on")
            self._settled_at = self._clock() + _SETTLE_S
        self.flags = replace(found, settled=self._clock() >= self._settled_at)


def keep_flags(stages: Sequence[object], store_url: str, namespace: str) -> threading.Event:
    """Let stages know what is switched off until the returned event is set; those that are no `slate.SwitchedStage` stay as
    they are, and so do all while the store is away.
    """
    stop = threading.Event()
    switched = [stage for stage in stages if isinstance(stage, SwitchedStage)]
    if not store_url or not switched:
        return stop
    store = OnlineStore(store_url, namespace)
    flags, looks, seen = FlagStore(store), Looks("flags"), -1

    def catch_up() -> None:
        nonlocal seen
        found = flags.load()
        if found.version != seen:
            for stage in switched:
                stage.switch(found)
            seen = found.version

    looks.once(catch_up)

    def run() -> None:
        while not stop.wait(_INTERVAL_S):
            looks.once(catch_up)
        store.blocking_calls.close()

    threading.Thread(target=run, name="flags", daemon=True).start()
    return stop
