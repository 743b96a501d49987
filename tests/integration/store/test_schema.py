from __future__ import annotations

import asyncio

import asyncpg
import pytest

from shared.fhir.definitions import PARAMETER_IDS, TYPE_IDS
from shared.fhir.outcome import Unavailable
from shared.local.postgres import PostgresCluster
from shared.store import migrate as migrating
from shared.store.access import Access
from shared.store.connection import open_connection, translated
from shared.store.migrate import Migration, SchemaMismatch, migrate, migrations
from shared.store.store import Store
from shared.testing.writes import write_of

ALL = Access.unrestricted()


@pytest.fixture
def empty(postgres):
    """The address of a database without a schema."""
    return postgres.cluster.create_database(f"empty_{next(postgres._numbers)}")


async def test_migrators_at_once_run_each_migration_once(empty):
    ran = await asyncio.gather(*(migrate(empty) for _ in range(4)))
    assert sorted(map(len, ran)) == [0, 0, 0, len(migrations())]
    assert await migrate(empty) == []


async def test_a_store_refuses_a_database_that_was_not_migrated(empty):
    with pytest.raises(SchemaMismatch, match="lacks the migration 0001"):
        await Store.connect(empty, service="intake")


async def test_a_migration_that_was_changed_or_is_newer_is_refused(database, monkeypatch):
    first, *rest = migrations()
    monkeypatch.setattr(migrating, "migrations", lambda *_: (Migration(first.name, "SELECT 1", "other"), *rest))
    with pytest.raises(SchemaMismatch, match="was changed"):
        await migrate(database)
    monkeypatch.setattr(migrating, "migrations", lambda *_: tuple(rest))
    with pytest.raises(SchemaMismatch, match="newer"):
        await Store.connect(database, service="intake")


async def test_a_migration_that_fails_leaves_nothing_behind(database, monkeypatch):
    bad = Migration("9999_bad", "CREATE TABLE half (); SELECT 1/0", "x")
    known = migrations()
    monkeypatch.setattr(migrating, "migrations", lambda *_: (*known, bad))
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(database)
    connection = await open_connection(database, application="test")
    assert await connection.fetchval("SELECT to_regclass('half')") is None
    await connection.close()


async def test_a_migration_gives_up_soon_where_a_table_is_in_use(database, monkeypatch):
    known = migrations()
    slow = Migration("9999_slow", "ALTER TABLE resource ADD COLUMN more text", "x")
    monkeypatch.setattr(migrating, "migrations", lambda *_: (*known, slow))
    monkeypatch.setattr(migrating, "LOCK_TIMEOUT", 1)
    connection = await open_connection(database, application="test")
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE resource IN ACCESS SHARE MODE")
            with pytest.raises(Unavailable):
                await migrate(database)
    finally:
        await connection.close()


async def test_numbers_in_the_database_mean_what_they_mean_here(database):
    connection = await open_connection(database, application="test")
    try:
        types = await connection.fetch("SELECT name, id FROM resource_type")
        parameters = await connection.fetch("SELECT code, id FROM search_parameter")
    finally:
        await connection.close()
    assert dict(types) == dict(TYPE_IDS)
    assert dict(parameters) == dict(PARAMETER_IDS)


async def test_the_application_is_an_ordinary_role(database):
    connection = await open_connection(database, application="test")
    try:
        row = await connection.fetchrow(
            "SELECT rolname, rolsuper, rolcreatedb, rolcreaterole, rolbypassrls FROM pg_roles "
            "WHERE rolname = current_user"
        )
    finally:
        await connection.close()
    assert tuple(row) == ("kap", False, False, False, False)


async def test_every_connection_gives_up_a_statement_that_takes_too_long(database):
    store = await Store.connect(database, service="intake", statement_timeout=0.2)
    try:
        async with store._clinics.acquire() as connection:
            with pytest.raises(Unavailable), translated():
                await connection.execute("SELECT pg_sleep(5)")
        await store.ping()
    finally:
        await store.close()


async def test_a_write_is_one_round_trip(store: Store):
    await store.write(ALL, write_of({"resourceType": "Patient", "id": "p1"}))
    sent = []
    async with store._clinics.bare() as connection:
        connection.add_query_logger(lambda record: sent.append(record.query))
    for number in range(3):
        await store.write(ALL, write_of({"resourceType": "Patient", "id": "p1", "active": number == 1}, "update"))
    assert len(sent) == 3
    assert all("kap_write" in query for query in sent)


async def test_what_was_acknowledged_survives_a_crash_of_the_server(tmp_path):
    """PostgreSQL is killed again and again under writers; what they were told is there, whole, with its event."""
    cluster = PostgresCluster(tmp_path / "crash")
    cluster.start()
    try:
        address = cluster.create_database("kap_intake")
        await migrate(address)
        store = await Store.connect(address, service="intake")
        acknowledged: dict[str, int] = {}
        stop = False

        async def writer(name: str) -> None:
            number = 0
            while not stop:
                id_ = f"{name}-{number % 5}"
                try:
                    written = await store.write(ALL, write_of({"resourceType": "Patient", "id": id_}, "update"))
                except Unavailable:
                    await asyncio.sleep(0.05)
                    continue
                acknowledged[id_] = written.stored.version
                number += 1

        writers = [asyncio.create_task(writer(f"w{n}")) for n in range(3)]
        for _ in range(2):
            await asyncio.sleep(0.5)
            cluster.kill()
            await asyncio.to_thread(cluster.start)
        await asyncio.sleep(0.3)
        stop = True
        await asyncio.gather(*writers)
        assert acknowledged
        for id_, version in acknowledged.items():
            assert (await store.read(ALL, "Patient", id_)).version >= version
        counts = await store.verify.outbox()
        [digest] = await store.verify.digest()
        assert counts.written == counts.pending == digest.versions >= sum(acknowledged.values())
        await store.close()
    finally:
        cluster.stop()
    assert cluster.pid() is None
