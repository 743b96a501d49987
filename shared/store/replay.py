"""History as events: what a service committed, again, in the order it was committed in along every key.

Replay reads PostgreSQL, never Kafka: topics keep days, history keeps everything. What an operator asks for is noted
here, and worked off in batches, each in a transaction that holds the request: a crash tells a batch twice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from asyncpg import Record

from shared.events.envelope import EVERYBODY, Event
from shared.events.shards import shard_of
from shared.fhir.outcome import NotFound
from shared.store.clinics import Clinics
from shared.store.connection import translated

_BATCH: Final = 500
_BATCH_BYTES: Final = 16 * 1024 * 1024
_SINCE = """
SELECT * FROM (
SELECT h.sequence, h.version, h.last_updated, h.interaction, h.key, h.labels, h.request_id, h.traceparent, h.body,
       r.id, t.name AS tenant, k.name AS type,
       sum(octet_length(h.body)) OVER (ORDER BY h.sequence) - octet_length(h.body) AS bytes_before
FROM history h
JOIN resource r ON r.rid = h.rid
JOIN tenant t ON t.id = r.tenant
JOIN resource_type k ON k.id = r.type
WHERE h.origin = $1 AND h.sequence IS NOT NULL AND h.sequence > $2
  AND ($3::timestamptz IS NULL OR h.last_updated >= $3)
  AND ($4::text IS NULL OR h.key = $4)
  AND ($5::text IS NULL OR t.name = $5)
ORDER BY h.sequence LIMIT $6
) AS next WHERE bytes_before < $7 ORDER BY sequence
"""
_ASK = """
INSERT INTO replay (consumer, tenant, key, since, done, until)
SELECT $2, $3, $4, $5, $6, coalesce((SELECT max(sequence) FROM history WHERE origin = $1 AND sequence IS NOT NULL), 0)
RETURNING number
"""
_STATE = "SELECT number, told, ended_at IS NOT NULL AS ended FROM replay WHERE number = $1"
_NEXT = "SELECT * FROM replay WHERE ended_at IS NULL ORDER BY number LIMIT 1 FOR UPDATE SKIP LOCKED"
_TOLD = """
UPDATE replay SET done = $2, told = told + $3, ended_at = CASE WHEN $4 THEN clock_timestamp() END WHERE number = $1
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """A replay that was asked for: how many of its events were told so far, and whether that is all of them."""

    number: int
    told: int
    ended: bool


class Replay:
    """The service's own history."""

    def __init__(self, clinics: Clinics, service: str) -> None:
        self._clinics = clinics
        self._service = service

    async def events_since(
        self,
        *,
        sequence: int = 0,
        time: datetime | None = None,
        key: str | None = None,
        tenant: str | None = None,
    ) -> AsyncIterator[Event]:
        """Yield the service's events after an outbox sequence, or from a time on; of one key, or of all.

        An event that is repeated is equal to the first one, its id and sequence included. What is committed while this
        runs may come or not; the relay sends it.
        """
        while True:
            with translated():
                rows = await self._clinics.fetch(
                    _SINCE, self._service, sequence, time, key, tenant, _BATCH, _BATCH_BYTES
                )
            for row in rows:
                yield self._event(row)
            if not rows:
                return
            sequence = rows[-1]["sequence"]

    async def ask(
        self,
        *,
        consumer: str | None = None,
        sequence: int = 0,
        time: datetime | None = None,
        key: str | None = None,
        tenant: str | None = None,
    ) -> int:
        """Note that events after an outbox sequence, or from a time on, are to be told again; return its number.

        Of one key, or of all; to one consumer, or to all. What is committed later is not part of it.
        """
        with translated():
            number: int = await self._clinics.fetchval(_ASK, self._service, consumer, tenant, key, time, sequence)
        return number

    async def state(self, number: int) -> Asked:
        """Return how far a replay is.

        Raises:
            NotFound: there is none of this number.

        """
        with translated():
            row = await self._clinics.fetchrow(_STATE, number)
        if row is None:
            raise NotFound(f"{self._service} was asked for no replay {number}.")
        return Asked(row["number"], row["told"], row["ended"])

    @asynccontextmanager
    async def batch(self) -> AsyncIterator[Sequence[Event] | None]:
        """Give the next events to tell again, each marked as a replay; None where none was asked for.

        They are done when the block ends well. Others that ask meanwhile get another request's, or None.
        """
        with translated():
            async with self._clinics.acquire() as connection, connection.transaction():
                asked = await connection.fetchrow(_NEXT)
                if asked is None:
                    yield None
                    return
                rows = await connection.fetch(
                    _SINCE,
                    self._service,
                    asked["done"],
                    asked["since"],
                    asked["key"],
                    asked["tenant"],
                    _BATCH,
                    _BATCH_BYTES,
                )
                whole = len(rows) < _BATCH and sum(len(row["body"]) for row in rows) < _BATCH_BYTES
                rows, read = [row for row in rows if row["sequence"] <= asked["until"]], len(rows)
                yield [self._event(row, replay=asked["consumer"] or EVERYBODY) for row in rows]
                done = rows[-1]["sequence"] if rows else asked["until"]
                await connection.execute(_TOLD, asked["number"], done, len(rows), whole or len(rows) < read)

    def _event(self, row: Record, *, replay: str | None = None) -> Event:
        return Event(
            id=f"{row['type']}/{row['id']}/{row['version']}",
            source=self._service,
            interaction=row["interaction"],
            type=row["type"],
            resource_id=row["id"],
            version=row["version"],
            time=row["last_updated"],
            tenant=row["tenant"],
            key=row["key"],
            shard=shard_of(row["tenant"], row["key"]),
            sequence=row["sequence"],
            body=row["body"],
            labels=tuple(row["labels"]),
            request_id=row["request_id"],
            traceparent=row["traceparent"],
            replay=replay,
        )
