"""Schemathesis: whatever the published contract allows is answered by it, and nothing gives a 500."""

import asyncio

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

from reco_ray.serve.guard.gate import Gate
from reco_ray.store import KeyRecord, Scope
from reco_ray.store.keys import new_key

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
