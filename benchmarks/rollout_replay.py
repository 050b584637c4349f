"""Requests that the gateway logged, through the same release again: the slates must be the same, to the last bit."""

from dataclasses import asdict
from typing import Any

import polars as pl
from rollout_site import CHAMPION, Site, until

from reco_ray.events.bus import EXPOSURES
from reco_ray.events.feed import open_flow
from reco_ray.lake import tables
from reco_ray.release import open_release
from reco_ray.slate import Pipeline
from reco_ray.workflow.replay import logged_requests, replay
from reco_ray.workflow.sinks import FEEDS

__all__ = ["SETTINGS", "run_replay"]

_REQUESTS = 1_000
SETTINGS = [f"replay.requests={_REQUESTS}", "exposures.features_share=1"]


def run_replay(at: Site) -> dict[str, Any]:
    """Let requests come, store their decisions in the lake, and replay them; compares with what was served, too."""
    until(lambda: sum(line.rung == "full" for line in at.traffic()) > 1.5 * _REQUESTS, 120, "enough requests")
    _store(at)
    config = at.config
    config.release = config.replay.against = CHAMPION
    report = replay(config)
    requests = logged_requests(config, "bench", _REQUESTS)
    served = dict(tables.read(config.root, "exposures", ["request_id", "item_ids"]).select("request_id", "item_ids").rows())
    full = set(_full(at))
    pipeline = Pipeline.load(open_release(config.root, CHAMPION))
    compared = [request for request, _ in requests if request.request_id in full]
    as_served = sum(list(pipeline.run([each])[0].item_ids) == served[each.request_id] for each in compared)
    print(f"{report.identical} of {report.requests} identical, {as_served} of {len(compared)} as they were served", flush=True)
    checks = [{"name": "replay_identical", "value": report.identical, "unit": f"of {report.requests}"}]
    return {"checks": checks, "report": asdict(report), "as_served": as_served, "compared": len(compared)}


def _store(at: Site) -> None:
    """Bring the decisions on the bus into the lake, as a sink does."""
    feed = next(each for each in FEEDS if each.topic == EXPOSURES)
    for partition in range(at.config.events.bus.partitions):
        with open_flow(at.config, at.store_url, feed, partition) as flow:
            flow.sink.run_once()


def _full(at: Site) -> list[str]:
    rows = tables.read(at.config.root, "exposures", ["request_id", "rung"], pl.col("rung") == "full")
    return rows["request_id"].to_list()
