"""Transactions at the bedside: gate and alarm see all that the same Bundle tells, in whatever order it does."""

from __future__ import annotations

import httpx
import pytest
from pydantic import SecretStr

from shared.fhir.json import dump
from shared.http.app import create_fhir_app
from shared.http.local import LocalBackend
from shared.runtime.settings import Settings
from tests.integration.services.course import about

VISIT = "urn:uuid:2d1a8f62-4b6b-4d0f-8a5e-5f1d6d9a0c11"


@pytest.fixture
async def http(bedside):
    service, store = bedside.sessions.service, bedside.sessions.store
    settings = Settings(service="sessions", database_url=SecretStr("postgresql://fixture"), no_auth=True)
    app = create_fhir_app(service, LocalBackend(service, store), settings)
    headers = {"Content-Type": "application/fhir+json"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://sessions.example", headers=headers) as client:
        yield client


async def posted(http, *resources):
    """Post resources as a transaction; a pair is a fullUrl and its resource."""
    entries = []
    for one in resources:
        url, resource = one if isinstance(one, tuple) else (None, one)
        entry = {"resource": resource, "request": {"method": "POST", "url": resource["resourceType"]}}
        entries.append(entry if url is None else {"fullUrl": url, **entry})
    return await http.post("/fhir", content=dump({"resourceType": "Bundle", "type": "transaction", "entry": entries}))


async def test_a_dose_is_judged_on_the_readings_of_the_same_bundle_that_stand_behind_it(bedside, http):
    await bedside.chart()
    before = await bedside.sessions.count()
    answer = await posted(http, bedside.dose(), bedside.vitals(240, 140))
    assert answer.status_code == 422, answer.text
    assert {issue["expression"][0].partition(".r")[0] for issue in answer.json()["issue"]} == {"Bundle.entry[0]"}
    assert await bedside.sessions.count() == before
    assert (await posted(http, bedside.dose(), bedside.vitals(121, 80))).status_code == 200


async def test_a_reading_finds_the_visit_that_stands_behind_it_and_its_alarm_is_part_of_the_same_transaction(
    bedside, http
):
    raised, *_ = await bedside.raised()
    visit = {
        "resourceType": "Encounter",
        "status": "in-progress",
        "class": bedside.visit["class"],
        "type": bedside.visit["type"],
        "subject": about(bedside.who),
        "episodeOfCare": [{"reference": "EpisodeOfCare/x"}],
    }
    reading = {**bedside.vitals(240, 140), "encounter": {"reference": VISIT}}
    answer = await posted(http, reading, (VISIT, visit))
    assert answer.status_code == 200, answer.text
    stored = answer.json()["entry"]
    assert stored[0]["resource"]["encounter"]["reference"] == f"Encounter/{stored[1]['resource']['id']}"
    assert (await bedside.raised())[0] > raised
