"""How much one request may be: the work of a search, asked before it is done."""

from __future__ import annotations

import pytest


@pytest.fixture
async def held(fhir):
    for number in range(30):
        patient = await fhir.create({"resourceType": "Patient", "name": [{"family": f"Viele{number}"}]})
    for value in range(30):
        await fhir.create(
            {
                "resourceType": "Observation",
                "status": "final",
                "code": {"coding": [{"system": "http://loinc.org", "code": "8480-6"}]},
                "subject": {"reference": f"Patient/{patient['id']}"},
                "valueQuantity": {"value": value, "unit": "mmHg"},
            }
        )
    return patient["id"]


@pytest.mark.parametrize(
    ("search", "narrow"),
    [
        ("Observation?code=8480-6&_sort=-date", "leave out _sort"),
        ("Observation?patient.family:contains=viele", "search for 'patient.family:contains' by itself"),
        ("Patient?family:contains=viele", "leave out ':contains' of 'family'"),
        ("Patient?_has:Observation:patient:code=8480-6", "search for '_has:Observation:patient:code' by itself"),
        ("Patient?_total=accurate&family=viele", "leave out _total=accurate"),
        ("Patient?", "name one patient"),
    ],
)
async def test_a_search_that_costs_too_much_is_refused_and_told_what_to_narrow(fhir, issues, held, search, narrow):
    answer = await fhir.http.get(f"/fhir/{search}")
    assert answer.status_code == 200, answer.text
    fhir.store.costliest_search = 0.5
    [issue] = issues(await fhir.http.get(f"/fhir/{search}"), 422)
    assert issue["code"] == "too-costly"
    assert narrow in issue["diagnostics"]
    assert "name one patient" in issue["diagnostics"]


async def test_a_search_within_its_cost_or_of_one_patient_is_answered(fhir, held):
    fhir.store.costliest_search = 1_000_000
    assert (await fhir.http.get("/fhir/Observation?code=8480-6")).status_code == 200
    fhir.store.costliest_search = 0.5
    for search in (f"Observation?patient={held}&_sort=-date", f"Patient?_id={held}", f"Patient/{held}"):
        answer = await fhir.http.get(f"/fhir/{search}")
        assert answer.status_code == 200, answer.text
