"""A second copy of what events made of a database, built beside the first while that serves, and the switch.

The tables of the projection exist twice: in the schema `public`, and in `kap_next`, made by the same migrations. Who
connects by `second` works on the second set, and on the first one's other tables, without knowing. The switch moves the
tables, in one transaction that lets readers go on: a statement sees the one set or the other. It is done only while
nobody writes and the second holds all that the first does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

import asyncpg

from shared.fhir.outcome import Conflict
from shared.store.connection import Connection, open_connection, translated
from shared.store.migrate import migrate

NEXT: Final = "kap_next"
OLD: Final = "kap_old"
TABLES: Final = (
    "claim_piece",
    "inbox",
    "inbox_position",
    "parked",
    "known_until",
    "resource",
    "history",
    "consent_rule",
    "patient_link",
    "idx_token",
    "idx_string",
    "idx_reference",
    "idx_date",
    "idx_number",
    "idx_quantity",
    "idx_uri",
)
"""What events make, in the order in which taking one in touches them; everything else there is only once."""

LOCK_MILLISECONDS: Final = 200
"""How long the switch waits for a lock: less than PostgreSQL's deadlock timeout, so it gives way and no reader does."""

_OTHERS = """
SELECT tablename FROM pg_tables WHERE schemaname = $1 AND NOT tablename = ANY ($2) AND tablename <> 'schema_migration'
"""
_COUNTS = "SELECT origin, count(*) AS versions FROM {schema}.history GROUP BY origin"
_STATISTICS = """
SELECT s.stxname FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE n.nspname = $1
"""
_TRIGGERS = """
SELECT t.tgname AS name, c.relname AS on_table, pg_get_triggerdef(t.oid) AS definition
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND NOT t.tgisinternal
"""


def second(dsn: str) -> str:
    """Return the address by which a database's second projection is worked on."""
    return f"{dsn}{'&' if '?' in dsn else '?'}search_path={quote(f'{NEXT},public')}"


async def prepare(dsn: str, service: str) -> None:
    """Make an empty second projection; one that an earlier rebuild left is dropped.

    Raises:
        Conflict: the service has resources of its own, which no event of another would bring back.

    """
    connection = await open_connection(dsn, application="kap-projection", statement_timeout=0)
    try:
        with translated():
            own = await connection.fetchval("SELECT count(*) FROM history WHERE origin = $1", service)
            if own:
                raise Conflict(
                    f"{service} has {own} versions of resources of its own; they would be lost. It cannot be rebuilt."
                )
            await connection.execute(f"DROP SCHEMA IF EXISTS {NEXT} CASCADE; DROP SCHEMA IF EXISTS {OLD} CASCADE")
            await connection.execute(f"CREATE SCHEMA {NEXT}")
        await migrate(second(dsn))
        with translated():
            for row in await connection.fetch(_OTHERS, NEXT, list(TABLES)):
                await connection.execute(f'DROP TABLE {NEXT}."{row["tablename"]}" CASCADE')
            for row in await connection.fetch(_TRIGGERS, NEXT):
                # By the function of the one set of functions that stays.
                await connection.execute(f'DROP TRIGGER "{row["name"]}" ON {NEXT}."{row["on_table"]}"')
                await connection.execute(row["definition"].replace(f"FUNCTION {NEXT}.", "FUNCTION public."))
    finally:
        await connection.close()


async def counts(connection: Connection, schema: str) -> dict[str, int]:
    """Return how many versions a projection holds, by owner."""
    with translated():
        return {row["origin"]: row["versions"] for row in await connection.fetch(_COUNTS.format(schema=schema))}


async def switch(dsn: str) -> Mapping[str, int]:
    """Put the second projection in the place of the first, if it holds as much; return what it lacks, by owner.

    Empty: it is done. Otherwise nothing was changed, and it may be tried again.
    """
    connection = await open_connection(dsn, application="kap-projection", statement_timeout=60)
    try:
        with translated():
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_MILLISECONDS}ms'")
                first = ", ".join(f"public.{table}" for table in TABLES)
                try:
                    await connection.execute(f"LOCK TABLE {first} IN EXCLUSIVE MODE")  # readers go on
                    lacks = await _lacking(connection)
                    if lacks:
                        return lacks
                    both = ", ".join(f"{schema}.{table}" for schema in (NEXT, "public") for table in TABLES)
                    await connection.execute(f"LOCK TABLE {both} IN ACCESS EXCLUSIVE MODE")
                except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                    return {"": 0}  # somebody works there; another moment is better
                await _move(connection)
        return {}
    finally:
        await connection.close()


async def _lacking(connection: Connection) -> dict[str, int]:
    there = await counts(connection, NEXT)
    here = await counts(connection, "public")
    return {origin: count - there.get(origin, 0) for origin, count in here.items() if count > there.get(origin, 0)}


async def _move(connection: Connection) -> None:
    await connection.execute(f"CREATE SCHEMA {OLD}")
    for source, target in (("public", OLD), (NEXT, "public")):
        for row in await connection.fetch(_STATISTICS, source):
            await connection.execute(f'ALTER STATISTICS {source}."{row["stxname"]}" SET SCHEMA {target}')
        for table in TABLES:
            await connection.execute(f"ALTER TABLE {source}.{table} SET SCHEMA {target}")
    # Their events may be still to come to whoever goes on behind them.
    await connection.execute(f"INSERT INTO public.claim_piece SELECT * FROM {OLD}.claim_piece ON CONFLICT DO NOTHING")


async def tidy(dsn: str) -> None:
    """Drop what a switch has left behind."""
    connection = await open_connection(dsn, application="kap-projection", statement_timeout=0)
    try:
        with translated():
            await connection.execute(f"DROP SCHEMA IF EXISTS {NEXT} CASCADE; DROP SCHEMA IF EXISTS {OLD} CASCADE")
    finally:
        await connection.close()
