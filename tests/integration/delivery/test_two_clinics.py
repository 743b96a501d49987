"""Two clinics that name a destination alike: neither learns of the other's, and what goes to one goes nowhere else."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
from starlette.applications import Starlette

from services.delivery.endpoints import endpoint
from services.delivery.ops import disclosures_route
from services.delivery.service import SERVICE
from shared.events.shards import shard_of
from shared.http.app import create_fhir_app
from shared.http.local import LocalBackend
from shared.security.caller import Caller
from shared.store.ledger import Ledger
from shared.testing.events import eventually
from shared.testing.knowledge import all_is_heard
from tests.integration.delivery.conftest import Clinic, consent, patient, settings

NOWHERE = "http://127.0.0.1:9/fhir"
"""Port 9 (discard): nothing answers there."""


@asynccontextmanager
async def asked(delivery):
    """Delivery's FHIR endpoint, where clinics choose their ids, and a request says which clinic it is of."""

    async def who(headers):
        return Caller(headers["x-clinic"], "delivery", everything=True)

    service = replace(SERVICE, fixed_ids=True)
    app = create_fhir_app(
        service,
        LocalBackend(service, delivery.parts.store),
        settings("delivery", delivery.parts.settings.dsn, client_ids=True),
        authenticate=who,
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://delivery.example/fhir") as http:
        yield http


async def destination(delivery, tenant, id_):
    async with delivery.parts.store.transaction(keys=(), tenant=tenant) as transaction:
        return next(one for one in await Ledger(transaction).destinations() if one.id == id_)


async def entries(delivery, tenant, id_):
    async with delivery.parts.store.transaction(keys=(), tenant=tenant) as transaction:
        return await Ledger(transaction).entries(id_)


async def hear(delivery, tenant, one):
    """Have a clinic commit a patient who consents, and delivery take both in."""
    clinic = Clinic()
    for resource in (consent(one), one):
        event = clinic.commit(resource, source="intake")
        await delivery.take(replace(event, tenant=tenant, shard=shard_of(tenant, event.key)))


async def test_two_clinics_name_a_destination_alike_and_each_has_its_own(delivery, hospital):
    async with asked(delivery) as http:
        for tenant, address in (("default", hospital.base), ("north", NOWHERE)):
            ours = {**endpoint(f"of {tenant}", address, creates_patients=True), "id": "ehr"}
            answer = await http.put("/Endpoint/ehr", json=ours, headers={"x-clinic": tenant})
            assert answer.status_code == 201, answer.text
        await all_is_heard(delivery.parts.store, SERVICE)
        lanes = delivery.start()
        ann, northern = patient(), patient(name=[{"family": "Northern"}])
        await hear(delivery, "default", ann)
        await hear(delivery, "north", northern)

        async def accepted():
            [one] = await entries(delivery, "default", "ehr")
            return one.state == "accepted"

        await eventually(accepted)
        there = {name["family"] for one in await hospital.all("Patient") for name in one["name"]}
        assert there == {"Kerr"}, "the other clinic's patient was told to this clinic's hospital"
        [waits] = await entries(delivery, "north", "ehr")
        assert (waits.id, waits.state) == (northern["id"], "queued")
        assert lanes.state_of(await destination(delivery, "north", "ehr")).problem
        assert lanes.state_of(await destination(delivery, "default", "ehr")).problem is None

        assert (await http.delete("/Endpoint/ehr", headers={"x-clinic": "north"})).status_code in {200, 204}
        assert not (await destination(delivery, "north", "ehr")).active
        assert (await destination(delivery, "default", "ehr")).active


async def test_what_was_told_of_a_patient_is_told_of_the_clinic_that_is_asked_about(delivery, hospital):
    delivery.start()
    await hear(delivery, "default", {**patient(), "id": "same"})
    await delivery.settled()
    transport = httpx.ASGITransport(Starlette(routes=[disclosures_route(delivery.parts)]))
    async with httpx.AsyncClient(transport=transport, base_url="http://delivery.example") as http:
        for query, some in (("", True), ("&clinic=default", True), ("&clinic=north", False)):
            answer = await http.get(f"/ops/disclosures?patient=same{query}")
            assert answer.status_code == 200, answer.text
            assert bool(answer.json()["disclosures"]) == some, query
