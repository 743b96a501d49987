"""What a service has applied of other services' events: each once, and up to which position of each key.

An event is named by what it changed (ADR 4), so events of two clinics may have one name: each is its clinic's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any

from shared.events.envelope import Event
from shared.store.clinics import Clinics
from shared.store.connection import Connection, translated

_TAKE_IN = """
WITH fresh AS (
    INSERT INTO inbox (consumer, source, event_id, time, tenant) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT DO NOTHING RETURNING 1
), position AS (
    INSERT INTO inbox_position (consumer, source, tenant, key, sequence)
    SELECT $1, $2, $5, $6, $7 FROM fresh
    ON CONFLICT (consumer, source, tenant, key)
        DO UPDATE SET sequence = greatest(inbox_position.sequence, excluded.sequence)
)
SELECT EXISTS (SELECT FROM fresh)
"""
_TAKE_IN_MANY = """
WITH given AS (
    SELECT * FROM unnest($3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::bigint[])
        AS g(source, event_id, time, key, sequence)
), fresh AS (
    INSERT INTO inbox (consumer, source, event_id, time, tenant) SELECT $1, source, event_id, time, $2 FROM given
    ON CONFLICT DO NOTHING RETURNING source, event_id
), position AS (
    INSERT INTO inbox_position (consumer, source, tenant, key, sequence)
    SELECT $1, source, $2, key, max(sequence) FROM given JOIN fresh USING (source, event_id) GROUP BY source, key
    ON CONFLICT (consumer, source, tenant, key)
        DO UPDATE SET sequence = greatest(inbox_position.sequence, excluded.sequence)
)
SELECT source, event_id FROM fresh
"""
_NOTE_PASSING = """
WITH behind AS (
    SELECT count(*) AS parked FROM parked WHERE consumer = $1 AND tenant = $2 AND key = ANY ($6)
), given AS (
    SELECT g.* FROM unnest($3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::bigint[])
        AS g(source, event_id, time, key, sequence), behind
    WHERE behind.parked = 0 ORDER BY g.source, g.event_id
), fresh AS (
    INSERT INTO inbox (consumer, source, event_id, time, tenant) SELECT $1, source, event_id, time, $2 FROM given
    ON CONFLICT DO NOTHING RETURNING source, event_id
), position AS (
    INSERT INTO inbox_position (consumer, source, tenant, key, sequence)
    SELECT $1, source, $2, key, max(sequence) FROM given JOIN fresh USING (source, event_id)
    GROUP BY source, key ORDER BY source, key
    ON CONFLICT (consumer, source, tenant, key)
        DO UPDATE SET sequence = greatest(inbox_position.sequence, excluded.sequence)
)
SELECT parked, (SELECT array_agg(ARRAY[source, event_id]) FROM fresh) AS fresh FROM behind
"""
_APPLIED = """
SELECT g.source, g.event_id FROM unnest($3::text[], $4::text[]) AS g(source, event_id)
JOIN inbox i ON i.consumer = $1 AND i.tenant = $2 AND i.source = g.source AND i.event_id = g.event_id
"""
_POSITION = "SELECT sequence FROM inbox_position WHERE consumer = $1 AND source = $2 AND tenant = $3 AND key = $4"
_POSITIONS = (
    "SELECT source, sequence FROM inbox_position WHERE consumer = $1 AND source = ANY ($2) AND tenant = $3 AND key = $4"
)
_POLL_SECONDS = 0.05
"""Between two looks for what another process takes in; what this one does is told at once."""


async def take_in(connection: Connection, consumer: str, event: Event) -> bool:
    """Note an event as applied; False where it was before."""
    with translated():
        fresh = await connection.fetchval(
            _TAKE_IN, consumer, event.source, event.id, event.time, event.tenant, event.key, event.sequence
        )
    return bool(fresh)


async def take_in_many(connection: Connection, consumer: str, tenant: str, events: Sequence[Event]) -> list[bool]:
    """Note events of one tenant as applied; False for one that was before, be it by an earlier one of `events`."""
    with translated():
        rows = await connection.fetch(_TAKE_IN_MANY, consumer, tenant, *_columns(events))
    return _in_turn(events, {(row["source"], row["event_id"]) for row in rows})


async def pass_by(connection: Connection, consumer: str, tenant: str, events: Sequence[Event]) -> list[bool] | None:
    """As `take_in_many`, of events that change nothing here, in a statement that commits by itself.

    None where an event along one of their keys is parked, so that they have to wait behind it: then nothing was noted.
    """
    with translated():
        row = await connection.fetchrow(_NOTE_PASSING, consumer, tenant, *_columns(events))
    return None if row["parked"] else _in_turn(events, {(source, id_) for source, id_ in row["fresh"] or ()})


def _columns(events: Sequence[Event]) -> tuple[list[Any], ...]:
    return (
        [event.source for event in events],
        [event.id for event in events],
        [event.time for event in events],
        [event.key for event in events],
        [event.sequence for event in events],
    )


def _in_turn(events: Sequence[Event], fresh: set[tuple[str, str]]) -> list[bool]:
    """Return of each event whether it is fresh; one that comes twice is so once."""
    answer = []
    for event in events:
        answer.append((event.source, event.id) in fresh)
        fresh.discard((event.source, event.id))
    return answer


async def applied(connection: Connection, consumer: str, tenant: str, events: Sequence[Event]) -> set[tuple[str, str]]:
    """Return (source, id) of those events of one tenant that were applied before."""
    with translated():
        rows = await connection.fetch(
            _APPLIED, consumer, tenant, [event.source for event in events], [event.id for event in events]
        )
    return {(row["source"], row["event_id"]) for row in rows}


class Inbox:
    """Positions of the inbox, outside of a transaction."""

    def __init__(self, clinics: Clinics) -> None:
        self._clinics = clinics
        self._waiting: dict[tuple[str, str, str], set[asyncio.Event]] = {}

    def moved(self, events: Iterable[Event]) -> None:
        """Tell who waits in this process that these were committed as taken in."""
        for event in events:
            for waiting in self._waiting.get((event.source, event.tenant, event.key), ()):
                waiting.set()

    async def position(self, consumer: str, source: str, tenant: str, key: str) -> int:
        """Return the highest outbox sequence of `source` that `consumer` applied along `key`; 0 where none."""
        async with self._clinics.reading(tenant) as (connection, _):
            with translated():
                reached = await connection.fetchval(_POSITION, consumer, source, tenant, key)
        return int(reached or 0)

    async def positions(self, consumer: str, sources: Collection[str], tenant: str, key: str) -> dict[str, int]:
        """Return, by source, the highest outbox sequence that `consumer` applied along `key`."""
        async with self._clinics.reading(tenant) as (connection, _):
            with translated():
                rows = await connection.fetch(_POSITIONS, consumer, list(sources), tenant, key)
        return {row["source"]: row["sequence"] for row in rows}

    async def await_position(
        self, consumer: str, source: str, tenant: str, key: str, sequence: int, timeout: float
    ) -> bool:
        """Wait until `consumer` has applied `source`'s event `sequence` of `key`; False after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        moved = asyncio.Event()
        place = (source, tenant, key)
        self._waiting.setdefault(place, set()).add(moved)
        try:
            while await self.position(consumer, source, tenant, key) < sequence:
                if time.monotonic() >= deadline:
                    return False
                with suppress(TimeoutError):
                    await asyncio.wait_for(moved.wait(), _POLL_SECONDS)
                moved.clear()
        finally:
            self._waiting[place].discard(moved)
            if not self._waiting[place]:
                del self._waiting[place]
        return True
