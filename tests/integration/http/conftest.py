"""A FHIR service of a few types on a real PostgreSQL, with one guard and one operation to look at."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
from pydantic import SecretStr

from shared.fhir.outcome import Unprocessable
from shared.http.app import create_fhir_app
from shared.http.backend import Backend
from shared.http.local import LocalBackend
from shared.runtime.service import Operation, Service
from shared.runtime.settings import Settings
from shared.store.store import Store
from shared.testing.databases import *  # noqa: F403 - the fixtures postgres, database, store

BASE = "http://kap.example/fhir"
MOST = 1024 * 1024


async def no_goal_without_words(change, record):
    """A rule, what it does not judge without news, and a fact that follows from a write in the same transaction."""
    if change.after is not None and change.after["lifecycleStatus"] == "planned":
        await record.require_current()
    if change.after is not None and change.after["description"].get("text") == "nothing":
        raise Unprocessable("A goal says something.", rule="T1", expression=["Goal.description"])
    if change.interaction == "create":
        await record.create(
            {
                "resourceType": "Flag",
                "status": "active",
                "code": {"text": "new goal"},
                "subject": change.after["subject"],
            }
        )


async def complete(call, record):
    goal = await record.get("Goal", call.id)
    written = await record.update({**goal, "lifecycleStatus": "completed"})
    return {**goal, "lifecycleStatus": "completed", "meta": {"versionId": str(written.stored.version)}}


async def goals(call, record):
    found = await record.search("Goal", {"patient": call.id})
    return {"resourceType": "Parameters", "parameter": [{"name": "count", "valueInteger": len(found)}]}


async def fail(call, record):
    await record.create({"resourceType": "Patient", "active": True})
    raise RuntimeError("after the write")


SERVICE = Service(
    name="intake",
    title="KAP intake",
    types=frozenset(("Patient", "Observation", "Goal", "Flag", "Organization", "Provenance")),
    guards={"Goal": (no_goal_without_words,)},
    operations=(
        Operation("complete", "Goal", "instance", complete),
        Operation("goals", "Patient", "instance", goals, affects_state=False),
        Operation("fail", "Patient", "type", fail),
    ),
    consumes=("sessions",),
    judges_on_news=frozenset(("Goal",)),
)


@dataclass
class Fhir:
    """A client of the service, its store, and what helps to look at both."""

    http: httpx.AsyncClient
    store: Store
    backend: Backend

    async def create(self, resource, **headers) -> dict:
        answer = await self.http.post(f"/fhir/{resource['resourceType']}", json=resource, headers=headers)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def held(self) -> int:
        """How many versions of anything are held."""
        return sum(digest.versions for digest in await self.store.verify.digest())


def make_settings(**more) -> Settings:
    return Settings(
        service="intake",
        database_url=SecretStr("postgresql://the-fixture-connects"),
        public_base=BASE,
        no_auth=True,
        max_body_bytes=MOST,
        port=0,
        stop_seconds=5,
        **more,
    )


@pytest.fixture
def settings() -> Settings:
    return make_settings()


@pytest.fixture
async def fhir(store) -> AsyncIterator[Fhir]:
    backend = LocalBackend(SERVICE, store)
    app = create_fhir_app(SERVICE, backend, make_settings())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://kap.example") as http:
        yield Fhir(http, store, backend)


@pytest.fixture
def issues():
    """Return the issues of an OperationOutcome answered with `status`."""

    def of(answer, status):
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"].startswith("application/fhir+json")
        outcome = answer.json()
        assert outcome["resourceType"] == "OperationOutcome"
        assert all(issue["diagnostics"] for issue in outcome["issue"])
        return outcome["issue"]

    return of
