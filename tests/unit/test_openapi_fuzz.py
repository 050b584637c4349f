"""Schemathesis: whatever the published contract allows is answered by it, and nothing gives a 500."""

import asyncio
import json
from collections import Counter

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from test_contract import World
from test_event_intake import Gateway

from reco_ray.events.contract import event_schema
from reco_ray.serve.guard.gate import Gate
from reco_ray.serve.http import openapi
from reco_ray.serve.http.event_bodies import EventsAnswer
from reco_ray.store import KeyRecord, Scope
from reco_ray.store.keys import new_key

_statuses: Counter[str] = Counter()
_record, _key = new_key("fuzz", list(Scope), 0.0)


async def _poll() -> tuple[KeyRecord, ...]:
    return (_record,)


_gate = Gate(_poll, rate=1e9, burst=10**9)
asyncio.run(_gate.refresh())
_world = World(gate=_gate, events=Gateway().intake)
_world.ask("GET", "/readyz")  # loads the release
schema = schemathesis.openapi.from_asgi("/openapi.json", _world.app)


@schema.auth()  # type: ignore[misc]
class Auth:
    """The key of all scopes."""

    def get(self, case: schemathesis.Case, context: object) -> str:
        return _key

    def set(self, case: schemathesis.Case, data: str, context: object) -> None:
        case.headers["Authorization"] = f"Bearer {data}"


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


@schema.parametrize()
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
def test_the_contract_holds(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=CHECKS)


def _events_in_full() -> schemathesis.schemas.BaseSchema:
    """The document with the published schema of an event in place of "anything": each event is judged for itself."""
    document = json.loads(json.dumps(openapi.schema()))
    event = json.loads(json.dumps(event_schema()).replace("#/$defs/", "#/components/schemas/"))
    schemas = document["components"]["schemas"]
    schemas |= event.pop("$defs")
    schemas["EventsBody"]["properties"]["events"] |= {"items": event, "maxItems": 20}
    found = schemathesis.openapi.from_dict(document)
    found.app = _world.app
    return found.include(path="/v1/events", method="POST")


events = _events_in_full()
events.auth()(Auth)


@events.parametrize()
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
def test_whatever_the_published_schema_of_events_allows_or_not_each_gets_a_result(case: schemathesis.Case) -> None:
    response = case.call_and_validate(checks=[check for check in CHECKS if check is not negative_data_rejection])
    if response.status_code == 200:
        answer = EventsAnswer.model_validate(response.json())
        assert len(answer.results) == len(case.body["events"])
        assert answer.accepted + answer.duplicates + answer.rejected == len(answer.results)
        _statuses.update(result.status for result in answer.results)


def test_the_fuzzing_of_events_has_seen_every_status() -> None:
    """By now; an event that is accepted needs a time, which text seldom is."""
    if not _statuses:
        pytest.skip("it looks at what the test before it has seen")
    assert set(_statuses) >= {"accepted", "rejected"}, _statuses
