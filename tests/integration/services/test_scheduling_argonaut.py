"""Argonaut Scheduling's conventions, as one of its clients speaks them over HTTP.

Find, hold, book, look up, cancel and prefetch, with the parameters, bodies and answers of its guide
(fhir.org/guides/argonaut/scheduling, 1.0), and of IHE's where that differs (profiles.ihe.net/ITI/Scheduling).
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import timedelta

import httpx
import pytest
from pydantic import SecretStr

from shared.fhir import codes
from shared.fhir.dates import interval, zulu
from shared.fhir.json import dump, parse
from shared.http.app import create_fhir_app
from shared.http.local import LocalBackend
from shared.runtime.settings import Settings
from tests.integration.services.course import START

WITHIN = {"start": zulu(START), "end": zulu(START + timedelta(days=2))}
PREP = f"{codes.KAP}|kap-prep"
FHIR = {"Content-Type": "application/fhir+json"}


@pytest.fixture
async def client(clinic):
    """A client of scheduling: a clinic with two therapists who work on Monday."""
    settings = Settings(service="scheduling", database_url=SecretStr("postgresql://none"), no_auth=True)
    async with AsyncExitStack() as closing:
        app = create_fhir_app(clinic.service, LocalBackend(clinic.service, clinic.store), settings)
        transport = httpx.ASGITransport(app)
        yield await closing.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://test/fhir", headers=FHIR)
        )


def appointments(answer, status):
    """Return the appointments of a Bundle, each as Argonaut's profile has it."""
    assert answer.status_code in (200, 201), answer.text
    bundle = parse(answer.content)
    assert (bundle["resourceType"], bundle["type"]) == ("Bundle", "searchset")
    found = [one["resource"] for one in bundle.get("entry", []) if one["search"]["mode"] == "match"]
    assert bundle.get("total", len(found)) == len(found)
    for one in found:
        assert one["resourceType"] == "Appointment"
        assert one["status"] == status
        assert one["serviceType"][0]["coding"][0]["code"]
        assert interval(one["start"])[0] < interval(one["end"])[0]
        assert one["participant"]
        assert all(each["status"] and each["actor"]["reference"] for each in one["participant"])
    return found


async def proposed(client, **more):
    return appointments(
        await client.get("/Appointment/$find", params={**WITHIN, "service-type": PREP, **more}), "proposed"
    )


def of(name, **value):
    return {"name": name, **value}


async def asked(client, operation, *given, query=""):
    body = {"resourceType": "Parameters", "parameter": list(given)}
    return await client.post(f"/Appointment/${operation}{query}", content=dump(body))


async def booked(client, patient="Patient/ada"):
    (first, *_) = await proposed(client)
    answer = await asked(
        client,
        "book",
        of("appt-resource", resource=first),
        of("patient-reference", valueReference={"reference": patient}),
    )
    return appointments(answer, "booked")[0]


async def test_argonaut_finds_by_get_with_provider_service_type_and_count(client):
    found = await proposed(client, provider="Practitioner/t2", _count="3")
    assert len(found) == 3
    assert {one["participant"][0]["actor"]["reference"] for one in found} == {"Practitioner/t2"}
    assert [one["start"] for one in found] == sorted(one["start"] for one in found)
    assert all(WITHIN["start"] <= one["start"] and one["end"] <= WITHIN["end"] for one in found)


async def test_argonaut_finds_by_post_with_its_count_in_the_address(client):
    given = (
        of("start", valueDateTime=WITHIN["start"]),
        of("end", valueDateTime=WITHIN["end"]),
        of("visit-type", valueCodeableConcept=codes.VISIT_PREP.concept()),
        of("provider", valueUri="Practitioner/t1"),
    )
    assert len(appointments(await asked(client, "find", *given, query="?_count=2"), "proposed")) == 2


async def test_argonaut_holds_what_was_found_and_books_the_hold_by_its_id(client):
    (first, *_) = await proposed(client)
    patient = of("patient-id", valueString="Patient/ada")
    (held,) = appointments(await asked(client, "hold", of("appt-resource", resource=first), patient), "pending")
    answer = await asked(client, "book", of("appt-id", valueReference={"reference": f"Appointment/{held['id']}"}))
    (made,) = appointments(answer, "booked")
    assert made["id"] == held["id"]
    assert "Patient/ada" in {one["actor"]["reference"] for one in made["participant"]}


async def test_what_argonaut_cannot_book_is_an_operation_outcome_that_says_why(client):
    made = await booked(client)
    again = {**made, "status": "proposed"}
    answer = await asked(client, "book", of("appt-resource", resource=again))
    assert answer.status_code == 422
    outcome = parse(answer.content)
    assert outcome["resourceType"] == "OperationOutcome"
    assert {one["details"]["coding"][0]["code"] for one in outcome["issue"]} == {"S-DOUBLE"}


async def test_argonaut_looks_up_appointments_by_patient_practitioner_status_and_date(client):
    made = await booked(client)
    await booked(client, "Patient/bo")
    who = next(one["actor"]["reference"] for one in made["participant"] if "Practitioner" in one["actor"]["reference"])
    by = {"patient": "Patient/ada", "practitioner": who, "status": "booked", "date": f"ge{made['start'][:10]}"}
    assert [one["id"] for one in appointments(await client.get("/Appointment", params=by), "booked")] == [made["id"]]
    for name, other in (("patient", "Patient/x"), ("status", "cancelled"), ("date", "ge2030-01-01")):
        assert appointments(await client.get("/Appointment", params={**by, name: other}), "none") == []


@pytest.mark.parametrize("held", [True, False])
async def test_argonaut_cancels_and_releases_a_hold_by_patch_and_the_time_is_free(client, held):
    first, *_ = await proposed(client)
    operation, status = ("hold", "pending") if held else ("book", "booked")
    patient = of("patient-reference", valueReference={"reference": "Patient/ada"})
    (made,) = appointments(await asked(client, operation, of("appt-resource", resource=first), patient), status)
    patch = dump([{"op": "replace", "path": "/status", "value": "cancelled"}])
    answer = await client.patch(
        f"/Appointment/{made['id']}", content=patch, headers={"Content-Type": "application/json-patch+json"}
    )
    assert answer.status_code == 200, answer.text
    assert parse(answer.content)["status"] == "cancelled"
    assert (await proposed(client))[0]["start"] == first["start"]


async def test_argonaut_prefetches_open_slots_with_their_schedules(client, clinic):
    (own,) = await clinic.search("Schedule", actor="Practitioner/t1")
    day = (of("start", valueDateTime=WITHIN["start"]), of("end", valueDateTime=WITHIN["end"]))
    body = dump({"resourceType": "Parameters", "parameter": list(day)})
    assert (await client.post(f"/Schedule/{own['id']}/$generate", content=body)).status_code == 200
    by = {"status": "free", "start": f"ge{WITHIN['start']}", "_include": "Slot:schedule"}
    bundle = parse((await client.get("/Slot", params=by)).content)
    slots = [one["resource"] for one in bundle["entry"] if one["search"]["mode"] == "match"]
    included = [one["resource"]["id"] for one in bundle["entry"] if one["search"]["mode"] == "include"]
    assert slots
    assert included == [own["id"]]
    assert {one["schedule"]["reference"] for one in slots} == {f"Schedule/{own['id']}"}
