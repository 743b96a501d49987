"""The second wall between clinics: what a statement that forgets its clinic is shown, PostgreSQL decides."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import asyncpg
import pytest

from shared.events.envelope import Event
from shared.events.shards import shard_of
from shared.store.access import Access
from shared.store.connection import EVERY_CLINIC
from shared.store.store import Store
from shared.testing.writes import write_of

EVENT = Event(
    id="Consent/c1/2",
    source="intake",
    interaction="update",
    type="Consent",
    resource_id="c1",
    version=2,
    time=datetime(2026, 11, 22, 10, tzinfo=UTC),
    tenant="north",
    key="Patient/p1",
    shard=0,
    sequence=2,
    body=b"{}",
    labels=(),
    request_id=None,
    traceparent=None,
)
NORTH, SOUTH = Access.unrestricted("north"), Access.unrestricted("south")
UNWALLED = {
    "idx_number": "numbers and rids alone; the operators of numeric are not leakproof",
    "idx_quantity": "numbers, units and rids alone; the operators of numeric are not leakproof",
    "booking": "ranges of numbers of booking_resource, which is behind the wall",
    "booking_closure": "ranges of numbers of booking_resource, which is behind the wall",
}
_WITH_A_CLINIC = """
SELECT c.relname AS name, c.relrowsecurity AND c.relforcerowsecurity AS walled
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND a.attname = 'tenant' AND NOT a.attisdropped
"""


@pytest.fixture
async def both(store: Store) -> Store:
    """A Patient of the same id in each of two clinics, and a second one in the south."""
    person = {"resourceType": "Patient", "id": "p1", "active": True, "birthDate": "1990-01-01",
              "identifier": [{"system": "urn:mrn", "value": "1"}], "name": [{"family": "Lovelace"}]}  # fmt: skip
    await store.write(NORTH, write_of(person))
    for id_ in ("p1", "p2"):
        await store.write(SOUTH, write_of({**person, "id": id_}))
    return store


async def test_every_table_with_a_clinic_is_behind_the_wall_or_here_with_the_reason(store: Store):
    async with store._clinics.bare() as connection:
        walled = {row["name"]: row["walled"] for row in await connection.fetch(_WITH_A_CLINIC)}
    assert len(walled) > 20
    assert {name for name, is_walled in walled.items() if not is_walled} == UNWALLED.keys()


@pytest.mark.parametrize("table", ["resource", "history", "outbox", "idx_token", "idx_string", "idx_date"])
async def test_a_statement_that_forgets_its_clinic_is_shown_no_other_ones_rows(both: Store, table: str):
    counted = f"SELECT count(*) FROM {table}"
    async with both._clinics.reading("north") as (connection, _):
        north = await connection.fetchval(counted)
    async with both._clinics.reading("south") as (connection, _):
        south = await connection.fetchval(counted)
    async with both._clinics.reading("nobody's") as (connection, _):
        assert await connection.fetchval(counted) == 0
    async with both._clinics.acquire() as connection:
        assert await connection.fetchval(counted) == north + south
    assert south == 2 * north > 0


async def test_a_connection_that_has_not_said_whom_it_works_for_is_shown_nothing(both: Store, database: str):
    silent = await asyncpg.connect(database)
    try:
        for table in ("resource", "history", "outbox", "idx_token"):
            assert await silent.fetchval(f"SELECT count(*) FROM {table}") == 0
    finally:
        await silent.close()
    told = await asyncpg.connect(database, server_settings=EVERY_CLINIC)
    try:
        assert await told.fetchval("SELECT count(*) FROM resource") == 3
    finally:
        await told.close()


async def test_rows_of_another_clinic_are_neither_changed_nor_made(both: Store):
    async with both._clinics.reading("north") as (connection, north):
        assert await connection.execute("UPDATE resource SET labels = '{planted}'") == "UPDATE 1"
        assert await connection.execute("DELETE FROM history") == "DELETE 1"
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("UPDATE resource SET tenant = $1", north + 1)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(
                "INSERT INTO resource (tenant, type, id, version, last_updated, deleted, origin, labels) "
                "VALUES ($1, 1, 'x', 1, now(), false, 'x', '{}')",
                north + 1,
            )
    for id_ in ("p1", "p2"):
        assert (await both.read(SOUTH, "Patient", id_)).version == 1


@pytest.mark.parametrize("name", ["0", "*", "", "south' OR true --", "-1"])
async def test_no_name_of_a_clinic_opens_the_wall(both: Store, name: str):
    async with both._clinics.reading(name) as (connection, _):
        assert await connection.fetchval("SELECT count(*) FROM resource") == 0
        assert await connection.fetchval("SELECT count(*) FROM outbox") == 0


async def test_a_transaction_that_fails_leaves_its_connection_to_the_clinic_that_comes_next(both: Store):
    async def count_and_fail(tenant: str) -> None:
        async with both.transaction(keys=[], tenant=tenant) as transaction:
            assert await transaction.connection.fetchval("SELECT count(*) FROM resource") == counts[tenant]
            raise ZeroDivisionError

    counts = {"north": 1, "south": 2}
    for access, (tenant, count) in zip((NORTH, SOUTH), counts.items(), strict=True):
        with pytest.raises(ZeroDivisionError):
            await count_and_fail(tenant)
        assert (await both.read(access, "Patient", "p1")).version == 1
        async with both._clinics.reading(tenant) as (connection, _):
            assert await connection.fetchval("SELECT count(*) FROM resource") == count


def test_the_same_patient_of_two_clinics_is_in_shards_of_their_own():
    assert len({shard_of(f"clinic {number}", "Patient/p1") for number in range(64)}) > 8


async def test_an_event_is_no_repeat_of_another_clinics_of_the_same_name(store: Store):
    """Else a Consent's withdrawal would be lost to whom a client of another clinic chose the same id for."""
    for tenant in ("north", "south"):
        event = replace(EVENT, tenant=tenant)
        async with store.transaction(keys=[event.key], tenant=tenant) as transaction:
            assert await transaction.applied("delivery", [event]) == set()
            assert await transaction.take_in("delivery", event)
            assert await transaction.take_in_many("gateway", [event, event]) == [True, False]
        async with store.transaction(keys=[event.key], tenant=tenant) as transaction:
            assert await transaction.applied("delivery", [event]) == {(event.source, event.id)}
            assert not await transaction.take_in("delivery", event)
            await transaction.park(
                "outcomes", event, topic="kap.intake.v1", partition=1, offset=3, error="cannot be read"
            )
    assert [(one.tenant, one.attempts) for one in await store.parking.list("outcomes")] == [("north", 1), ("south", 1)]
