"""PostgreSQL for tests: one cluster for the session, migrated once, and a fresh database for each test.

    from shared.testing.databases import *   # in conftest.py: the fixtures `postgres`, `database`, `store`

A fresh database is a copy of a migrated template, so it costs a few hundredths of a second.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from shared.local.postgres import PostgresCluster
from shared.store.migrate import migrate, migrations
from shared.store.store import Store

__all__ = ["MigratedCluster", "database", "make_database", "postgres", "store"]

SERVICE = "intake"
"""The service that the fixture `store` belongs to."""


class MigratedCluster:
    """A cluster with a migrated template."""

    def __init__(self, cluster: PostgresCluster) -> None:
        self.cluster = cluster
        self._numbers = itertools.count(1)
        digest = hashlib.sha256("".join(migration.checksum for migration in migrations()).encode()).hexdigest()
        self._template = f"template_{digest[:12]}"
        asyncio.run(migrate(cluster.create_database(self._template)))

    def make_database(self, name: str = "test") -> str:
        """Create a fresh, migrated database, and return its address."""
        return self.cluster.create_database(f"{name}_{os.getpid()}_{next(self._numbers)}", template=self._template)


@pytest.fixture(scope="session")
def postgres() -> Iterator[MigratedCluster]:
    """A PostgreSQL server of this test session."""
    with tempfile.TemporaryDirectory(prefix="kap-test-", ignore_cleanup_errors=True) as folder:
        cluster = PostgresCluster(Path(folder) / "postgres", durable=False)
        cluster.start()
        try:
            yield MigratedCluster(cluster)
        finally:
            cluster.stop(immediate=True)


@pytest.fixture
def make_database(postgres: MigratedCluster) -> Callable[[str], str]:
    """Make further databases: ``make_database("gateway")`` returns the address of a fresh one."""
    return postgres.make_database


@pytest.fixture
def database(postgres: MigratedCluster) -> str:
    """The address of a fresh, migrated database."""
    return postgres.make_database()


@pytest_asyncio.fixture
async def store(database: str) -> AsyncIterator[Store]:
    """An empty store of the service intake."""
    opened = await Store.connect(database, service=SERVICE)
    try:
        yield opened
    finally:
        await opened.close()
