"""Events: what applications send comes in, rows of the lake's `events` go out; the contract, the bus between, and the sink.

Called by the gateway (admission, producing), by the sink's actors, by `jobs` and the command line.
"""

from reco_ray.events.bus import Outgoing, Producer, Reader, Record

__all__ = ["Outgoing", "Producer", "Reader", "Record"]
