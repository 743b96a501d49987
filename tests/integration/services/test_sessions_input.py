"""What no handler can work with is refused over HTTP with an OperationOutcome that says what, and never with 500."""

from __future__ import annotations

from datetime import timedelta

import httpx
import pytest
from pydantic import SecretStr

from shared.fhir import codes
from shared.fhir.json import dump
from shared.http.app import create_fhir_app
from shared.http.local import LocalBackend
from shared.runtime.settings import Settings
from tests.integration.services.course import about, milligrams
from tests.integration.services.test_sessions_feeds import SATURATION, signal
from tests.integration.services.test_sessions_watching import dosed  # noqa: F401

HUGE = {"value": 1e300, "code": "mg", "system": codes.UCUM}
ODD = {
    "start-dose": [
        *({"name": "expires", "valueDate": date} for date in ("banana", "2027-13", 5)),
        *({"name": "strength", "valueQuantity": one} for one in (7, {"value": "x", "code": "mg/mL"})),
        *({"name": "effective", "valueDateTime": one} for one in (7, "0001-01-01", "9999-12-31T23:59:59Z")),
        {"name": "witness", "valueReference": "x"},
    ],
    "feed": [
        {"period": {"valueDecimal": "x"}},
        {"start": {"valueInstant": 5}},
        {"start": {"valueInstant": "9999-12-31T23:59:59Z"}},
        {"code": {"valueCodeableConcept": "x"}},
        {"code": {"valueCodeableConcept": {"coding": "x"}}},
        {"data": {"valueString": "1E+9999999 97"}},
    ],
    "discharge": [
        {"name": "left", "valueDateTime": 5},
        {"name": "left", "valueDateTime": "9999-12-31T23:59:59Z"},
    ],
    "substance-book": [{"name": "amount", "valueQuantity": one} for one in (milligrams(10**17), HUGE, {"value": "x"})],
}


@pytest.fixture
async def web(bedside):
    opened = bedside.sessions
    settings = Settings(
        service="sessions",
        database_url=SecretStr("postgresql://the-fixture-connects"),
        public_base="http://sessions.example/fhir",
        no_auth=True,
    )
    app = create_fhir_app(opened.service, LocalBackend(opened.service, opened.store), settings)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://sessions.example") as client:
        yield client


async def send(web, path, body):
    answer = await web.post(f"/fhir/{path}", content=dump(body), headers={"Content-Type": "application/fhir+json"})
    return answer.status_code, answer.json()


def asked(bedside, operation, odd):
    """Return where an operation is called, and its Parameters with something odd in them."""
    if operation == "feed":
        at = bedside.clock.now - timedelta(seconds=10)
        return f"Encounter/{bedside.visit['id']}/$feed", [signal(at, "97 98", SATURATION, "%", odd)]
    if operation == "substance-book":
        said = {"ndc": "0409-2051-05", "lot": "L", "vial": "V"}
        book = [{"name": name, "valueString": value} for name, value in said.items()]
        by = {"name": "performer", "valueReference": {"reference": "Practitioner/nurse"}}
        return "SupplyDelivery/$substance-book", [{"name": "kind", "valueCode": "receive"}, *book, by, odd]
    dose = [
        {"name": "medicationRequest", "valueReference": about(bedside.ordered)},
        {"name": "dose", "valueQuantity": milligrams(70)},
        {"name": "performer", "valueReference": {"reference": "Practitioner/nurse"}},
    ]
    return f"Encounter/{bedside.visit['id']}/${operation}", [*(dose if operation == "start-dose" else []), odd]


@pytest.mark.parametrize("operation", ODD)
async def test_parameters_that_are_none_are_refused_with_what_is_wrong_and_nothing_is_done(bedside, web, operation):
    await bedside.chart()
    for odd in ODD[operation]:
        path, parameters = asked(bedside, operation, odd)
        status, answer = await send(web, path, {"resourceType": "Parameters", "parameter": parameters})
        assert (status, answer["resourceType"]) == (400, "OperationOutcome"), (odd, answer)
        assert "Parameters" in answer["issue"][0]["expression"][0]
    assert await bedside.sessions.search("MedicationAdministration", patient=bedside.who["id"]) == []


@pytest.mark.parametrize("when", ["9999-12-31T23:59:59Z", "0001-01-01"])
async def test_a_dose_of_an_impossible_year_is_refused_with_where_and_what_to_do(bedside, web, when):
    for status in ("in-progress", "completed"):
        said, answer = await send(
            web, "MedicationAdministration", {**bedside.dose(70, status), "effectivePeriod": {"start": when}}
        )
        assert said == 422
        assert answer["issue"][0]["expression"] == ["MedicationAdministration.effectivePeriod.start"]
        assert "look at the year" in answer["issue"][0]["diagnostics"]


async def test_a_reading_that_names_its_visit_alone_is_in_its_patients_record(dosed):  # noqa: F811
    made = {key: one for key, one in dosed.vitals(190, 118).items() if key != "subject"}
    kept = await dosed.sessions.create(made)
    assert kept["subject"]["reference"] == f"Patient/{dosed.who['id']}"
    found = await dosed.sessions.search("Observation", patient=dosed.who["id"])
    assert kept["id"] in [one["id"] for one in found]
