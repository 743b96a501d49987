"""Whose rows a connection is shown: one clinic's, or those of every clinic, for the services' own work.

PostgreSQL's row-level security is the second wall between clinics (``0240_clinics.sql``): every statement names its
tenant, and a connection is shown no other's rows where one forgets to. A connection that has not said whom it works for
is shown none at all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from shared.store.connection import Connection, Pool, translated

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

NO_TENANT: Final = -1
"""The number of a clinic that never wrote."""


class Clinics:
    """The connections of one service.

    As a pool it is every clinic's: what asks it so is the service's own work (parked events, replays, pruning, timers)
    and names the tenant itself where it is about one.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._numbers: dict[str, int] = {}

    @asynccontextmanager
    async def reading(self, tenant: str) -> AsyncIterator[tuple[Connection, int]]:
        """Give a connection that is shown the rows of one clinic, and its number; `NO_TENANT` where it never wrote."""
        async with self.bare() as connection:
            known = self._numbers.get(tenant)
            if known is None:
                with translated():
                    known = await connection.fetchval("SELECT id FROM tenant WHERE name = $1", tenant)
                if known is not None:
                    self._numbers[tenant] = known
            number = NO_TENANT if known is None else known
            with translated():
                await connection.work_for(tenant, number)
                await connection.plan("force_generic_plan")  # a search may choose otherwise, for itself
            yield connection, number

    @asynccontextmanager
    async def writing(self, tenant: str) -> AsyncIterator[tuple[Connection, int]]:
        """Give a connection that is shown the rows of one clinic, and its number, which its first write gives it."""
        async with self.bare() as connection:
            known = self._numbers.get(tenant)
            with translated():
                if known is None:
                    await connection.execute("INSERT INTO tenant (name) VALUES ($1) ON CONFLICT DO NOTHING", tenant)
                    known = int(await connection.fetchval("SELECT id FROM tenant WHERE name = $1", tenant))
                    self._numbers[tenant] = known
                await connection.work_for(tenant, known)
                await connection.plan("force_generic_plan")  # as above
            yield connection, known

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """Give a connection that is shown every clinic's rows."""
        async with self.bare() as connection:
            with translated():
                await connection.work_for_all()
            yield connection

    async def fetch(self, *args: Any, **options: Any) -> list[Any]:
        """As asyncpg's, over every clinic's rows."""
        async with self.acquire() as connection:
            return await connection.fetch(*args, **options)

    async def fetchrow(self, *args: Any, **options: Any) -> Any:
        """As asyncpg's, over every clinic's rows."""
        async with self.acquire() as connection:
            return await connection.fetchrow(*args, **options)

    async def fetchval(self, *args: Any, **options: Any) -> Any:
        """As asyncpg's, over every clinic's rows."""
        async with self.acquire() as connection:
            return await connection.fetchval(*args, **options)

    async def execute(self, *args: Any, **options: Any) -> str:
        """As asyncpg's, over every clinic's rows."""
        async with self.acquire() as connection:
            return await connection.execute(*args, **options)

    @asynccontextmanager
    async def bare(self) -> AsyncIterator[Connection]:
        """Give a connection that may be shown whatever its last user was: for statements about no clinic's rows."""
        with translated():
            proxy = await self._pool.acquire()
        try:
            yield _own(proxy)
        finally:
            with translated():
                await self._pool.release(proxy)

    async def close(self) -> None:
        """Close the connections, waiting for what is under way."""
        await self._pool.close()


def _own(proxy: PoolConnectionProxy) -> Connection:
    """Return the connection behind the pool's proxy, which knows how statements are planned and whom it works for."""
    connection = getattr(proxy, "_con")  # noqa: B009 - the proxy forwards calls, but not a subclass's attributes
    assert isinstance(connection, Connection)  # noqa: S101 - the pool was told to make these
    return connection
