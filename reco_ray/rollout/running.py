"""The controller's loop: one in the whole cluster, wherever it is started; others wait until it has ended."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx

from reco_ray.config import EventsConfig
from reco_ray.errors import NotReadyError
from reco_ray.events.bus import EVENTS, EXPOSURES
from reco_ray.events.open import open_reader
from reco_ray.rollout.controller import Controller
from reco_ray.store import OnlineStore, RolloutStore, ShadowStore

__all__ = ["open_controller", "run_controller", "webhook"]

log = logging.getLogger(__name__)

_INTERVAL_S = 1.0
_WEBHOOK_TIMEOUT_S = 3.0


def run_controller(
    events: EventsConfig, namespace: str, store_url: str, webhook_url: str = "", *, stop: threading.Event
) -> None:
    """Turn until ``stop`` is set. While the store or the bus is away, or another controller works, try again."""
    said = ""
    while not stop.is_set():
        try:
            with open_controller(events, namespace, store_url, webhook_url) as turn:
                said = ""
                while not stop.is_set():
                    turn()
                    stop.wait(_INTERVAL_S)
        except NotReadyError as exc:
            if str(exc) != said:
                log.warning("rollouts wait: %s", exc)
            said = str(exc)
        except Exception:
            log.exception("the controller of rollouts failed; starting it again")
        stop.wait(_INTERVAL_S)


@contextlib.contextmanager
def open_controller(
    events: EventsConfig, namespace: str, store_url: str, webhook_url: str = ""
) -> Iterator[Callable[[], object]]:
    """Hold the lock and connect; yields what takes one turn.

    The bus keeps nothing for this reader: rollouts must never hold up events. What the sink has stored and the bus has let go
    before it was counted is missing on both sides alike.

    Raises: NotReadyError: the store is away, or another controller works.
    """
    with contextlib.ExitStack() as stack:
        online = stack.enter_context(OnlineStore(store_url, namespace))
        store = RolloutStore(online)
        extend = stack.enter_context(store.alone())
        places = [(topic, partition) for topic in (EXPOSURES, EVENTS) for partition in range(events.bus.partitions)]
        readers = {place: open_reader(events, namespace, store_url, *place) for place in places}
        for reader in readers.values():
            stack.callback(reader.close)
        controller = Controller(store, readers, ShadowStore(online), webhook(webhook_url))

        def turn() -> object:
            extend()
            return controller.turn()

        yield turn


def webhook(url: str) -> Callable[[Mapping[str, Any]], None]:
    """Make what posts an audit record as JSON; nothing where there is no address. It is tried once."""

    def post(record: Mapping[str, Any]) -> None:
        if url:
            httpx.post(url, json=dict(record), timeout=_WEBHOOK_TIMEOUT_S).raise_for_status()

    return post
