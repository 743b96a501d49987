"""Delivery and a stand-in hospital, each on a database of its own, joined by HTTP on this machine; no Kafka."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from time import monotonic

import httpx
import pytest
import pytest_asyncio
from pydantic import SecretStr

from services.delivery.courier import Patience
from services.delivery.lanes import Lanes
from services.delivery.ops import describe
from services.delivery.service import SERVICE, keep_default_destination
from shared.events.envelope import Event
from shared.events.handler import Position
from shared.events.shards import shard_of
from shared.fhir.extraction import compartment_key, labels_of
from shared.fhir.freshness import KnowledgePolicy
from shared.fhir.ids import new_id
from shared.fhir.json import dump, parse
from shared.http.server import listening
from shared.runtime.app import App
from shared.runtime.consume import ServiceEvents
from shared.runtime.policy import load_policy
from shared.runtime.running import opened
from shared.runtime.settings import Settings
from shared.store.ledger import Ledger
from shared.testing.hospital import create as create_hospital
from shared.testing.knowledge import all_is_heard
from tests.integration.security.consents import PATTERNS
from tests.integration.security.consents import consent as privacy

QUICK = Patience(answer=1.0, reference=0.6, shown=0.4, look_again=0.05, housekeeping=0.2)
NEWS = load_policy().section("knowledge", KnowledgePolicy).disclosure
SERVER = httpx.Limits(max_keepalive_connections=0)


def settings(service, database, **more) -> Settings:
    return Settings(service=service, database_url=SecretStr(database), no_auth=True, roles="api,worker", **more)


class Clinic:
    """What the owners commit: events with versions and times, in the order of their making."""

    def __init__(self) -> None:
        self.versions: dict[tuple[str, str], int] = {}
        self.sequence = 0

    def commit(self, resource, *, source="sessions", delete=False) -> Event:
        type_, id_ = resource["resourceType"], resource["id"]
        version = self.versions[type_, id_] = self.versions.get((type_, id_), 0) + 1
        self.sequence += 1
        now = datetime.now(UTC).replace(microsecond=0)
        meta = {"versionId": str(version), "lastUpdated": now.strftime("%Y-%m-%dT%H:%M:%S.000Z")}
        rest = {} if delete else {name: value for name, value in resource.items() if name != "meta"}
        body = {"resourceType": type_, "id": id_, "meta": meta} | rest
        key = compartment_key(resource, type_, id_)
        return Event(
            id=f"{type_}/{id_}/{version}",
            source=source,
            interaction="delete" if delete else "update" if version > 1 else "create",
            type=type_,
            resource_id=id_,
            version=version,
            time=now,
            tenant="default",
            key=key,
            shard=shard_of("default", key),
            sequence=self.sequence,
            body=dump(body),
            labels=labels_of(resource),
        )


def patient(**more):
    return {"resourceType": "Patient", "id": new_id(), "active": True, "name": [{"family": "Kerr"}], **more}


def consent(of, pattern="P1", **more):
    """Return a patient's privacy consent of a pattern of kap-domain 6.3."""
    return {**privacy(of["id"], PATTERNS[pattern], part_2=pattern == "P5"), "id": new_id(), **more}


def encounter(of, **more):
    return {
        "resourceType": "Encounter",
        "id": new_id(),
        "status": "in-progress",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
        "subject": {"reference": f"Patient/{of['id']}"},
        **more,
    }


def observation(of, **more):
    return {
        "resourceType": "Observation",
        "id": new_id(),
        "status": "final",
        "code": {"text": "Heart rate"},
        "subject": {"reference": f"Patient/{of['id']}"},
        **more,
    }


def condition(of, **more):
    return {
        "resourceType": "Condition",
        "id": new_id(),
        "code": {"text": "Depression"},
        "subject": {"reference": f"Patient/{of['id']}"},
        **more,
    }


@dataclass
class Hospital:
    """The hospital's address, and its resources as its own API shows them."""

    url: str
    http: httpx.AsyncClient

    @property
    def base(self) -> str:
        return f"{self.url}/fhir"

    async def all(self, type_):
        answer = await self.http.get(f"{self.base}/{type_}?_count=1000")
        assert answer.status_code == 200, answer.text
        return [entry["resource"] for entry in parse(answer.content).get("entry", [])]

    async def fault(self, **fault):
        answer = await self.http.post(f"{self.url}/faults", json=fault)
        assert answer.status_code == 200, answer.text

    async def no_faults(self):
        await self.http.delete(f"{self.url}/faults")


@asynccontextmanager
async def hospital_at(database, profile="open", port=0):
    app = create_hospital(settings("hospital", database, port=port, hospital_profile=profile, stop_seconds=1))
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(opened(app))
        http = await stack.enter_async_context(httpx.AsyncClient())
        port = await stack.enter_async_context(listening(one.asgi, app.settings))
        yield Hospital(f"http://127.0.0.1:{port}", http)


@dataclass
class Delivery:
    """Delivery without Kafka: events are handed in, lanes are started and killed at will."""

    parts: object
    events: ServiceEvents
    http: httpx.AsyncClient
    signing: bool
    clinic: Clinic = field(default_factory=Clinic)
    running: list[asyncio.Task] = field(default_factory=list)

    async def hear(self, *resources, **how):
        """Commit resources in the clinic, and take their events in here; a new patient consents to be told of."""
        for resource in resources:
            if (
                self.signing
                and resource["resourceType"] == "Patient"
                and ("Patient", resource["id"]) not in self.clinic.versions
            ):
                await self.take(self.clinic.commit(consent(resource), source="intake"))
            await self.take(self.clinic.commit(resource, **how))

    async def take(self, event):
        return await self.events.handle(event, Position("kap.sessions.v1", 0, event.sequence))

    def start(self, patience=QUICK, transport=lambda: httpx.AsyncHTTPTransport(limits=SERVER)):
        lanes = Lanes(NEWS, patience=patience, transport=transport)
        task = asyncio.create_task(lanes.run(self.parts, lambda: None))
        self.running.append(task)
        return lanes

    async def kill(self):
        for task in self.running:
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)
        self.running.clear()

    async def entries(self, destination=None):
        async with self.parts.store.transaction(keys=(), tenant="default") as transaction:
            ledger = Ledger(transaction)
            ids = [destination] if destination else [one.id for one in await ledger.destinations()]
            return [entry for id_ in ids for entry in await ledger.entries(id_)]

    async def destinations(self):
        async with self.parts.store.transaction(keys=(), tenant="default") as transaction:
            return await Ledger(transaction).destinations()

    async def settled(self, *, seconds=10.0, pending=0, destination=None):
        """Wait until nothing (or only `pending` entries) moves any more; return the entries by our id."""
        deadline = monotonic() + seconds
        while True:
            entries = await self.entries(destination)
            moving = [entry for entry in entries if entry.state in {"queued", "sending"}]
            if len(moving) <= pending:
                return {entry.id: entry for entry in entries}
            assert monotonic() < deadline, [(one.type, one.state, one.attempts, one.outcome) for one in moving]
            await asyncio.sleep(0.05)

    async def tasks(self, **criteria):
        answer = await self.http.get("/fhir/Task", params={**criteria, "_count": "1000"})
        assert answer.status_code == 200, answer.text
        return [entry["resource"] for entry in answer.json().get("entry", [])]

    async def describe(self, lanes):
        async with self.parts.store.transaction(keys=(), tenant="default") as transaction:
            ledger = Ledger(transaction)
            return [
                describe(one, lanes.state_of(one), await ledger.entries(one.id), brief=False)
                for one in await ledger.destinations()
            ]


@asynccontextmanager
async def delivery_at(database, hospital_url, *, heard=-timedelta(days=1), signing=True):
    """Delivery, to which the others have told everything up to so long ago; by default to tomorrow.

    `signing`: whether who is a new patient has signed a consent for all who treat (pattern P1).
    """
    app = App(SERVICE, settings("delivery", database, hospital_url=hospital_url))
    async with opened(app) as one:
        transport = httpx.ASGITransport(one.asgi)
        async with httpx.AsyncClient(transport=transport, base_url="http://delivery.example") as http:
            await keep_default_destination(one.parts)
            await all_is_heard(one.parts.store, SERVICE, ago=heard)
            delivery = Delivery(one.parts, ServiceEvents(SERVICE, one.parts.store), http, signing)
            try:
                yield delivery
            finally:
                await delivery.kill()


@pytest_asyncio.fixture
async def hospital(make_database):
    async with hospital_at(make_database("hospital")) as one:
        yield one


@pytest_asyncio.fixture
async def delivery(make_database, hospital):
    async with delivery_at(make_database("delivery"), hospital.base) as one:
        yield one


@pytest.fixture
def made():
    """Builders of resources."""
    return {"patient": patient, "encounter": encounter, "observation": observation, "condition": condition}
