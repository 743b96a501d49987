"""Scheduling's operations at the gateway: forwarded, judged on what the caller has seen, and readable at once."""

from __future__ import annotations

from contextlib import AsyncExitStack

import httpx
import pytest_asyncio
from pydantic import SecretStr

from services.gateway.forward import GatewayBackend
from services.gateway.owners import Owners
from services.gateway.service import SERVICE
from services.scheduling.service import scheduling
from shared.events.handler import Position
from shared.fhir import codes
from shared.fhir.json import dump, parse
from shared.http.app import create_fhir_app
from shared.http.local import LocalBackend
from shared.runtime.consume import ServiceEvents
from shared.runtime.policy import load_policy
from shared.runtime.settings import Settings
from shared.security.caller import everybody
from shared.store.store import Store
from shared.testing.knowledge import all_is_heard


def settings(service):
    return Settings(
        service=service,
        database_url=SecretStr("postgresql://the-fixture-connects"),
        public_base="http://gateway.example/fhir",
        no_auth=True,
    )


@pytest_asyncio.fixture
async def gateway(make_database):
    async with AsyncExitStack() as opened:
        service = scheduling(load_policy())
        stores = {}
        for name in ("scheduling", "gateway"):
            stores[name] = await Store.connect(make_database(name), service=name)
            opened.push_async_callback(stores[name].close)
        await all_is_heard(stores["scheduling"], service)
        owner = create_fhir_app(service, LocalBackend(service, stores["scheduling"]), settings("scheduling"))
        client = await opened.enter_async_context(httpx.AsyncClient(transport=httpx.ASGITransport(owner)))
        urls = {name: f"http://{name}/fhir" for name in ("intake", "scheduling", "sessions", "outcomes", "delivery")}
        backend = GatewayBackend(SERVICE, stores["gateway"], Owners(client, urls))
        app = create_fhir_app(SERVICE, backend, settings("gateway"), authenticate=everybody(origin=None))
        http = await opened.enter_async_context(
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app),
                base_url="http://gateway.example/fhir",
                headers={"Content-Type": "application/fhir+json"},
            )
        )

        async def carry():
            handler = ServiceEvents(SERVICE, stores["gateway"])
            async for event in stores["scheduling"].replay.events_since():
                await handler.handle(event, Position("kap.scheduling.v1", 0, event.sequence))

        yield http, carry


def therapist():
    window = [
        *({"url": "daysOfWeek", "valueCode": day} for day in ("mon", "tue", "wed", "thu", "fri", "sat", "sun")),
        {"url": "availableStartTime", "valueTime": "08:00:00"},
        {"url": "availableEndTime", "valueTime": "18:00:00"},
    ]
    return {
        "resourceType": "Schedule",
        "active": True,
        "specialty": [codes.THERAPIST.concept()],
        "extension": [{"url": codes.EXT_AVAILABLE_TIME, "extension": window}],
        "actor": [{"reference": "Practitioner/t"}],
    }


async def post(http, path, body):
    answer = await http.post(path, content=dump(body))
    assert answer.status_code in (200, 201), answer.text
    return parse(answer.content)


async def test_a_visit_is_found_held_booked_and_cancelled_through_the_gateway(gateway):
    http, carry = gateway
    await post(http, "/Schedule", therapist())
    query = "start=2031-01-06&end=2031-01-08&visit-type=kap-prep&patient=Patient/p&max=3"
    found = parse((await http.get(f"/Appointment/$find?{query}")).content)
    assert found["total"] == 3
    held = await post(http, "/Appointment/$hold", found["entry"][0]["resource"])
    id_ = held["entry"][0]["resource"]["id"]
    reference = {"name": "appt-id", "valueUri": f"Appointment/{id_}"}
    booked = await post(http, "/Appointment/$book", {"resourceType": "Parameters", "parameter": [reference]})
    assert booked["entry"][0]["resource"]["status"] == "booked"
    await carry()
    reason = {"resourceType": "Parameters", "parameter": [{"name": "reason", "valueCode": "pat"}]}
    cancelled = await post(http, f"/Appointment/{id_}/$cancel", reason)
    assert cancelled["status"] == "cancelled"
    assert parse((await http.get(f"/Appointment/{id_}")).content)["status"] == "cancelled", "read at once"


async def test_a_refusal_of_scheduling_is_the_gateways_own(gateway):
    http, _ = gateway
    patient = {"name": "patient", "valueReference": {"reference": "Patient/p"}}
    order = {"name": "order", "valueReference": {"reference": "MedicationRequest/none"}}
    body = {"resourceType": "Parameters", "parameter": [patient, order]}
    assert (await http.post("/Appointment/$book-series", content=dump(body))).status_code == 404
    told = parse((await http.post("/Appointment/$prerequisites", content=dump(body))).content)
    assert told["parameter"][0] == {"name": "bookable", "valueBoolean": False}
    capability = parse((await http.get("/metadata")).content)
    offered = next(one for one in capability["rest"][0]["resource"] if one["type"] == "Appointment")["operation"]
    assert {"find", "hold", "book", "book-series"} <= {one["name"] for one in offered}
