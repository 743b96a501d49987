"""Copies of other services' resources: each version exactly as its owner committed it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from shared.events.envelope import Event
from shared.fhir.definitions import type_id
from shared.fhir.index import IndexRows
from shared.store.connection import Connection, translated
from shared.store.keys import key_lock
from shared.store.rows import NO_ROWS, arrays_of

_FIXED = 15
_COPY = f"SELECT kap_copy({', '.join(f'${n + 1}' for n in range(_FIXED + len(NO_ROWS)))})"
# LIMIT keeps PostgreSQL to one look for each, whatever it knows of the tables: a new database has no statistics, and
# would walk through all that it holds.
_HELD = """
SELECT r.origin, g.event_id
FROM unnest($2::smallint[], $3::text[], $4::integer[], $5::text[], $6::text[]) AS g(type, id, version, origin, event_id)
CROSS JOIN LATERAL (
    SELECT r.origin, r.rid FROM resource r WHERE r.tenant = $1 AND r.type = g.type AND r.id = g.id LIMIT 1) r
CROSS JOIN LATERAL (SELECT FROM history h WHERE h.rid = r.rid AND h.version = g.version LIMIT 1) h
WHERE r.origin = g.origin
"""
_KNOWN = """
SELECT g.name, g.id FROM unnest($2::smallint[], $3::text[], $4::text[]) AS g(type, name, id)
CROSS JOIN LATERAL (SELECT FROM resource r WHERE r.tenant = $1 AND r.type = g.type AND r.id = g.id LIMIT 1) r
"""


@dataclass(frozen=True, slots=True)
class Copy:
    """A version to keep: the event that brings it, its index rows, and `subject_uuid` of its patient or None."""

    event: Event
    index: IndexRows
    patient: UUID | None


async def apply_copy(connection: Connection, tenant: int, copy: Copy) -> bool:
    """Keep one version; False where it is held already."""
    with translated():
        return bool(await connection.fetchval(_COPY, *_arguments(tenant, copy)))


async def apply_copies(connection: Connection, tenant: int, copies: Iterable[Copy]) -> None:
    """Keep versions, one after the other, without waiting for PostgreSQL in between."""
    with translated():
        await connection.executemany(_COPY, [_arguments(tenant, copy) for copy in copies])


async def held(connection: Connection, tenant: int, events: Sequence[Event]) -> set[tuple[str, str]]:
    """Return (source, id) of those events whose version is held as a copy of their source's already."""
    with translated():
        rows = await connection.fetch(
            _HELD,
            tenant,
            [type_id(event.type) for event in events],
            [event.resource_id for event in events],
            [event.version for event in events],
            [event.source for event in events],
            [event.id for event in events],
        )
    return {(row["origin"], row["event_id"]) for row in rows}


async def known(connection: Connection, tenant: int, events: Sequence[Event]) -> set[tuple[str, str]]:
    """Return (type, id) of those events' resources that are held in any version, deleted or not."""
    with translated():
        rows = await connection.fetch(
            _KNOWN,
            tenant,
            [type_id(event.type) for event in events],
            [event.type for event in events],
            [event.resource_id for event in events],
        )
    return {(row["name"], row["id"]) for row in rows}


def _arguments(tenant: int, copy: Copy) -> tuple[Any, ...]:
    event = copy.event
    return (
        event.source,
        tenant,
        key_lock(event.tenant, event.key),
        type_id(event.type),
        event.resource_id,
        event.interaction,
        event.version,
        event.time,
        event.sequence,
        event.key,
        copy.patient,
        list(event.labels),
        event.request_id,
        event.traceparent,
        event.body,
        *(NO_ROWS if event.interaction == "delete" else arrays_of(copy.index)),
    )
