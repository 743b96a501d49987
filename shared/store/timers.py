"""Timers in the database: which process runs one now, and when each ran last.

A timer is run under a lock of a database session, so by one process at a time, and is free again the moment that
session ends. The locks' connection must be a direct one: a transaction-mode pooler breaks session locks.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime

from shared.fhir.outcome import Unavailable
from shared.store.clinics import Clinics
from shared.store.connection import Connection, open_connection, translated
from shared.store.keys import timer_lock

_NOTE = """
INSERT INTO timer (name, started_at, seconds, succeeded_at, failures, error)
VALUES ($1, $2::timestamptz, $3, CASE WHEN $4::text IS NULL THEN $2::timestamptz END,
        CASE WHEN $4::text IS NULL THEN 0 ELSE 1 END, $4)
ON CONFLICT (name) DO UPDATE SET
    started_at = excluded.started_at, seconds = excluded.seconds, error = excluded.error,
    succeeded_at = coalesce(excluded.succeeded_at, timer.succeeded_at),
    failures = CASE WHEN excluded.error IS NULL THEN 0 ELSE timer.failures + 1 END
"""


@dataclass(frozen=True, slots=True)
class LastRun:
    """A timer's last run: when it began, how long it took, and how many in a row have failed, the last with `error`."""

    started_at: datetime
    seconds: float
    succeeded_at: datetime | None
    failures: int
    error: str | None


class TimerRuns:
    """When the timers ran."""

    def __init__(self, clinics: Clinics) -> None:
        self._clinics = clinics

    async def last(self, name: str) -> LastRun | None:
        """Return a timer's last run, None where it never ran."""
        with translated():
            row = await self._clinics.fetchrow(
                "SELECT started_at, seconds, succeeded_at, failures, error FROM timer WHERE name = $1", name
            )
        return None if row is None else LastRun(*row)

    async def note(self, name: str, started_at: datetime, seconds: float, error: str | None) -> None:
        """Note a run; `error` None: it went well."""
        with translated():
            await self._clinics.execute(_NOTE, name, started_at, seconds, error)


class TimerLocks:
    """The locks of one process's timers, on one connection that is opened when it is needed."""

    def __init__(self, dsn: str, service: str) -> None:
        self._dsn = dsn
        self._service = service
        self._connection: Connection | None = None
        self._one_at_a_time = asyncio.Lock()

    async def hold(self, name: str) -> bool:
        """Try to hold a timer; False where another process does.

        Raises:
            Unavailable: the database does not answer.

        """
        async with self._one_at_a_time:
            connection = self._connection
            if connection is None or connection.is_closed():
                connection = await open_connection(self._dsn, application=f"kap-{self._service}-timers")
                self._connection = connection
            with translated():
                return await connection.fetchval("SELECT pg_try_advisory_lock($1)", timer_lock(name)) is True

    async def release(self, name: str) -> None:
        """Let go of a timer; where the database does not hear it, its session's end lets go."""
        async with self._one_at_a_time:
            connection = self._connection
            if connection is None or connection.is_closed():
                return
            try:
                with translated():
                    await connection.execute("SELECT pg_advisory_unlock($1)", timer_lock(name))
            except Unavailable:
                connection.terminate()

    async def close(self) -> None:
        """Let go of all."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
