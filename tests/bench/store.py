"""How long the store takes on 200,000 resources: create, read, search, page, `_has`, `_total`; prints, judges nothing.

    .venv/bin/python -m tests.bench.store [resources]

Everything runs in this process on a PostgreSQL of its own, without HTTP: a create is what a request makes of a body
(parse, validate, extract the index rows, commit), each part told apart. Ratios are to the read of the same run.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fhir.resources.R4B import get_fhir_model_class

from shared.fhir.definitions import parameter_id, type_id
from shared.fhir.extraction import compartment_key, extract, labels_of
from shared.fhir.ids import subject_uuid
from shared.fhir.json import Resource, dump, parse
from shared.fhir.query import parse_search
from shared.fhir.validation import validate
from shared.local.postgres import PostgresCluster
from shared.store.access import Access
from shared.store.migrate import migrate
from shared.store.store import Store
from shared.store.types import Page
from shared.testing.writes import write_of

ALL = Access.unrestricted()
WRITERS = 6
OBSERVATIONS_OF_AN_ENCOUNTER = 16
BEGAN = datetime(2025, 1, 1, tzinfo=UTC)
LOINC = "http://loinc.org"
READINGS = (
    ("8867-4", "Heart rate", "/min", 70),
    ("2708-6", "Oxygen saturation", "%", 97),
    ("9279-1", "Respiratory rate", "/min", 14),
    ("8310-5", "Body temperature", "Cel", 37),
    ("8480-6", "Systolic blood pressure", "mm[Hg]", 125),
    ("8462-4", "Diastolic blood pressure", "mm[Hg]", 80),
)
RARE = ("29463-7", "Body weight", "kg", 75)


def record(resources: int) -> Iterator[list[Resource]]:
    """Yield about so many resources: patients, then visits of 16 readings each, some 12 visits of each patient."""
    chance = random.Random(20261122)
    visits = resources // (OBSERVATIONS_OF_AN_ENCOUNTER + 1)
    patients = max(1, visits // 12)
    for number in range(patients):
        patient = {
            "resourceType": "Patient",
            "id": f"p{number}",
            "identifier": [{"system": "urn:mrn", "value": str(number)}],
            "name": [{"family": f"Family{number}", "given": ["Ada" if number % 2 else "Ben"]}],
            "gender": "female" if number % 2 else "male",
            "birthDate": f"{1950 + number % 50}-0{1 + number % 9}-11",
        }
        yield [patient]
    for visit in range(visits):
        at = BEGAN + timedelta(minutes=3 * visit)
        subject = {"reference": f"Patient/p{chance.randrange(patients)}"}
        encounter = {
            "resourceType": "Encounter",
            "id": f"e{visit}",
            "status": "finished" if chance.random() < 0.98 else "cancelled",
            "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
            "subject": subject,
            "period": {"start": at.isoformat(), "end": (at + timedelta(hours=2)).isoformat()},
        }
        readings = []
        for number in range(OBSERVATIONS_OF_AN_ENCOUNTER):
            reading = RARE if chance.random() < 0.002 else READINGS[number % len(READINGS)]
            begun = at + timedelta(minutes=number)
            readings.append(
                observation(f"o{visit}-{number}", reading, chance.randrange(40), subject, f"e{visit}", begun)
            )
        yield [encounter, *readings]


def observation(
    id_: str, reading: tuple[str, str, str, int], more: int, subject: Resource, visit: str, at: datetime
) -> Resource:
    code, display, unit, least = reading
    return {
        "resourceType": "Observation",
        "id": id_,
        "status": "final",
        "category": [
            {
                "coding": [
                    {
                        "system": "http://terminology.hl7.org/CodeSystem/observation-category",
                        "code": "vital-signs",
                        "display": "Vital Signs",
                    }
                ]
            }
        ],
        "code": {"coding": [{"system": LOINC, "code": code, "display": display}], "text": display},
        "subject": subject,
        "encounter": {"reference": f"Encounter/{visit}"},
        "effectiveDateTime": at.isoformat(),
        "issued": at.isoformat(),
        "performer": [{"reference": "Practitioner/nurse"}],
        "valueQuantity": {
            "value": least + more,
            "unit": unit,
            "system": "http://unitsofmeasure.org",
            "code": unit,
        },
    }


SEARCHES = (
    ("by patient and code", "Observation", (("patient", "p7"), ("code", f"{LOINC}|8867-4"))),
    ("by patient, the latest first", "Observation", (("patient", "p7"), ("_sort", "-date"), ("_count", "20"))),
    ("by a dense code", "Observation", (("code", f"{LOINC}|8867-4"), ("_count", "20"))),
    ("by a dense code, the latest first", "Observation", (("code", "8867-4"), ("_sort", "-date"), ("_count", "20"))),
    (
        "by two dense codes, the latest first",
        "Observation",
        (("code", "8867-4"), ("category", "vital-signs"), ("_sort", "-date"), ("_count", "20")),
    ),
    ("by a rare code", "Observation", (("code", f"{LOINC}|29463-7"), ("_count", "20"))),
    ("by a day", "Observation", (("date", "2025-02-03"), ("_count", "20"))),
    ("by a quantity in other units", "Observation", (("value-quantity", "gt112000||g"), ("_count", "20"))),
    ("by the patient's name", "Observation", (("patient.name", "family17"), ("_count", "20"))),
    ("by the patient's gender, dense", "Observation", (("patient.gender", "female"), ("_count", "20"))),
    ("by last change, the latest first", "Observation", (("_sort", "-_lastUpdated"), ("_count", "20"))),
    (
        "by a dense code, the last changed first",
        "Observation",
        (("code", "8867-4"), ("_sort", "-_lastUpdated"), ("_count", "20")),
    ),
    (
        "by a rare code, the last changed first",
        "Observation",
        (("code", "29463-7"), ("_sort", "-_lastUpdated"), ("_count", "20")),
    ),
    ("with patient and visit", "Observation", (("code", "8867-4"), ("_include", "Observation:*"), ("_count", "20"))),
    ("_has on a dense code", "Patient", (("_has:Observation:patient:code", "8867-4"), ("_count", "20"))),
    ("_has on a rare code", "Patient", (("_has:Observation:patient:code", "29463-7"), ("_count", "20"))),
    ("not _has: a code excluded", "Observation", (("code:not", "8867-4"), ("_count", "20"))),
    ("_total, of one patient", "Observation", (("patient", "p7"), ("_count", "0"))),
    ("_total, of a dense code", "Observation", (("code", "8867-4"), ("_count", "0"))),
    (
        "_total, of two dense codes",
        "Observation",
        (("code", "8867-4"), ("category", "vital-signs"), ("_count", "0")),
    ),
    ("_total, of a code excluded", "Observation", (("code:not", "8867-4"), ("_count", "0"))),
    (
        "_total, of _has on a dense code",
        "Patient",
        (("_has:Observation:patient:code", "8867-4"), ("_count", "0")),
    ),
    ("_total, by the patient's gender", "Observation", (("patient.gender", "female"), ("_count", "0"))),
)


@dataclass(frozen=True)
class Timed:
    """How long calls took, in ms."""

    taken: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.taken)

    def line(self, name: str, read: float | None = None) -> str:
        """Return it as a line; `read` is the time of a read, to compare with."""
        p95 = statistics.quantiles(self.taken, n=20)[18]
        ratio = "" if read is None else f"   {self.median / read:6.1f} reads"
        return f"{name:<40} median {self.median:8.2f}   p95 {p95:8.2f} ms   {len(self.taken):4} calls{ratio}"


async def timed(work: Callable[[int], Awaitable[object]], most: int) -> Timed:
    """Return what at most `most` calls take, in at most two seconds."""
    await work(-1)
    taken: list[float] = []
    end = time.perf_counter() + 2
    while len(taken) < most and (len(taken) < 5 or time.perf_counter() < end):
        began = time.perf_counter()
        await work(len(taken))
        taken.append(1000 * (time.perf_counter() - began))
    return Timed(taken)


def spent(work: Callable[[], object], times: int = 300) -> float:
    """Return the processor's time of one call, in ms."""
    work()
    began = time.process_time()
    for _ in range(times):
        work()
    return 1000 * (time.process_time() - began) / times


def parts_of_a_create(commit: float) -> Iterator[str]:
    """Yield what each part of a create takes, and its share; `commit` is the store's part, in ms."""
    one = observation("x", READINGS[0], 5, {"reference": "Patient/p7"}, "e1", BEGAN)
    body = dump(one)
    model = get_fhir_model_class("Observation")

    def index() -> None:
        extract(one)
        labels_of(one)
        subject_uuid(compartment_key(one, "Observation", "x").removeprefix("Patient/"))

    parts = {
        "parse the body": spent(lambda: parse(body)),
        "validate": spent(lambda: validate(one)),
        "extract index rows": spent(index),
        "commit": commit,
    }
    whole = sum(parts.values())
    for name, took in parts.items():
        yield f"create: {name:<20} {took:6.3f} ms   {100 * took / whole:3.0f} %"
    theirs = spent(lambda: model.model_validate_json(body))
    yield f"fhir.resources validates the same in {theirs:.3f} ms: {theirs / parts['validate']:.1f} times as long"


async def loaded(store: Store, resources: int) -> tuple[int, float]:
    """Write the record by the store's own door; return how many resources it is, and the seconds."""
    waiting = record(resources)
    written = 0
    began = time.perf_counter()

    async def writer() -> None:
        nonlocal written
        for visit in waiting:  # whole, since the changes of one patient's record wait for one another
            for resource in visit:
                await store.write(ALL, write_of(resource))
            written += len(visit)

    await asyncio.gather(*(writer() for _ in range(WRITERS)))
    took = time.perf_counter() - began
    await store.analyze()
    return written, took


async def measure(dsn: str, resources: int) -> None:
    """Load, measure, print."""
    store = await Store.connect(dsn, service="intake", max_size=WRITERS)
    try:
        written, took = await loaded(store, resources)
        print(f"{written} resources, written by {WRITERS} at once in {took:.0f} s: {written / took:.0f} a second")

        async def create(number: int) -> object:
            subject = {"reference": f"Patient/p{(number + 1) % 50}"}
            return await store.write(ALL, write_of(observation(f"n{number}", READINGS[0], 5, subject, "e1", BEGAN)))

        def update(*, minutes: int = 0, patients: int = 1) -> Callable[[int], Awaitable[object]]:
            async def work(number: int) -> object:
                at = BEGAN + timedelta(minutes=minutes * (number + 2))
                subject = {"reference": f"Patient/p{(number + 1) % patients}"}
                one = observation("n0", READINGS[0], 5, subject, "e1", at)
                return await store.write(ALL, write_of({**one, "note": [{"text": f"{number}"}]}, "update"))

            return work

        taken = await timed(lambda number: store.read(ALL, "Observation", f"o{(number + 1) % 100}-3"), 400)
        read = taken.median
        print(taken.line("read"))
        committed = 0.0
        for name, work in (
            ("create, commit", create),
            ("update that changes no index row", update()),
            ("update that changes one index row", update(minutes=1)),
            ("update that changes every index row", update(patients=2)),
        ):
            before = await logged(store)
            taken = await timed(work, 400)
            kilobytes = (await logged(store) - before) / (len(taken.taken) + 1) / 1000
            print(f"{taken.line(name, read)}   {kilobytes:5.1f} kB of WAL each")
            committed = committed or taken.median
        for line in parts_of_a_create(committed):
            print(line)
        for name, type_, pairs in SEARCHES:
            print((await timed(searching(store, type_, pairs), 100)).line(name, read))
        async for line in with_the_time_in_the_row(store, read):
            print(line)
        for depth in (1, 10, 100):
            taken = await timed(await paging(store, depth), 100)
            print(taken.line(f"page {depth + 1} of a dense search by date", read))
    finally:
        await store.close()


async def with_the_time_in_the_row(store: Store, read: float) -> AsyncIterator[str]:
    """Yield what a search in the order of change would take if each index row held `last_updated`: what ADR 3 forgoes.

    By a copy of the token rows, with the index that such rows would have.
    """
    code, observation_ = parameter_id("code"), type_id("Observation")
    sql = f"""
    SELECT r.id, h.body FROM (
        SELECT rid FROM with_time WHERE tenant = 1 AND type = {observation_} AND param = {code} AND code = $1
        ORDER BY last_updated DESC, rid LIMIT 21
    ) p JOIN resource r USING (rid) JOIN history h ON h.rid = r.rid AND h.version = r.version WHERE NOT r.deleted
    """
    async with store._clinics.acquire() as connection:
        await connection.execute(
            "CREATE TABLE with_time AS SELECT t.*, r.last_updated FROM idx_token t JOIN resource r USING (rid)"
        )
        await connection.execute(
            "CREATE INDEX ON with_time (tenant, type, param, code, last_updated DESC, rid) INCLUDE (system)"
        )
        await connection.execute("ANALYZE with_time")
        for name, value in (("dense", "8867-4"), ("rare", "29463-7")):
            taken = await timed(lambda _, value=value: connection.fetch(sql, value), 100)
            yield taken.line(f"the same by a {name} code, were it in the row", read)


async def logged(store: Store) -> float:
    """Return how many bytes PostgreSQL has written to its log of changes."""
    async with store._clinics.acquire() as connection:
        return float(await connection.fetchval("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"))


def searching(store: Store, type_: str, pairs: tuple[tuple[str, str], ...]) -> Callable[[int], Awaitable[Page]]:
    query = parse_search(type_, pairs, strict=True)
    return lambda _: store.search(ALL, query)


async def paging(store: Store, depth: int) -> Callable[[int], Awaitable[Page]]:
    """Return the search for the page after `depth` pages."""
    query = parse_search("Observation", [("code", "8867-4"), ("_sort", "-date"), ("_count", "20")], strict=True)
    cursor: str | None = None
    for _ in range(depth):
        cursor = (await store.search(ALL, query, cursor=cursor)).next
    return lambda _: store.search(ALL, query, cursor=cursor)


def main() -> None:
    """Start a PostgreSQL, measure, and stop it."""
    resources = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    with tempfile.TemporaryDirectory(prefix="kap-bench-", ignore_cleanup_errors=True) as folder:
        cluster = PostgresCluster(Path(folder) / "postgres", durable=False)
        cluster.start()
        try:
            dsn = cluster.create_database("bench")
            asyncio.run(migrate(dsn))
            asyncio.run(measure(dsn, resources))
        finally:
            cluster.stop(immediate=True)


if __name__ == "__main__":
    main()
