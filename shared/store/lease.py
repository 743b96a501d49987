"""A right that one process at a time has, held by a session lock of PostgreSQL; lost with its connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from shared.store.connection import open_connection, translated

if TYPE_CHECKING:
    import asyncpg


class Lease:
    """The right, as long as it is held."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection

    @property
    def held(self) -> bool:
        """Whether the connection still stands."""
        return not self._connection.is_closed()


@asynccontextmanager
async def lease(dsn: str, what: str, *, once: str | None = None) -> AsyncIterator[Lease | None]:
    """Hold the right to do `what` (``delivery <destination>``) while the block runs; None where another process does.

    `once` is what it was called before: a process of the version before, that still runs while the new one starts, has
    the right by that name, alone. Others that were called so then have it beside one another.

    Raises:
        Unavailable: the database cannot be reached.

    """
    connection = await open_connection(dsn, application=f"kap-{what.partition(' ')[0]}-lease")
    try:
        with translated():
            got = await connection.fetchval("SELECT pg_try_advisory_lock(hashtextextended('kap-' || $1, 0))", what)
            if got and once is not None:
                got = await connection.fetchval(
                    "SELECT pg_try_advisory_lock_shared(hashtextextended('kap-' || $1, 0))", once
                )
        yield Lease(connection) if got else None
    finally:
        connection.terminate()
