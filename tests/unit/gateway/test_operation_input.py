"""What is sent to an operation is FHIR, or is refused before any of its own code: for every operation there is."""

from __future__ import annotations

import httpx
import pytest
from pydantic import SecretStr

from services.gateway.operations import OPERATIONS
from services.gateway.service import SERVICE
from shared.fhir.json import dump
from shared.http.app import create_fhir_app
from shared.http.backend import OperationResult
from shared.runtime.settings import Settings

MALFORMED = [
    ("Parameters.parameter", "many"),
    ("Parameters.parameter[0]", [5]),
    ("Parameters.parameter[0].name", [{"valueString": "x"}]),
    ("Parameters.parameter[0].value", [{"name": "witness", "valueReference": "x"}]),
    ("Parameters.parameter[0].value.reference", [{"name": "witness", "valueReference": {"reference": 5}}]),
    ("Parameters.parameter[0].value", [{"name": "expires", "valueDate": "banana"}]),
    ("Parameters.parameter[0].value", [{"name": "expires", "valueDate": "2027-13"}]),
    ("Parameters.parameter[0].value", [{"name": "left", "valueDateTime": 5}]),
    ("Parameters.parameter[0].value.value", [{"name": "rate", "valueQuantity": {"value": "fast"}}]),
    ("Parameters.parameter[1].value", [{"name": "ndc", "valueString": "1"}, {"name": "kind", "valueCode": []}]),
    ("Parameters.parameter[0]", [{"name": "lot", "valueString": "L", "valueCode": "L"}]),
    (
        "Parameters.parameter[0].part[0].value.coding",
        [{"name": "signal", "part": [{"name": "code", "valueCodeableConcept": {"coding": "x"}}]}],
    ),
    ("Parameters.parameter[0].part[0].value", [{"name": "signal", "part": [{"name": "period", "valueDecimal": "x"}]}]),
]
OFFERED = [one for one in OPERATIONS if one.level != "system" and one.name != "export"]


class Called:
    """A backend that says that it was called."""

    async def operation(self, context, operation, call):
        return OperationResult(dump(call.parameters))


@pytest.fixture
async def http():
    settings = Settings(
        service="gateway",
        database_url=SecretStr("postgresql://nowhere"),
        public_base="http://kap.example/fhir",
        no_auth=True,
    )
    app = create_fhir_app(SERVICE, Called(), settings)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://anything") as client:
        yield client


async def send(http, operation, parameter):
    place = f"{operation.type}/1/" if operation.level == "instance" else f"{operation.type}/"
    body = dump({"resourceType": "Parameters", "parameter": parameter})
    headers = {"Content-Type": "application/fhir+json"}
    return await http.post(f"/fhir/{place}${operation.name}", content=body, headers=headers)


@pytest.mark.parametrize("operation", OFFERED, ids=lambda one: f"{one.type}-{one.level}-{one.name}")
async def test_parameters_that_are_no_fhir_are_refused_with_where_they_are_not_before_the_operation_is_asked(
    http, operation
):
    for where, parameter in MALFORMED:
        answer = await send(http, operation, parameter)
        assert answer.status_code == 400, (parameter, answer.text)
        outcome = answer.json()
        assert outcome["resourceType"] == "OperationOutcome"
        assert all(one["diagnostics"] for one in outcome["issue"])
        assert any(one["expression"][0].startswith(where) for one in outcome["issue"]), (where, outcome)


async def test_a_resource_in_a_parameter_is_for_the_operation_to_judge_and_no_parameter_may_be_said_as_an_empty_list(
    http,
):
    operation = next(one for one in OFFERED if (one.type, one.name) == ("Encounter", "discharge"))
    wrong = [{"name": "resource", "resource": {"resourceType": "Patient", "gender": "unheard-of"}}]
    for parameter in (wrong, []):
        answer = await send(http, operation, parameter)
        assert answer.status_code == 200, answer.text
        assert answer.json()["parameter"] == parameter
