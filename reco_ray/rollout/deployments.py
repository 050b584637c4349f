"""The controller as a Serve deployment: Serve starts it again wherever it dies, and it outlives the driver."""

import threading

from ray import serve

from reco_ray.config import EventsConfig
from reco_ray.errors import NotReadyError
from reco_ray.monitoring.serve_log import share_serve_log
from reco_ray.rollout.running import run_controller

__all__ = ["Rollouts"]

_STOP_S = 5.0


@serve.deployment
class Rollouts:
    """One replica with a thread that takes a turn each second; until an old one has ended, the store's lock holds it up."""

    def __init__(self, events: EventsConfig, namespace: str, store_url: str, webhook: str) -> None:
        share_serve_log()
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=run_controller,
            args=(events, namespace, store_url, webhook),
            kwargs={"stop": self._stop},
            name="rollouts",
            daemon=True,
        )
        self._thread.start()

    def __del__(self) -> None:
        """Let the turn that is under way end, and give the lock back."""
        if (stop := getattr(self, "_stop", None)) is not None:
            stop.set()
            self._thread.join(_STOP_S)

    def check_health(self) -> None:
        """Raise when the thread has ended."""
        if not self._thread.is_alive():
            raise NotReadyError("rollouts: found the controller's thread ended, expected it to run; replace the replica")
