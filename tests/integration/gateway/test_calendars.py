"""A calendar's link is of the gateway's address, and the gateway passes the feed on."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import httpx
import icalendar
import pytest_asyncio

from services.gateway.calendars import calendar_route as at_the_gateway
from services.gateway.service import SERVICE
from services.scheduling.calendars import calendar_route
from services.scheduling.service import scheduling
from services.scheduling.setting import Setting
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.json import dump, parse
from shared.http.app import create_fhir_app
from shared.http.local import LocalBackend
from shared.runtime.app import Parts
from shared.runtime.policy import load_policy
from shared.security.caller import everybody
from shared.store.store import Store
from shared.testing.knowledge import all_is_heard
from tests.integration.gateway.conftest import settings

SOON = datetime.now(UTC) + timedelta(days=2)


@pytest_asyncio.fixture
async def clinic(make_database):
    """The owner's API, and the gateway's before it; the way between them may be cut."""
    async with AsyncExitStack() as opened:
        service = scheduling(load_policy())
        store = await Store.connect(make_database("scheduling"), service="scheduling")
        opened.push_async_callback(store.close)
        await all_is_heard(store, service)
        parts = Parts(service, settings("scheduling"), store, everybody(origin="scheduling"), opened)
        setting = Setting.of(load_policy(), base="http://gateway.example")
        service = scheduling(load_policy())
        owner = create_fhir_app(
            service,
            LocalBackend(service, store),
            settings("scheduling"),
            before=[calendar_route(parts, setting)],
        )
        to_owner = await opened.enter_async_context(
            httpx.AsyncClient(
                transport=httpx.ASGITransport(owner),
                base_url="http://scheduling",
                headers={"Content-Type": "application/fhir+json"},
            )
        )
        gateway = create_fhir_app(
            SERVICE, None, settings("gateway"), before=[at_the_gateway(to_owner, "http://scheduling/fhir")]
        )
        away = create_fhir_app(
            SERVICE, None, settings("gateway"), before=[at_the_gateway(httpx.AsyncClient(), "http://127.0.0.1:9/fhir")]
        )
        clients = [
            await opened.enter_async_context(
                httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway.example")
            )
            for app in (gateway, away)
        ]
        yield to_owner, *clients


async def posted(http, path, body):
    answer = await http.post(path, content=dump(body))
    assert answer.status_code in (200, 201), answer.text
    return parse(answer.content)


def visit():
    return {
        "resourceType": "Appointment",
        "status": "booked",
        "serviceType": [codes.VISIT_PREP.concept()],
        "start": zulu(SOON),
        "end": zulu(SOON + timedelta(hours=1)),
        "participant": [
            {"actor": {"reference": one}, "status": "accepted"} for one in ("Patient/ada", "Practitioner/t")
        ],
    }


WHOSE = {
    "resourceType": "Parameters",
    "parameter": [{"name": "actor", "valueReference": {"reference": "Practitioner/t"}}],
}


async def test_the_feed_behind_a_link_is_read_at_the_gateway_until_the_link_is_revoked(clinic):
    owner, gateway, _ = clinic
    await posted(owner, "/fhir/Appointment", visit())
    made = await posted(owner, "/fhir/Appointment/$calendar-link", WHOSE)
    path = "/calendar/" + made["parameter"][0]["valueUrl"].rpartition("/")[2]
    answer = await gateway.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/calendar")
    assert answer.headers["cache-control"].startswith("private")
    (event,) = icalendar.Calendar.from_ical(answer.text).walk("VEVENT")
    assert str(event["summary"]) == "Preparation session"
    await posted(owner, "/fhir/Appointment/$revoke-calendar-links", WHOSE)
    gone = await gateway.get(path)
    assert (gone.status_code, gone.json()["resourceType"]) == (404, "OperationOutcome")


async def test_what_is_no_link_is_not_passed_into_another_path(clinic):
    _, gateway, _ = clinic
    for path in ("/calendar/nothing.ics", "/calendar/..%2Ffhir%2FAppointment%3Fx.ics"):
        assert (await gateway.get(path)).status_code == 404


async def test_while_scheduling_is_away_the_gateway_says_so(clinic):
    *_, away = clinic
    answer = await away.get("/calendar/any.ics")
    assert (answer.status_code, answer.json()["issue"][0]["code"]) == (503, "transient")
