"""A feature stream in a process of its own, to be killed: what `streaming.follower` runs in a thread, without Ray."""

from multiprocessing.synchronize import Event

import polars as pl

from reco_ray.compose import compose_config
from reco_ray.features.items import ItemFacts
from reco_ray.streaming.features import open_stream

__all__ = ["FACTS", "keep_applying"]

FACTS = ItemFacts.of(
    pl.DataFrame({"item_id": ["a", "b", "c"], "year": [1999, 2005, 2010], "categories": [["x"], ["x", "y"], []]}), ["x", "y"]
)


def keep_applying(overrides: list[str], store_url: str, view: str, working: Event) -> None:
    """Run until killed; sets ``working`` when the first batch is asked for."""
    with open_stream(compose_config(overrides), store_url, view, FACTS, 0) as stream:
        working.set()
        while True:
            stream.run_once()
