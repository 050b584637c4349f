"""Events over the real gateway: two replicas, HAProxy, the bus in the store, and the client."""

import contextlib
from collections import Counter

import orjson
from serve_world import World

from reco_ray.config import EventsConfig
from reco_ray.events.bus import EVENTS
from reco_ray.events.client import EventClient
from reco_ray.events.open import open_reader


def stored(world: World) -> Counter[str]:
    """How often each event_id is on the bus."""
    found: Counter[str] = Counter()
    for partition in range(EventsConfig().bus.partitions):
        with contextlib.closing(open_reader(EventsConfig(), "reco", world.store_url, EVENTS, partition)) as reader:
            after = -1
            while records := reader.read(after, 1_000, 0.0):
                after = records[-1].position
                found.update(orjson.loads(record.value)["event_id"] for record in records)
    return found


def test_events_of_the_client_are_on_the_bus_once_whichever_replica_takes_them(world: World) -> None:
    click = {"schema_version": "1.1", "type": "click", "item_id": "item-1"}
    with EventClient(world.url, batch=50) as client:
        ids = [client.send({**click, "user_id": f"user-{n}"}) for n in range(1000)]
        client.flush()
        for n, event_id in enumerate(ids):
            client.send({**click, "user_id": f"user-{n}", "event_id": event_id})
    assert (client.stats.accepted, client.stats.duplicates, client.stats.rejected) == (1000, 1000, 0)
    found = stored(world)
    assert {event_id: found[event_id] for event_id in ids} == dict.fromkeys(ids, 1)


def test_a_bad_event_is_rejected_by_itself_and_a_problem_passes_the_proxy(world: World) -> None:
    good = {"event_id": "good", "type": "view", "user_id": "user-1", "item_id": "item-1", "ts": "2026-05-01T12:00:00Z"}
    answer = world.post({"events": [{**good, "event_id": "bad", "type": "dance"}, good]}, "/v1/events").json()
    assert [each["status"] for each in answer["results"]] == ["rejected", "accepted"]
    response = world.post({"events": []}, "/v1/events")
    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")
    assert world.get("/v1/events/schema").json()["properties"]["event_id"]
