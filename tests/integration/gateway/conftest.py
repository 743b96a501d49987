"""The gateway before two owners, each on a database of its own, joined in this process; events are carried by hand."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import httpx
import pytest_asyncio
from pydantic import SecretStr

from services.gateway.forward import GatewayBackend
from services.gateway.owners import Owners
from services.gateway.service import SERVICE
from shared.events.handler import Position
from shared.fhir.json import dump, parse
from shared.fhir.outcome import Unprocessable
from shared.http.app import create_fhir_app
from shared.http.local import LocalBackend
from shared.runtime.consume import ServiceEvents
from shared.runtime.ownership import types_of
from shared.runtime.service import Operation, Service
from shared.runtime.settings import Settings
from shared.security.caller import everybody
from shared.store.store import Store


async def raise_an_issue(change, record):
    """A rule that needs news, and a fact that follows in the owner's transaction: it reaches the gateway by event."""
    if change.interaction == "create":
        await record.require_current()
    if change.after is not None and change.after.get("status") == "entered-in-error" and change.interaction == "create":
        raise Unprocessable("Nothing begins as an error.", rule="T1", source="a test", expression=["Encounter.status"])
    if change.interaction == "create":
        await record.create(
            {"resourceType": "DetectedIssue", "status": "final", "patient": change.after["subject"]},
        )


async def start_dose(call, record):
    visit = await record.get("Encounter", call.id)
    written = await record.create(
        {
            "resourceType": "MedicationAdministration",
            "status": "in-progress",
            "medicationCodeableConcept": {"text": "ketamine"},
            "subject": visit["subject"],
            "context": {"reference": f"Encounter/{call.id}"},
            "effectiveDateTime": "2026-11-22T10:00:00Z",
        }
    )
    return parse(written.stored.body)


OWNERS = {
    "intake": Service("intake", "intake", types_of("intake"), consumes=("sessions",), holds=frozenset(("Encounter",))),
    "sessions": Service(
        "sessions",
        "sessions",
        types_of("sessions"),
        guards={"Encounter": (raise_an_issue,)},
        operations=(Operation("start-dose", "Encounter", "instance", start_dose),),
        consumes=("intake",),
        holds=frozenset(("Patient",)),
        judges_on_news=frozenset(("Encounter",)),
    ),
}


def settings(service):
    return Settings(
        service=service,
        database_url=SecretStr("postgresql://the-fixture-connects"),
        public_base="http://gateway.example/fhir",
        no_auth=True,
    )


class Switch(httpx.AsyncBaseTransport):
    """The way to the owners: may be cut, before a request or after it; remembers what went through."""

    def __init__(self, apps):
        self._to = {name: httpx.ASGITransport(app) for name, app in apps.items()}
        self.down: set[str] = set()
        self.deaf: set[str] = set()
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request):
        self.requests.append(request)
        owner = request.url.host
        if owner in self.down or owner not in self._to:
            raise httpx.ConnectError("refused", request=request)
        answer = await self._to[owner].handle_async_request(request)
        if owner in self.deaf:
            raise httpx.ReadTimeout("no answer", request=request)
        return answer


@dataclass
class Stack:
    """The gateway's API, the owners' stores, and the events between them."""

    http: httpx.AsyncClient
    switch: Switch
    stores: dict[str, Store]
    handlers: dict[str, ServiceEvents]
    carried: dict[tuple[str, str], int] = field(default_factory=dict)

    async def carry(self, *, to="gateway", since_start=False):
        """Take what the others committed since the last time into a service, as the consumer does; return how many."""
        count = 0
        for source in self.handlers[to].service.consumes:
            if source not in self.stores:
                continue
            after = 0 if since_start else self.carried.get((source, to), 0)
            async for event in self.stores[source].replay.events_since(sequence=after):
                await self.handlers[to].handle(event, Position(f"kap.{source}.v1", 0, event.sequence))
                self.carried[source, to] = max(event.sequence, self.carried.get((source, to), 0))
                count += 1
        return count

    async def create(self, resource, **headers):
        answer = await self.http.post(f"/fhir/{resource['resourceType']}", content=dump(resource), headers=headers)
        assert answer.status_code == 201, answer.text
        return parse(answer.content)

    async def digests(self):
        """What the owners committed, and what the gateway holds of it, to compare."""
        committed = {one for name in OWNERS for one in await self.stores[name].verify.digest() if one.origin == name}
        held = {one for one in await self.stores["gateway"].verify.digest() if one.origin in OWNERS}
        return committed, held


@pytest_asyncio.fixture
async def stack(make_database):
    async with AsyncExitStack() as opened:
        stores = {}
        for name in (*OWNERS, "gateway"):
            stores[name] = await Store.connect(make_database(name), service=name, max_size=4)
            opened.push_async_callback(stores[name].close)
        apps = {
            name: create_fhir_app(service, LocalBackend(service, stores[name]), settings(name))
            for name, service in OWNERS.items()
        }
        switch = Switch(apps)
        urls = {name: f"http://{name}/fhir" for name in ("intake", "scheduling", "sessions", "outcomes", "delivery")}
        client = await opened.enter_async_context(httpx.AsyncClient(transport=switch))
        backend = GatewayBackend(SERVICE, stores["gateway"], Owners(client, urls))
        gateway = create_fhir_app(SERVICE, backend, settings("gateway"), authenticate=everybody(origin=None))
        transport = httpx.ASGITransport(gateway)
        headers = {"Content-Type": "application/fhir+json"}
        http = await opened.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://gateway.example", headers=headers)
        )
        handlers = {
            name: ServiceEvents(service, stores[name]) for name, service in {**OWNERS, "gateway": SERVICE}.items()
        }
        yield Stack(http, switch, stores, handlers)
