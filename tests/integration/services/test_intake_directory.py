"""The directory: who and what is named carries numbers that can be right."""

from __future__ import annotations

import pytest

from shared.fhir import codes
from shared.fhir.outcome import BadRequest, Unprocessable
from tests.integration.services.at_intake import (
    rules_of,
)
from tests.integration.services.course import about, patient


@pytest.mark.parametrize("type_", ["Practitioner", "Organization", "Location", "PractitionerRole"])
async def test_a_number_of_the_directory_that_cannot_be_one_is_refused(intake, type_):
    def named(npi, dea, **more):
        numbers = [{"system": codes.NPI, "value": npi}, {"system": codes.DEA, "value": dea}]
        name = {} if type_ in ("Practitioner", "PractitionerRole") else {"name": "Clinic"}
        return {"resourceType": type_, "identifier": numbers, **name, **more}

    await intake.create(named("1234567893", "AB1234563"))
    with pytest.raises(Unprocessable) as error:
        await intake.create(named("1234567890", "AB1234564"))
    assert rules_of(error) == {"D-NUMBER"}
    assert len(error.value.issues) == 2
    await intake.create(named("1234567890", "AB1234564", meta={"source": "urn:hospital"}))


async def test_who_pays_is_kept_found_by_its_patient_and_refused_without_a_payor(intake):
    who = await intake.create(patient())
    insurer = await intake.create({"resourceType": "Organization", "active": True, "name": "Insurer"})
    coverage = {
        "resourceType": "Coverage",
        "status": "active",
        "beneficiary": about(who),
        "payor": [about(insurer)],
        "period": {"start": "2026-01-01", "end": "2026-12-31"},
    }
    held = await intake.create(coverage)
    assert [one["id"] for one in await intake.search("Coverage", patient=f"Patient/{who['id']}")] == [held["id"]]
    for lacking in ("payor", "beneficiary", "status"):
        with pytest.raises(BadRequest):
            await intake.create({name: value for name, value in coverage.items() if name != lacking})
