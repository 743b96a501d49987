"""PostgreSQL for tests: one cluster for the session, migrated once, and a fresh database for each test.

    from shared.testing.databases import *   # in conftest.py: the fixtures `postgres`, `database`, `store`

A fresh database is a copy of a migrated template, so it costs a few hundredths of a second. It is dropped when its test
ends, and the cluster lies in memory where there is room: a thousand databases on a disk take minutes to remove.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import shutil
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


_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it, mode 0700
_ROOM = 2 * 2**30
"""Bytes that must be free in memory: a test's databases take some ten megabytes each."""


class MigratedCluster:
    """A cluster with a migrated template."""

    def __init__(self, cluster: PostgresCluster) -> None:
        self.cluster = cluster
        self._numbers = itertools.count(1)
        self._made: list[str] = []
        digest = hashlib.sha256("".join(migration.checksum for migration in migrations()).encode()).hexdigest()
        self._template = f"template_{digest[:12]}"
        asyncio.run(migrate(cluster.create_database(self._template)))

    def make_database(self, name: str = "test") -> str:
        """Create a fresh, migrated database, and return its address."""
        fresh = f"{name}_{os.getpid()}_{next(self._numbers)}"
        self._made.append(fresh)
        return self.cluster.create_database(fresh, template=self._template)

    def drop_databases(self) -> None:
        """Drop what `make_database` made, whoever is still connected."""
        while self._made:
            self.cluster.execute(f"DROP DATABASE IF EXISTS {self._made.pop()} WITH (FORCE)")


def _folder() -> Path | None:
    """Return where the cluster lies: in memory, where that is writable and has room; None: where temporary files do."""
    if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free >= _ROOM:
        return _MEMORY
    return None


@pytest.fixture(scope="session")
def postgres() -> Iterator[MigratedCluster]:
    """A PostgreSQL server of this test session."""
    with tempfile.TemporaryDirectory(prefix="kap-test-", dir=_folder(), ignore_cleanup_errors=True) as folder:
        cluster = PostgresCluster(Path(folder) / "postgres", durable=False)
        cluster.start()
        try:
            yield MigratedCluster(cluster)
        finally:
            cluster.stop(immediate=True)


@pytest.fixture
def make_database(postgres: MigratedCluster) -> Iterator[Callable[[str], str]]:
    """Make further databases: ``make_database("gateway")`` returns the address of a fresh one."""
    yield postgres.make_database
    postgres.drop_databases()


@pytest.fixture
def database(make_database: Callable[[str], str]) -> str:
    """The address of a fresh, migrated database."""
    return make_database("test")


@pytest_asyncio.fixture
async def store(database: str) -> AsyncIterator[Store]:
    """An empty store of the service intake."""
    opened = await Store.connect(database, service=SERVICE)
    try:
        yield opened
    finally:
        await opened.close()
