"""What holds when many write at once. The stores here have several connections, so their transactions overlap."""

from __future__ import annotations

import asyncio
import random

import pytest

from shared.events.envelope import Event
from shared.fhir.extraction import extract
from shared.fhir.json import parse
from shared.fhir.outcome import Gone, NotFound, PreconditionFailed
from shared.fhir.query import parse_search
from shared.store.access import Access
from shared.store.connection import open_connection, retry_conflicts
from shared.store.outbox import open_outbox
from shared.store.rows import arrays_of
from shared.store.store import Store
from shared.testing.writes import write_of

ALL = Access.unrestricted()
TABLES = {
    "token": ("param", "system", "code", "edge"),
    "string": ("param", "value", "exact", "edge"),
    "reference": ("param", "target", "edge"),
    "date": ("param", "low", "high", "edge"),
    "number": ("param", "low", "high", "edge"),
    "quantity": ("param", "low", "high", "system", "code", "edge"),
    "uri": ("param", "value", "edge"),
}


@pytest.fixture
async def wide(database):
    """A store with many connections."""
    store = await Store.connect(database, service="intake", min_size=12, max_size=12)
    yield store
    await store.close()


def observation(id_: str, patient: str, number: int, **more):
    return {
        "resourceType": "Observation",
        "id": id_,
        "status": random.choice(["preliminary", "final", "amended"]),
        "code": {"coding": [{"system": "http://loinc.org", "code": f"code-{number % 7}"}], "text": f"Text {number}"},
        "category": [{"coding": [{"system": "urn:c", "code": f"c{n}"}]} for n in range(number % 4)],
        "subject": {"reference": f"Patient/{patient}"},
        "effectiveDateTime": f"2026-11-{1 + number % 28:02}T10:00:00Z",
        "valueQuantity": {"value": number, "system": "http://unitsofmeasure.org", "code": "kg"},
        **more,
    }


async def assert_index_matches_bodies(store: Store, database: str) -> None:
    connection = await open_connection(database, application="test")
    try:
        held = await connection.fetch(
            "SELECT r.rid, r.deleted, h.body FROM resource r JOIN history h USING (rid, version)"
        )
        assert held
        for rid, deleted, body in held:
            columns = iter(arrays_of(extract({"resourceType": "X"} if deleted else parse(body))))
            for table, names in TABLES.items():
                rows = await connection.fetch(f"SELECT {', '.join(names)} FROM idx_{table} WHERE rid = $1", rid)
                expected = list(zip(*(next(columns) for _ in names), strict=True))
                assert sorted(tuple(row) for row in rows) == sorted(expected), (table, body)
    finally:
        await connection.close()


async def test_after_overlapping_updates_the_index_matches_the_body_that_won(wide: Store, database: str):
    ids = [f"o{n}" for n in range(20)]
    for n, id_ in enumerate(ids):
        await wide.write(ALL, write_of(observation(id_, f"p{n % 3}", n)))

    async def update(number: int) -> None:
        id_ = random.choice(ids)
        resource = observation(id_, f"p{int(id_[1:]) % 3}", number)
        await wide.write(ALL, write_of(resource, "delete" if number % 11 == 0 else "update"))

    for round_ in range(4):
        results = await asyncio.gather(*(update(round_ * 50 + n) for n in range(50)), return_exceptions=True)
        refused = [result for result in results if isinstance(result, Exception)]
        assert all(type(error).__name__ == "Gone" for error in refused), refused
    await assert_index_matches_bodies(wide, database)


async def test_overlapping_updates_with_if_match_let_exactly_one_through(wide: Store):
    await wide.write(ALL, write_of(observation("o1", "p1", 0)))
    results = await asyncio.gather(
        *(wide.write(ALL, write_of(observation("o1", "p1", n), "update", expected=1)) for n in range(50)),
        return_exceptions=True,
    )
    assert sum(not isinstance(result, Exception) for result in results) == 1
    assert sum(isinstance(result, PreconditionFailed) for result in results) == 49


async def read_outbox(database: str, stop: asyncio.Event) -> list[Event]:
    """Relay as the real one does: read the unpublished, publish, mark."""
    outbox = await open_outbox(database, service="intake")
    published: list[Event] = []
    try:
        await outbox.acquire(16)
        while True:
            last = stop.is_set()
            events = await outbox.unpublished(37)
            published += events
            await outbox.mark_published(events)
            if not events:
                if last:
                    return published
                await outbox.wait(0.05)
    finally:
        await outbox.close()


async def test_concurrent_writers_lose_no_event_and_keep_each_keys_order(wide: Store, database: str):
    stop = asyncio.Event()
    relay = asyncio.create_task(read_outbox(database, stop))

    async def writer(number: int) -> None:
        for turn in range(12):
            patient = f"p{(number * 7 + turn) % 5}"
            new = observation(f"o{number}-{turn}", patient, turn)
            if turn % 3:
                await wide.write(ALL, write_of(new))
            else:
                async with wide.transaction(keys=[f"Patient/{patient}"], tenant="default") as transaction:
                    await transaction.write(ALL, write_of(new))
                    await asyncio.sleep(random.uniform(0, 0.01))
                    await transaction.write(ALL, write_of({**new, "status": "amended"}, "update"))

    await asyncio.gather(*(writer(number) for number in range(10)))
    stop.set()
    published = await asyncio.wait_for(relay, 30)
    ids = [event.id for event in published]
    assert len(ids) == len(set(ids)) == 10 * 8 + 10 * 4 * 2
    held = [event async for event in wide.replay.events_since()]
    assert sorted(held, key=lambda event: event.sequence) == sorted(published, key=lambda event: event.sequence)
    for key in {event.key for event in published}:
        along = [event for event in published if event.key == key]
        assert [event.sequence for event in along] == sorted(event.sequence for event in along)
        versions = [(event.resource_id, event.version) for event in along]
        for id_, version in versions:
            assert version == 1 or versions.index((id_, 1)) < versions.index((id_, 2))


async def test_an_acknowledged_write_precedes_a_later_one_of_its_key(wide: Store):
    """Happened-before along a key is sequence order, whichever connection wrote."""
    last = 0
    for number in range(30):
        written = await wide.write(ALL, write_of(observation(f"o{number}", "p1", number)))
        assert written.sequence > last
        last = written.sequence


async def test_fifty_conditional_creates_at_once_make_one_patient(wide: Store):
    query = parse_search("Patient", [("identifier", "urn:mrn|1")], strict=True)

    async def create(number: int) -> str:
        async def attempt() -> str:
            async with wide.transaction(keys=[f"Patient/new{number}"], tenant="default") as transaction:
                await transaction.claim("default", "Patient?identifier=urn:mrn|1")
                found = await transaction.search(ALL, query)
                if found.entries:
                    return found.entries[0].id
                person = {
                    "resourceType": "Patient",
                    "id": f"new{number}",
                    "identifier": [{"system": "urn:mrn", "value": "1"}],
                }
                return (await transaction.write(ALL, write_of(person))).stored.id

        return await retry_conflicts(attempt)

    ids = await asyncio.gather(*(create(number) for number in range(50)))
    assert len(set(ids)) == 1
    assert len((await wide.search(ALL, query)).entries) == 1


async def test_crossing_transactions_both_commit_in_the_end(wide: Store):
    """A deadlock is ended by PostgreSQL, and `retry_conflicts` runs the transaction that lost again."""
    for id_ in ("p1", "p2"):
        await wide.write(ALL, write_of({"resourceType": "Patient", "id": id_}))

    async def both(first: str, second: str) -> None:
        async def attempt() -> None:
            async with wide.transaction(keys=[], tenant="default") as transaction:
                await transaction.write(ALL, write_of({"resourceType": "Patient", "id": first}, "update"))
                await asyncio.sleep(0.05)
                await transaction.write(ALL, write_of({"resourceType": "Patient", "id": second}, "update"))

        await retry_conflicts(attempt)

    await asyncio.gather(both("p1", "p2"), both("p2", "p1"))
    assert [(await wide.read(ALL, "Patient", id_)).version for id_ in ("p1", "p2")] == [3, 3]


async def deadlocks(database: str) -> int:
    """Return how many deadlocks PostgreSQL has ended in this database, retried ones too."""
    connection = await open_connection(database, application="test")
    try:
        return await connection.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    finally:
        await connection.close()


async def test_transactions_that_name_their_keys_never_deadlock(wide: Store, database: str):
    async def several(number: int) -> None:
        patients = random.sample([f"p{n}" for n in range(6)], 4)
        async with wide.transaction(keys=[f"Patient/{p}" for p in patients], tenant="default") as transaction:
            for patient in patients:
                await transaction.write(ALL, write_of(observation(f"{number}-{patient}", patient, number)))

    await asyncio.gather(*(several(number) for number in range(40)))
    assert (await wide.verify.outbox()).written == 160
    assert await deadlocks(database) == 0


async def test_a_random_mix_of_all_kinds_of_changes_meets_no_deadlock_and_loses_nothing(wide: Store, database: str):
    """Single changes, transactions over several patients in any order, conditional creates: all on a few records."""
    chance = random.Random(20261122)
    patients = [f"p{number}" for number in range(5)]
    written = 0

    async def single(number: int) -> int:
        kind = chance.choice(("update", "update", "delete"))
        try:
            await wide.write(ALL, write_of(observation(f"o{number % 9}", patients[number % 9 % 5], number), kind))
        except (Gone, NotFound):
            return 0
        return 1

    async def across(number: int) -> int:
        some = chance.sample(patients, chance.randint(2, 4))
        async with wide.transaction(keys=[f"Patient/{one}" for one in some], tenant="default") as transaction:
            for one in some:
                kept = await transaction.find(ALL, "Patient", one, lock=True)
                person = {"resourceType": "Patient", "id": one, "active": kept is None}
                await transaction.write(ALL, write_of(person, "update"))
        return len(some)

    async def conditional(number: int) -> int:
        mrns = [str(mrn) for mrn in chance.sample(range(4), 2)]
        made = 0
        key = f"Patient/c{number}"
        async with wide.transaction(keys=[key], tenant="default") as transaction:
            await transaction.claim("default", *(f"Patient?identifier=urn:mrn|{mrn}" for mrn in mrns))
            for mrn in mrns:
                query = parse_search("Patient", [("identifier", f"urn:mrn|{mrn}")], strict=True)
                if not (await transaction.search(ALL, query)).entries:
                    identifier = [{"system": "urn:mrn", "value": mrn}]
                    person = {"resourceType": "Patient", "id": f"c{number}-{mrn}", "identifier": identifier}
                    await transaction.write(ALL, write_of(person))
                    made += 1
        return made

    for _ in range(4):
        kinds = [chance.choice((single, across, conditional)) for _ in range(60)]
        done = await asyncio.gather(*(kind(number) for number, kind in enumerate(kinds)))
        written += sum(done)
    assert await deadlocks(database) == 0
    assert (await wide.verify.outbox()).written == written
    for mrn in range(4):
        query = parse_search("Patient", [("identifier", f"urn:mrn|{mrn}")], strict=True)
        assert len((await wide.search(ALL, query)).entries) == 1
    await assert_index_matches_bodies(wide, database)


async def test_a_locked_read_sees_what_was_committed_while_it_waited(wide: Store):
    await wide.write(ALL, write_of(observation("o1", "p1", 0)))
    entered = asyncio.Event()

    async def holder() -> None:
        async with wide.transaction(keys=[], tenant="default") as transaction:
            await transaction.write(ALL, write_of(observation("o1", "p1", 1), "update"))
            entered.set()
            await asyncio.sleep(0.1)

    async def waiter() -> int:
        await entered.wait()
        async with wide.transaction(keys=[], tenant="default") as transaction:
            found = await transaction.find(ALL, "Observation", "o1", lock=True)
            assert found is not None
            return found.version

    assert (await asyncio.gather(holder(), waiter()))[1] == 2
