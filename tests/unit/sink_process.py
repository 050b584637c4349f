"""A sink in a process of its own, to be killed: what `streaming.follower` runs in a thread, without Ray."""

import sys
import threading

from reco_ray.compose import compose_config
from reco_ray.errors import NotReadyError, StaleWriterError
from reco_ray.events.bus import EVENTS
from reco_ray.events.encoding import rows_to_table
from reco_ray.events.feed import Feed, open_flow

__all__ = ["run"]


def run(overrides: list[str], store_url: str, partition: int, working: threading.Event) -> None:
    """Run until killed; sets ``working`` when the first batch is asked for."""
    config, feed = compose_config(overrides), Feed(EVENTS, "event_id", rows_to_table)
    while True:
        try:
            with open_flow(config, store_url, feed, partition) as flow:
                working.set()
                while True:
                    flow.sink.run_once()
        except (NotReadyError, StaleWriterError) as exc:
            sys.stderr.write(f"{type(exc).__name__}: {exc}\n")
