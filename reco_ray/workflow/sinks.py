"""The sinks with their feeds: events, and the decisions that gateways record."""

from reco_ray.config import PipelineConfig
from reco_ray.events.bus import EVENTS, EXPOSURES
from reco_ray.events.encoding import rows_to_table
from reco_ray.events.feed import Feed
from reco_ray.feedback import exposures
from reco_ray.workflow.tracking import commit

__all__ = ["FEEDS", "start_sinks"]

FEEDS = (
    Feed(EVENTS, "event_id", rows_to_table),
    Feed(EXPOSURES, "request_id", exposures.rows_to_table),
)


def start_sinks(config: PipelineConfig, store_url: str) -> int:
    """Start the sinks of all partitions, and replace those of another version; returns how many there are.

    Raises: NotReadyError: one does not come up.
    """
    from reco_ray.events import actor  # imports Ray

    return len(actor.start_sinks(config, store_url, FEEDS, commit()))
