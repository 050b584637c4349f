"""The sinks with their feeds: events, and the decisions that gateways record."""

from typing import TYPE_CHECKING

from reco_ray.config import PipelineConfig
from reco_ray.events.bus import EVENTS, EXPOSURES
from reco_ray.events.encoding import rows_to_table
from reco_ray.events.feed import Feed
from reco_ray.feedback import exposures
from reco_ray.workflow.tracking import commit

if TYPE_CHECKING:
    from reco_ray.streaming.follower import FeatureState, SinkState

__all__ = ["FEEDS", "feature_status", "sink_status", "start_sinks", "stop_sinks"]

FEEDS = (
    Feed(EVENTS, "event_id", rows_to_table),
    Feed(EXPOSURES, "request_id", exposures.rows_to_table),
)


def start_sinks(config: PipelineConfig, store_url: str) -> "list[SinkState]":
    """Start the sinks of all partitions, and replace those of another version; returns when all are at work.

    Raises: NotReadyError: one does not come up.
    """
    from reco_ray.streaming import actor  # imports Ray

    return actor.start_sinks(config, store_url, FEEDS, commit())


def stop_sinks(config: PipelineConfig) -> int:
    """Stop the sinks of this store's namespace; returns how many partitions had one."""
    from reco_ray.streaming import actor

    return actor.stop_sinks(config)


def sink_status(config: PipelineConfig) -> "list[SinkState]":
    """State of each topic of each partition, where there is a sink."""
    from reco_ray.streaming import actor

    return actor.sink_status(config)


def feature_status(config: PipelineConfig) -> "list[FeatureState]":
    """State of the online features of each partition and user view."""
    from reco_ray.streaming import actor

    return actor.feature_status(config)
