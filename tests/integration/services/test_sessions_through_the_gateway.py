"""No path through the gateway doses past a closed gate: create, update, every patch, transaction, batch, operation."""

from __future__ import annotations

from contextlib import AsyncExitStack

import httpx
import pytest
from pydantic import SecretStr

from services.gateway.forward import GatewayBackend
from services.gateway.owners import Owners
from services.gateway.service import SERVICE
from shared.events.handler import Position
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.ids import new_id
from shared.fhir.json import dump
from shared.fhir.outcome import Conflict
from shared.http.app import create_fhir_app
from shared.http.local import LocalBackend
from shared.runtime.consume import ServiceEvents
from shared.runtime.settings import Settings
from shared.security.caller import everybody
from shared.store.store import Store
from tests.integration.services.course import about, milligrams

MERGE, JSON, FHIR = "application/merge-patch+json", "application/json-patch+json", "application/fhir+json"
TO_LIVE = [{"op": "replace", "path": "/status", "value": "in-progress"}]
FHIRPATH = {
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
}


def settings(service):
    return Settings(
        service=service,
        database_url=SecretStr("postgresql://the-fixture-connects"),
        public_base="http://gateway.example/fhir",
        no_auth=True,
    )


class Gateway:
    """The gateway before a bedside."""

    def __init__(self, http, store, bedside):
        self.http, self.store, self.at = http, store, bedside

    async def carry(self):
        """Let the gateway hear what sessions has committed."""
        handler = ServiceEvents(SERVICE, self.store)
        async for event in self.at.sessions.store.replay.events_since():
            await handler.handle(event, Position("kap.sessions.v1", 0, event.sequence))

    async def send(self, method, path, body, kind=FHIR):
        url = f"/fhir/{path}".rstrip("/")
        return await self.http.request(method, url, content=dump(body), headers={"Content-Type": kind})

    async def waiting(self):
        """Return a dose that was not given, held at the gateway, too."""
        named = [{"system": "urn:doses", "value": new_id()}]
        waited = self.at.dose(10, "not-done", statusReason=[{"text": "waited"}], identifier=named)
        made = await self.at.sessions.create(waited)
        await self.carry()
        return made

    async def live(self):
        found = await self.at.sessions.search("MedicationAdministration", patient=self.at.who["id"])
        return [one for one in found if one["status"] == "in-progress"]


@pytest.fixture
async def gateway(bedside, make_database):
    async with AsyncExitStack() as opened:
        store = await Store.connect(make_database("gateway"), service="gateway")
        opened.push_async_callback(store.close)
        owner = create_fhir_app(
            bedside.sessions.service,
            LocalBackend(bedside.sessions.service, bedside.sessions.store),
            settings("sessions"),
        )
        client = await opened.enter_async_context(httpx.AsyncClient(transport=httpx.ASGITransport(owner)))
        urls = {name: f"http://{name}/fhir" for name in ("intake", "scheduling", "sessions", "outcomes", "delivery")}
        backend = GatewayBackend(SERVICE, store, Owners(client, urls))
        app = create_fhir_app(SERVICE, backend, settings("gateway"), authenticate=everybody(origin=None))
        base = "http://gateway.example"
        http = await opened.enter_async_context(httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base))
        before = Gateway(http, store, bedside)
        await before.carry()
        yield before


def bundle(kind, method, url, resource):
    entry = {"fullUrl": f"urn:uuid:{new_id()}", "resource": resource, "request": {"method": method, "url": url}}
    return {"resourceType": "Bundle", "type": kind, "entry": [entry]}


async def operation(gateway):
    given = [
        {"name": "medicationRequest", "valueReference": about(gateway.at.ordered)},
        {"name": "dose", "valueQuantity": milligrams(10)},
        {"name": "performer", "valueReference": {"reference": "Practitioner/nurse"}},
    ]
    body = {"resourceType": "Parameters", "parameter": given}
    return await gateway.send("POST", f"Encounter/{gateway.at.visit['id']}/$start-dose", body)


async def create(gateway):
    return await gateway.send("POST", "MedicationAdministration", gateway.at.dose(10))


async def transaction(gateway):
    return await gateway.send(
        "POST", "", bundle("transaction", "POST", "MedicationAdministration", gateway.at.dose(10))
    )


async def batch(gateway):
    return await gateway.send("POST", "", bundle("batch", "POST", "MedicationAdministration", gateway.at.dose(10)))


async def update(gateway):
    held = await gateway.waiting()
    return await gateway.send("PUT", f"MedicationAdministration/{held['id']}", {**held, "status": "in-progress"})


async def conditional_update(gateway):
    held = await gateway.waiting()
    content = {key: value for key, value in held.items() if key != "id"}
    found = f"MedicationAdministration?identifier=urn:doses|{held['identifier'][0]['value']}"
    return await gateway.send("PUT", found, {**content, "status": "in-progress"})


async def update_in_a_transaction(gateway):
    held = await gateway.waiting()
    changed = {**held, "status": "in-progress"}
    return await gateway.send(
        "POST", "", bundle("transaction", "PUT", f"MedicationAdministration/{held['id']}", changed)
    )


def patched(body, kind):
    async def patch(gateway):
        held = await gateway.waiting()
        return await gateway.send("PATCH", f"MedicationAdministration/{held['id']}", body, kind)

    return patch


PATHS = {
    "operation": operation,
    "create": create,
    "transaction": transaction,
    "batch": batch,
    "update": update,
    "conditional update": conditional_update,
    "update in a transaction": update_in_a_transaction,
    "merge patch": patched({"status": "in-progress"}, MERGE),
    "json patch": patched(TO_LIVE, JSON),
    "fhirpath patch": patched(FHIRPATH, FHIR),
}


def refusal(answer):
    """Return the OperationOutcome of an answer, of a batch that of its entry."""
    body = answer.json()
    return body if body["resourceType"] == "OperationOutcome" else body["entry"][0]["response"]["outcome"]


@pytest.mark.parametrize("path", PATHS)
async def test_by_no_path_a_dose_begins_past_a_closed_gate_and_by_each_it_begins_through_an_open_one(gateway, path):
    closed = await PATHS[path](gateway)
    assert closed.status_code == (200 if path == "batch" else 422), closed.text
    told = refusal(closed)
    assert "The gate before the dose is closed" in told["issue"][0]["diagnostics"]
    assert await gateway.live() == []
    await gateway.at.chart()
    opened = await PATHS[path](gateway)
    assert opened.status_code in (200, 201), opened.text
    assert len(await gateway.live()) == 1


async def test_a_transaction_that_brings_its_own_baseline_is_judged_on_it(gateway):
    reading = {"resource": gateway.at.vitals(), "request": {"method": "POST", "url": "Observation"}}
    dose = {"resource": gateway.at.dose(10), "request": {"method": "POST", "url": "MedicationAdministration"}}
    high = {**reading, "resource": gateway.at.vitals(185, 115)}
    bad = await gateway.send("POST", "", {"resourceType": "Bundle", "type": "transaction", "entry": [dose, high]})
    assert bad.status_code == 422, bad.text
    good = await gateway.send("POST", "", {"resourceType": "Bundle", "type": "transaction", "entry": [dose, reading]})
    assert good.status_code == 200, good.text
    assert len(await gateway.live()) == 1


async def test_the_same_news_told_again_begins_no_dose(gateway):
    await gateway.at.chart()
    dose = await create(gateway)
    assert dose.status_code == 201
    await gateway.at.sessions.update({**dose.json(), "status": "stopped"})
    for source in ("intake", "scheduling", "outcomes"):
        with pytest.raises(Conflict):  # of what is sessions' own nobody else has news
            await gateway.at.tell(source, {**dose.json(), "status": "in-progress"})
    assert await gateway.live() == []


async def test_the_psychotherapy_and_the_summary_of_a_visit_are_written_through_the_gateway(gateway):
    visit = f"Encounter/{gateway.at.visit['id']}"
    theme = {"resourceType": "Parameters", "parameter": [{"name": "theme", "valueString": "Loss"}]}
    recorded = await gateway.send("POST", f"{visit}/$record-psychotherapy", theme)
    assert recorded.status_code == 200, recorded.text
    author = {"name": "author", "valueReference": {"reference": "Practitioner/therapist"}}
    told = await gateway.send("POST", f"{visit}/$summarize", {"resourceType": "Parameters", "parameter": [author]})
    assert told.status_code == 200, told.text
    document = next(one for one in told.json()["parameter"] if one["name"] == "document")
    assert document["valueReference"]["reference"].startswith("DocumentReference/")
    not_sent = await gateway.send("POST", f"{visit}/$rems-submitted", {"resourceType": "Parameters"})
    assert not_sent.status_code == 400, not_sent.text


async def test_the_feed_of_a_device_is_taken_in_through_the_gateway(gateway):
    visit = f"Encounter/{gateway.at.visit['id']}"
    parts = [
        {"name": "code", "valueCodeableConcept": codes.HEART_RATE.concept()},
        {"name": "unit", "valueCode": "/min"},
        {"name": "start", "valueInstant": zulu(gateway.at.clock.now)},
        {"name": "period", "valueDecimal": 1000},
        {"name": "data", "valueString": "71"},
    ]
    call = {"resourceType": "Parameters", "parameter": [{"name": "signal", "part": parts}]}
    taken = await gateway.send("POST", f"{visit}/$feed", call)
    assert taken.status_code == 200, taken.text
    (recorded,) = taken.json()["parameter"]
    assert recorded["valueReference"]["reference"].startswith("Observation/")
