"""What no handler can work with is refused over HTTP with an OperationOutcome that says what, and never with 500."""

from __future__ import annotations

import httpx
import pytest
from pydantic import SecretStr

from shared.fhir import codes
from shared.fhir.json import dump
from shared.http.app import create_fhir_app
from shared.http.local import LocalBackend
from shared.runtime.settings import Settings
from tests.integration.services.test_sessions_watching import dosed  # noqa: F401


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


@pytest.mark.parametrize("when", ["9999-12-31T23:59:59Z", "0001-01-01"])
async def test_a_dose_of_an_impossible_year_is_refused_with_where_and_what_to_do(bedside, web, when):
    for status in ("in-progress", "completed"):
        said, answer = await send(
            web, "MedicationAdministration", {**bedside.dose(70, status), "effectivePeriod": {"start": when}}
        )
        assert said == 422
        assert answer["issue"][0]["expression"] == ["MedicationAdministration.effectivePeriod.start"]
        assert "look at the year" in answer["issue"][0]["diagnostics"]


async def test_a_dose_of_an_impossible_year_that_is_held_can_be_taken_back_as_it_stands(bedside, web):
    begun = {"effectivePeriod": {"start": "0001-01-01"}, "status": "entered-in-error"}
    said, answer = await send(web, "MedicationAdministration", {**bedside.dose(70), **begun})
    assert said == 201, answer


async def test_a_reading_that_names_its_visit_alone_is_in_its_patients_record(dosed):  # noqa: F811
    made = {key: one for key, one in dosed.vitals(190, 118).items() if key != "subject"}
    kept = await dosed.sessions.create(made)
    assert kept["subject"]["reference"] == f"Patient/{dosed.who['id']}"
    found = await dosed.sessions.search("Observation", patient=dosed.who["id"])
    assert kept["id"] in [one["id"] for one in found]


async def test_a_reading_that_names_its_visit_alone_is_corrected_and_withdrawn_as_it_was_posted(dosed):  # noqa: F811
    made = {key: one for key, one in dosed.vitals().items() if key != "subject"}
    kept = await dosed.sessions.create({**made, "status": "preliminary"})
    worse = {key: one for key, one in dosed.vitals(190, 118).items() if key != "subject"}
    corrected = await dosed.sessions.update({**worse, "id": kept["id"]})
    assert corrected["subject"]["reference"] == f"Patient/{dosed.who['id']}"
    calls = await dosed.sessions.search("Task", patient=dosed.who["id"], code=codes.VITAL_ALARM.token())
    assert [one["status"] for one in calls] == ["requested"]
    withdrawn = await dosed.sessions.update({**worse, "id": kept["id"], "status": "entered-in-error"})
    assert withdrawn["status"] == "entered-in-error"
