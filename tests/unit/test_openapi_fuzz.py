"""Schemathesis: whatever the published contract allows is answered by it, and nothing gives a 500."""

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

_world = World()
_world.ask("GET", "/readyz")  # loads the release
schema = schemathesis.openapi.from_asgi("/openapi.json", _world.app)
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
