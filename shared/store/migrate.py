"""Bring a database to this program's schema, one plain SQL file after the other.

Each file of `schema/` runs once, in a transaction of its own, in the order of its number; its SHA-256 is kept. One
migrator at a time: the others wait. A migration that cannot get its locks within `LOCK_TIMEOUT` seconds gives up, and
with it does not queue every reader behind it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

import asyncpg

from shared.fhir.definitions import PARAMETER_IDS, TYPE_IDS
from shared.store.connection import Connection, open_connection, translated
from shared.store.keys import LOCK_CLASS, MIGRATION_LOCK

LOCK_TIMEOUT: Final = 5
"""Seconds a migration waits for a lock on a table."""

WAIT_FOR_OTHERS: Final = 120
"""Seconds to wait while another process migrates."""

_TABLE = (
    "CREATE TABLE IF NOT EXISTS schema_migration (name text PRIMARY KEY, checksum text NOT NULL, "
    "applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
)


class SchemaMismatch(RuntimeError):
    """The database and this program do not fit; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its name without `.sql`, its text, the SHA-256 of it."""

    name: str
    sql: str
    checksum: str


SCHEMA: Final = "schema"
"""The folder of the migrations of a resource store."""


@cache
def migrations(schema: str = SCHEMA) -> tuple[Migration, ...]:
    """Return the migrations of a folder in order."""
    found = []
    for file in sorted(files("shared.store").joinpath(schema).iterdir(), key=lambda file: file.name):
        if file.name.endswith(".sql"):
            text = file.read_text(encoding="utf-8")
            found.append(Migration(file.name[:-4], text, hashlib.sha256(text.encode()).hexdigest()))
    return tuple(found)


async def migrate(dsn: str, schema: str = SCHEMA) -> list[str]:
    """Run the migrations of a folder that are missing; return their names.

    Raises:
        SchemaMismatch: an applied migration was changed since, or is unknown to this program.
        Unavailable: PostgreSQL cannot be reached, or the locks were not to be had in time.

    """
    connection = await open_connection(dsn, application="kap-migrate", statement_timeout=0)
    try:
        with translated():
            await connection.execute(f"SET lock_timeout = '{WAIT_FOR_OTHERS}s'")
            await connection.execute("SELECT pg_advisory_lock($1, $2)", LOCK_CLASS, MIGRATION_LOCK)
            await connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}s'")
            await connection.execute(_TABLE)
            missing = _missing(await _applied(connection), schema)
            for migration in missing:
                async with connection.transaction():
                    await connection.execute(migration.sql)
                    await connection.execute(
                        "INSERT INTO schema_migration (name, checksum) VALUES ($1, $2)",
                        migration.name,
                        migration.checksum,
                    )
            if schema == SCHEMA:
                await _number_names(connection)
        return [migration.name for migration in missing]
    finally:
        await connection.close()


async def check(connection: Connection) -> None:
    """Refuse to work on a database that is not at this program's migrations.

    Raises:
        SchemaMismatch: it is not; the message names the first difference.

    """
    try:
        with translated():
            applied = await _applied(connection)
    except asyncpg.UndefinedTableError:
        applied = {}
    missing = _missing(applied)
    if missing:
        raise SchemaMismatch(
            f"The database lacks the migration {missing[0].name}. Start the role 'migrate' first, then this one."
        )


async def _applied(connection: Connection) -> dict[str, str]:
    rows = await connection.fetch("SELECT name, checksum FROM schema_migration")
    return {row["name"]: row["checksum"] for row in rows}


def _missing(applied: dict[str, str], schema: str = SCHEMA) -> list[Migration]:
    known = {migration.name: migration for migration in migrations(schema)}
    for name, checksum in sorted(applied.items()):
        if name not in known:
            raise SchemaMismatch(
                f"The database has the migration {name}, which this program does not know: it belongs to a newer one."
            )
        if known[name].checksum != checksum:
            raise SchemaMismatch(
                f"The migration {name} was changed after it was applied. Write a new migration instead."
            )
    return [migration for migration in migrations(schema) if migration.name not in applied]


async def _number_names(connection: Connection) -> None:
    """Fill the tables that say what type and parameter numbers mean; a number never changes its meaning."""
    for table, column, numbers in (
        ("resource_type", "name", TYPE_IDS),
        ("search_parameter", "code", PARAMETER_IDS),
    ):
        held = {row["id"]: row["name"] for row in await connection.fetch(f"SELECT id, {column} AS name FROM {table}")}
        moved = sorted(name for name, number in numbers.items() if held.get(number, name) != name)
        if moved:
            raise SchemaMismatch(f"The number of {moved[0]} means {held[numbers[moved[0]]]} in this database.")
        new = [(number, name) for name, number in numbers.items() if number not in held]
        await connection.executemany(f"INSERT INTO {table} (id, {column}) VALUES ($1, $2)", new)
