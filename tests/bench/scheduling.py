"""How long `$find` and `$book-series` take in a clinic of 1,000 patients and 50 clinicians; prints, judges nothing.

    .venv/bin/python -m tests.bench.scheduling [patients]

The service answers over a socket, as `./kap up --no-auth` runs it: uvicorn, the whole of its HTTP, the transaction, and
the answer's body; the client is in the same process, so its time is in the figures, too. PostgreSQL is its own.
"""

from __future__ import annotations

import asyncio
import random
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from pydantic import SecretStr

from services.scheduling.service import scheduling
from shared.events.envelope import Event
from shared.events.handler import Position
from shared.events.shards import shard_of
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.extraction import compartment_key
from shared.fhir.json import Resource, dump
from shared.fhir.outcome import Unprocessable
from shared.http.app import create_fhir_app
from shared.http.local import LocalBackend
from shared.local.postgres import PostgresCluster
from shared.runtime.consume import ServiceEvents
from shared.runtime.logging import set_up_logging
from shared.runtime.policy import load_policy
from shared.runtime.record import open_record
from shared.runtime.service import Service
from shared.runtime.settings import Settings
from shared.security.caller import everybody
from shared.store.access import DEFAULT_TENANT, Access
from shared.store.migrate import migrate
from shared.store.store import Store
from shared.testing.knowledge import all_is_heard

THERAPISTS, MONITORS, PRESCRIBERS, ROOMS = 25, 13, 12, 20
FINDS, SERIES = 100, 40
LEAST = 3
"""Patients: of fewer there is no distribution."""
ZONE = "America/New_York"
NOW = datetime.now(UTC)


def schedule(actor: str, role: codes.Code) -> Resource:
    windows = [
        {
            "url": codes.EXT_AVAILABLE_TIME,
            "extension": [
                *({"url": "daysOfWeek", "valueCode": day} for day in ("mon", "tue", "wed", "thu", "fri")),
                {"url": "availableStartTime", "valueTime": low},
                {"url": "availableEndTime", "valueTime": high},
            ],
        }
        for low, high in (("08:00:00", "12:30:00"), ("13:00:00", "18:00:00"))
    ]
    return {
        "resourceType": "Schedule",
        "active": True,
        "extension": [{"url": codes.EXT_TIMEZONE, "valueCode": ZONE}, *windows],
        "specialty": [role.concept()],
        "actor": [{"reference": actor}],
    }


def ground(patient: str) -> list[Resource]:
    subject = {"reference": f"Patient/{patient}"}
    day = zulu(NOW - timedelta(days=1))
    milligrams = {"value": 70, "unit": "mg", "system": codes.UCUM, "code": "mg"}
    return [
        {
            "resourceType": "RiskAssessment",
            "status": "final",
            "code": codes.ELIGIBILITY.concept(),
            "subject": subject,
            "occurrenceDateTime": day,
            "prediction": [{"outcome": codes.ELIGIBLE.concept()}],
            "extension": [{"url": codes.EXT_SCREENED_FOR, "extension": [{"url": "drug", "valueCode": "ketamine"}]}],
        },
        {"resourceType": "EpisodeOfCare", "status": "active", "type": [codes.COURSE.concept()], "patient": subject},
        {
            "resourceType": "Consent",
            "status": "active",
            "scope": codes.CONSENT_TREATMENT.concept(),
            "category": [codes.PROCEDURE_CONSENT.concept(codes.TREATMENT_CONSENT), codes.ROUTE_IV.concept()],
            "patient": subject,
            "dateTime": day,
            "performer": [subject],
        },
        {
            "resourceType": "CarePlan",
            "status": "active",
            "intent": "plan",
            "category": [codes.PLAN.concept()],
            "subject": subject,
        },
        {
            "resourceType": "MedicationRequest",
            "status": "active",
            "intent": "order",
            "medicationCodeableConcept": codes.KETAMINE.concept(),
            "subject": subject,
            "dosageInstruction": [
                {
                    "route": codes.ROUTE_IV.concept(),
                    "doseAndRate": [{"doseQuantity": milligrams}],
                    "timing": {"repeat": {"count": 6}},
                }
            ],
        },
    ]


class Clinic:
    """The service under test on its own store."""

    def __init__(self, service: Service, store: Store, http: httpx.AsyncClient) -> None:
        self.service = service
        self.store = store
        self.http = http
        self.sequence = 0

    async def hear(self, resource: Resource, id_: str) -> None:
        self.sequence += 1
        type_ = resource["resourceType"]
        key = compartment_key(resource, type_, id_)
        meta = {"versionId": "1", "lastUpdated": zulu(NOW)}
        event = Event(
            id=f"{type_}/{id_}/1",
            source="intake",
            interaction="create",
            type=type_,
            resource_id=id_,
            version=1,
            time=NOW,
            tenant=DEFAULT_TENANT,
            key=key,
            shard=shard_of(DEFAULT_TENANT, key),
            sequence=self.sequence,
            body=dump({**resource, "id": id_, "meta": meta}),
        )
        await ServiceEvents(self.service, self.store).handle(event, Position("kap.intake.v1", 0, self.sequence))

    async def create(self, resource: Resource, key: str) -> None:
        async with open_record(self.service, self.store, Access.unrestricted(), keys=(key,)) as record:
            await record.create(resource)

    async def ask(self, name: str, **parameters: Any) -> Resource:
        given = [_parameter(key.replace("_", "-"), value) for key, value in parameters.items()]
        body = {"resourceType": "Parameters", "parameter": given}
        answer = await self.http.post(f"/fhir/Appointment/${name}", json=body)
        if answer.status_code != httpx.codes.OK:
            message = f"${name} was answered {answer.status_code}: {answer.text}"
            raise RuntimeError(message)
        told: Resource = answer.json()
        return told


def _parameter(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, datetime):
        return {"name": name, "valueDateTime": zulu(value)}
    if isinstance(value, bool):
        return {"name": name, "valueBoolean": value}
    if "/" in value:
        return {"name": name, "valueReference": {"reference": value}}
    return {"name": name, "valueCode": value}


async def load(clinic: Clinic, patients: int) -> int:
    """Make the clinic: Schedules, the ground of every patient, and a visit for each that found a free time."""
    staff = [
        *((f"Practitioner/t{n}", codes.THERAPIST) for n in range(THERAPISTS)),
        *((f"Practitioner/m{n}", codes.MONITOR) for n in range(MONITORS)),
        *((f"Practitioner/d{n}", codes.PRESCRIBER) for n in range(PRESCRIBERS)),
        *((f"Location/r{n}", codes.ROOM) for n in range(ROOMS)),
    ]
    for actor, role in staff:
        await clinic.create(schedule(actor, role), "none")
    for number in range(patients):
        for one in ground(f"p{number}"):
            await clinic.hear(one, f"{one['resourceType'].lower()}-{number}")
    dice, booked = random.Random(1), 0
    first = (NOW + timedelta(days=1)).replace(hour=13, minute=0, second=0, microsecond=0)
    for number in range(patients * 2):
        start = first + timedelta(days=dice.randrange(27), minutes=15 * dice.randrange(28))
        people = [
            (f"Patient/p{number % patients}", None),
            (f"Practitioner/t{dice.randrange(THERAPISTS)}", codes.THERAPIST),
        ]
        try:
            await clinic.create(
                {
                    "resourceType": "Appointment",
                    "status": "booked",
                    "serviceType": [codes.VISIT_PREP.concept()],
                    "start": zulu(start),
                    "end": zulu(start + timedelta(hours=1)),
                    "participant": [
                        {
                            "actor": {"reference": who},
                            "status": "accepted",
                            **({} if role is None else {"type": [role.concept()]}),
                        }
                        for who, role in people
                    ],
                },
                people[0][0],
            )
        except Unprocessable:
            continue
        booked += 1
    return booked


async def timed(work: Callable[[int], Awaitable[object]], times: int) -> str:
    """Return how long `work` takes, in ms: median, 95th percentile, longest; and the processor's time in it, here only.

    On a machine that is busy with something else the latter says more.
    """
    await work(-1)
    taken, worked = [], []
    for number in range(times):
        began, before = time.perf_counter(), time.process_time()
        await work(number)
        taken.append(1000 * (time.perf_counter() - began))
        worked.append(1000 * (time.process_time() - before))
    cuts = statistics.quantiles(taken, n=20)
    return (
        f"median {statistics.median(taken):6.1f}   p95 {cuts[18]:6.1f}   max {max(taken):6.1f} ms   "
        f"({times} calls; of this process {statistics.median(worked):.1f} ms)"
    )


@asynccontextmanager
async def served(service: Service, store: Store) -> AsyncIterator[httpx.AsyncClient]:
    """Serve the FHIR API on a port of its own, to everybody; yield a client of it."""
    listening = socket.create_server(("127.0.0.1", 0))
    base = f"http://127.0.0.1:{listening.getsockname()[1]}"
    settings = Settings(
        service=service.name, database_url=SecretStr("postgresql://x"), public_base=f"{base}/fhir", no_auth=True
    )
    app = create_fhir_app(service, LocalBackend(service, store), settings, authenticate=everybody(origin=service.name))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", access_log=False))
    running = asyncio.create_task(server.serve([listening]))
    while not server.started:  # noqa: ASYNC110 - uvicorn tells of it by this alone
        await asyncio.sleep(0.01)
    async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=60) as client:
        yield client
    server.should_exit = True
    await running


async def measure(dsn: str, patients: int) -> None:
    """Load, measure, print."""
    set_up_logging("ERROR")
    service = scheduling(load_policy())
    store = await Store.connect(dsn, service=service.name)
    try:
        async with served(service, store) as http:
            await _measure(Clinic(service, store, http), service, store, patients)
    finally:
        await store.close()


async def _measure(clinic: Clinic, service: Service, store: Store, patients: int) -> None:
    began = time.perf_counter()
    booked = await load(clinic, patients)
    await all_is_heard(store, service, ago=-timedelta(hours=1))
    await store.analyze()
    print(
        f"{patients} patients, {THERAPISTS + MONITORS + PRESCRIBERS} clinicians, {ROOMS} rooms, {booked} visits "
        f"booked in four weeks ({time.perf_counter() - began:.0f} s to load)"
    )
    end = NOW + timedelta(days=28)

    async def find(number: int) -> object:
        patient = f"Patient/p{number % patients}"
        return await clinic.ask("find", start=NOW, end=end, visit_type="kap-dosing", patient=patient)

    async def series(number: int) -> object:
        number = patients - 1 if number < 0 else number  # each patient has one course: the last one's is to warm up
        return await clinic.ask(
            "book-series",
            patient=f"Patient/p{number}",
            order=f"MedicationRequest/medicationrequest-{number}",
            start=NOW,
        )

    print(f"$find over four weeks   {await timed(find, FINDS)}")
    print(f"$book-series, 15 visits {await timed(series, min(SERIES, patients - 1))}")


def main() -> None:
    """Start a PostgreSQL, measure, and stop it."""
    patients = max(int(sys.argv[1]) if len(sys.argv) > 1 else 1000, LEAST)
    with tempfile.TemporaryDirectory(prefix="kap-bench-", ignore_cleanup_errors=True) as folder:
        cluster = PostgresCluster(Path(folder) / "postgres", durable=False)
        cluster.start()
        try:
            dsn = cluster.create_database("bench")
            asyncio.run(migrate(dsn))
            asyncio.run(measure(dsn, patients))
        finally:
            cluster.stop(immediate=True)


if __name__ == "__main__":
    main()
