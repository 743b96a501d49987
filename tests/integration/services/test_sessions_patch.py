"""A patch is no way past the gate: what an update of a dose is refused for, a patch of it is refused for."""

from __future__ import annotations

import httpx
import pytest
from pydantic import SecretStr

from shared.fhir.json import dump
from shared.http.app import create_fhir_app
from shared.http.local import LocalBackend
from shared.runtime.settings import Settings

FORMS = {
    "application/json-patch+json": [{"op": "replace", "path": "/status", "value": "in-progress"}],
    "application/merge-patch+json": {"status": "in-progress"},
    "application/fhir+json": {
        "resourceType": "Parameters",
        "parameter": [
            {
                "name": "operation",
                "part": [
                    {"name": "type", "valueCode": "replace"},
                    {"name": "path", "valueString": "MedicationAdministration.status"},
                    {"name": "value", "valueCode": "in-progress"},
                ],
            }
        ],
    },
}


@pytest.fixture
async def http(bedside):
    settings = Settings(
        service="sessions",
        database_url=SecretStr("postgresql://the-fixture-connects"),
        public_base="http://sessions.example/fhir",
        no_auth=True,
    )
    service = bedside.sessions.service
    app = create_fhir_app(service, LocalBackend(service, bedside.sessions.store), settings)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://sessions.example") as client:
        yield client


def rules(answer):
    assert answer.status_code == 422, answer.text
    return {coding["code"] for issue in answer.json()["issue"] for coding in issue["details"]["coding"]}


@pytest.mark.parametrize("form", FORMS)
async def test_a_dose_is_not_started_past_a_closed_gate_by_a_patch(bedside, http, form):
    planned = await bedside.sessions.create(bedside.dose(status="not-done"))
    place = f"/fhir/MedicationAdministration/{planned['id']}"
    before = await bedside.sessions.count()
    updated = await http.put(place, json={**planned, "status": "in-progress"})
    patched = await http.patch(place, content=dump(FORMS[form]), headers={"Content-Type": form})
    assert rules(patched) == rules(updated)
    assert "G-BP" in rules(patched)
    assert patched.json()["issue"] == updated.json()["issue"]
    assert await bedside.sessions.count() == before
    await bedside.chart()
    opened = await http.patch(place, content=dump(FORMS[form]), headers={"Content-Type": form})
    assert opened.status_code == 200, opened.text
    assert opened.json()["status"] == "in-progress"
