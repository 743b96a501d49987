"""A calendar is read by who has its secret link, until that is revoked; it names no patient."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import timedelta

import httpx
import icalendar
import pytest
from pydantic import SecretStr

from services.intake.service import intake as intake_service
from services.scheduling.calendars import calendar_route
from services.scheduling.service import scheduling as scheduling_service
from services.scheduling.setting import Setting
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.outcome import BadRequest
from shared.http.app import create_fhir_app
from shared.runtime.app import Parts
from shared.runtime.policy import load_policy
from shared.runtime.settings import Settings
from shared.security.caller import everybody
from tests.integration.services.at_scheduling import code, ref
from tests.integration.services.course import START, appointment

SOON = START + timedelta(days=2)


@pytest.fixture
async def scheduling(bench):
    return await bench.open(scheduling_service)


@pytest.fixture
async def client(scheduling, clock):
    settings = Settings(service="scheduling", database_url=SecretStr("postgresql://none"), no_auth=True)
    async with AsyncExitStack() as closing:
        parts = Parts(scheduling.service, settings, scheduling.store, everybody(origin="scheduling"), closing)
        route = calendar_route(parts, Setting.of(load_policy(), clock, "https://clinic.example"))
        app = create_fhir_app(scheduling.service, None, settings, before=[route])
        transport = httpx.ASGITransport(app)
        yield await closing.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://test"))


async def link(scheduling, actor):
    answer = await scheduling.ask("calendar-link", "Appointment", ref("actor", actor))
    url = answer["parameter"][0]["valueUrl"]
    assert url.endswith(".ics")
    return url


def events(answer):
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/calendar")
    return icalendar.Calendar.from_ical(answer.text).walk("VEVENT")


@pytest.mark.parametrize(
    ("actor", "summary"),
    [
        ("Practitioner/therapist", "Preparation session"),
        ("Location/room", "Preparation session"),
        ("Patient/zoe", "Your visit"),
    ],
)
async def test_each_reads_his_own_calendar_and_no_patients_name(scheduling, client, actor, summary):
    zoe, other = ({"resourceType": "Patient", "id": name} for name in ("zoe", "other"))
    booked = await scheduling.create(appointment(zoe, None, SOON, visit=codes.VISIT_PREP))
    elsewhere = appointment(other, None, SOON, visit=codes.VISIT_PREP)
    elsewhere["participant"] = elsewhere["participant"][:1]
    await scheduling.create(elsewhere)
    answer = await client.get(await link(scheduling, actor))
    (event,) = events(answer)
    assert (event["SUMMARY"], event["STATUS"]) == (summary, "CONFIRMED")
    assert (zulu(event.start), zulu(event.end)) == (booked["start"], booked["end"])
    assert "Patient" not in answer.text
    assert "zoe" not in answer.text


async def test_a_cancelled_visit_is_shown_as_cancelled_under_the_same_uid(scheduling, client):
    booked = await scheduling.create(
        appointment({"resourceType": "Patient", "id": "p"}, None, SOON, visit=codes.VISIT_PREP)
    )
    url = await link(scheduling, "Patient/p")
    (before,) = events(await client.get(url))
    await scheduling.call("cancel", booked, code("reason", "pat"))
    (after,) = events(await client.get(url))
    assert after["UID"] == before["UID"]
    assert (after["STATUS"], after["SEQUENCE"]) == ("CANCELLED", before["SEQUENCE"] + 1)


async def test_a_link_that_was_revoked_or_never_made_shows_nothing(scheduling, client):
    first, second = await link(scheduling, "Location/room"), await link(scheduling, "Location/room")
    other = await link(scheduling, "Location/hall")
    assert first != second
    answer = await scheduling.ask("revoke-calendar-links", "Appointment", ref("actor", "Location/room"))
    assert answer["parameter"][0]["valueInteger"] == 2
    assert [(await client.get(url)).status_code for url in (first, second, other)] == [404, 404, 200]
    assert (await client.get("/calendar/guess.ics")).status_code == 404


async def test_a_link_ends_with_whose_calendar_it_shows(scheduling, bench, client):
    """Who is not active in the directory any more, and who is deleted from it; it counts again where he is back."""
    intake = await bench.open(intake_service)
    doctor = await intake.create({"resourceType": "Practitioner", "active": True, "name": [{"family": "Okafor"}]})
    other = await intake.create({"resourceType": "Practitioner", "name": [{"family": "Reyes"}]})
    links = [await link(scheduling, f"Practitioner/{one['id']}") for one in (doctor, other)]
    await bench.deliver(intake, scheduling)
    assert [(await client.get(url)).status_code for url in links] == [200, 200]
    await intake.update({**doctor, "active": False})
    await intake.delete(other)
    await bench.deliver(intake, scheduling)
    assert [(await client.get(url)).status_code for url in links] == [404, 404]
    await intake.update({**doctor, "active": True})
    await bench.deliver(intake, scheduling)
    assert [(await client.get(url)).status_code for url in links] == [200, 404]


async def test_only_the_hash_of_a_secret_is_kept(scheduling, bench):
    url = await link(scheduling, "Patient/p")
    secret = url.rpartition("/")[2].removesuffix(".ics")
    async with scheduling.store.transaction(keys=(), tenant="default") as transaction:
        rows = await transaction.connection.fetch("SELECT encode(digest, 'escape') || actor AS row FROM calendar_link")
    assert len(secret) >= 43
    assert not any(secret in row["row"] for row in rows)


async def test_a_calendar_is_of_somebody(scheduling):
    with pytest.raises(BadRequest):
        await scheduling.ask("calendar-link", "Appointment", ref("actor", "Organization/1"))


async def test_who_reads_a_calendar_by_its_link_is_in_the_audit_and_who_tries_one(scheduling, client):
    zoe = {"resourceType": "Patient", "id": "zoe"}
    await scheduling.create(appointment(zoe, None, SOON, visit=codes.VISIT_PREP))
    url = await link(scheduling, "Practitioner/therapist")
    assert (await client.get(url)).status_code == 200
    assert (await client.get("/calendar/no-such-link.ics")).status_code == 404
    audit = scheduling.store.audit
    await audit.seal()
    read, tried = [one.row for one in await audit.rows()][-2:]
    assert (read.does, read.action, read.outcome, read.client) == ("calendar", "R", 0, "calendar link")
    assert (read.what, read.patients, read.address) == (("Practitioner/therapist",), ("zoe",), "127.0.0.1")
    assert (tried.outcome, tried.status, tried.client) == (4, 404, "calendar link")
    secret = url.rpartition("/")[2].removesuffix(".ics")
    assert not any(secret in one.body.decode() for one in await audit.rows())
