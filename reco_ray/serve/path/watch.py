"""Following how many replicas run, so that a gateway keeps as many batches out as they can work on."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from reco_ray.serve.path.load import batches_in_flight
from reco_ray.serve.path.pipeline import Stages
from reco_ray.serve.path.stages import Remote
from reco_ray.serve.render import GATEWAY, application_name

__all__ = ["STAGES", "ReplicaWatch", "Replicas"]

log = logging.getLogger(__name__)

STAGES = ("Recall", "Ranker", "Reranker")
"""Deployments of a release, in the order of the path."""

Replicas = Mapping[str, Mapping[str, int]]
"""Running replicas by application and deployment."""


class ReplicaWatch:
    """Sets each loaded release's batches in flight from time to time.

    Args:
        count: asks Serve; slow, called in a thread; whatever it raises leaves everything as it is.
        loaded: the stages of the releases that are loaded.
        interval_s: between questions.
    """

    def __init__(
        self,
        count: Callable[[], Replicas],
        loaded: Callable[[], Mapping[str, Stages[Any, Any, Any]]],
        interval_s: float = 5.0,
    ) -> None:
        self._count, self._loaded, self._interval_s = count, loaded, interval_s

    async def run(self) -> None:
        """Follow until cancelled; no error ends it."""
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.refresh()
            except Exception as exc:
                log.warning("Serve does not say how many replicas run: %s: %s", type(exc).__name__, exc)

    async def refresh(self) -> None:
        """Ask once."""
        running = await asyncio.to_thread(self._count)
        gateways = running.get(GATEWAY, {}).get("Gateway", 1)
        for release, stages in self._loaded().items():
            if isinstance(stages, Remote) and (replicas := running.get(application_name(release))) is not None:
                stages.allow_in_flight(*(batches_in_flight(replicas.get(name, 0), gateways) for name in STAGES))
