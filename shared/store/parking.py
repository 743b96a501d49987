"""Events that could not be applied: set aside, and those of the same key behind them.

Nothing is dropped but by a person's word. `retry` marks the events of a key as due; the worker takes up what is due, in
the order it was parked in, each in a transaction of its own (`Transaction.take_up`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from asyncpg import Record

from shared.events.codec import read_claim
from shared.events.envelope import Event
from shared.fhir.outcome import NotFound
from shared.store.clinics import Clinics
from shared.store.connection import Connection, translated
from shared.store.types import Parked

_PARK = """
INSERT INTO parked (consumer, source, event_id, tenant, key, interaction, type, resource_id, version, time, shard,
                    sequence, body, labels, request_id, traceparent, topic, partition, "offset", error,
                    header_names, header_values, claimed, due)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23,
       coalesce((SELECT bool_and(p.due) FROM parked p WHERE p.consumer = $1 AND p.tenant = $4 AND p.key = $5), false)
ON CONFLICT (consumer, source, tenant, event_id)
    DO UPDATE SET attempts = parked.attempts + 1, claimed = parked.claimed AND excluded.claimed,
                  body = CASE WHEN parked.claimed THEN excluded.body ELSE parked.body END
"""
_BEHIND = "SELECT EXISTS (SELECT FROM parked WHERE consumer = $1 AND tenant = $2 AND key = $3)"
_BEHIND_MANY = "SELECT DISTINCT key FROM parked WHERE consumer = $1 AND tenant = $2 AND key = ANY ($3)"
_LIST = """
SELECT number, consumer, source, event_id, tenant, key, topic, partition, "offset", error, attempts, parked_at
FROM parked WHERE $1::text IS NULL OR consumer = $1 ORDER BY number LIMIT $2
"""
_SAME_KEY = (
    "FROM parked one WHERE one.number = $1 AND one.consumer = parked.consumer AND one.tenant = parked.tenant "
    "AND one.key = parked.key"
)
_RETRY = f"UPDATE parked SET due = true WHERE EXISTS (SELECT {_SAME_KEY})"
_FAILED = f"UPDATE parked SET due = false WHERE EXISTS (SELECT {_SAME_KEY})"
_DUE = """
SELECT * FROM parked p WHERE consumer = $1 AND due AND NOT EXISTS (
    SELECT FROM parked b WHERE b.consumer = p.consumer AND b.tenant = p.tenant AND b.key = p.key
    AND b.number < p.number AND NOT b.due)
ORDER BY number LIMIT $2
"""
_COUNTS = "SELECT topic, partition, count(*) FROM parked WHERE consumer = $1 GROUP BY topic, partition"


@dataclass(frozen=True, slots=True)
class DueEvent:
    """A parked event that is to be applied now."""

    parked: Parked
    event: Event


async def park(
    connection: Connection, consumer: str, event: Event, *, topic: str, partition: int, offset: int, error: str
) -> None:
    """Set an event aside. One whose key is being retried is due with it.

    A repeat counts as a further attempt, and keeps its reason and its turn; it brings the body where only the claim on
    it was there.
    """
    with translated():
        await connection.execute(
            _PARK,
            consumer,
            event.source,
            event.id,
            event.tenant,
            event.key,
            event.interaction,
            event.type,
            event.resource_id,
            event.version,
            event.time,
            event.shard,
            event.sequence,
            event.body,
            list(event.labels),
            event.request_id,
            event.traceparent,
            topic,
            partition,
            offset,
            error,
            [name for name, _ in event.unread],
            [text for _, text in event.unread],
            event.claim is not None,
        )


async def waits_behind(connection: Connection, consumer: str, event: Event) -> bool:
    """Tell whether an event of the same tenant and key is parked, whichever service it came from."""
    with translated():
        return bool(await connection.fetchval(_BEHIND, consumer, event.tenant, event.key))


async def keys_with_parked(connection: Connection, consumer: str, tenant: str, keys: Collection[str]) -> set[str]:
    """Return those of the keys of which an event is parked, whichever service it came from."""
    with translated():
        rows = await connection.fetch(_BEHIND_MANY, consumer, tenant, list(keys))
    return {row["key"] for row in rows}


async def take_up(connection: Connection, number: int) -> bool:
    """Remove a parked event, to apply it in the same transaction; False where it is gone."""
    with translated():
        return await connection.fetchval("DELETE FROM parked WHERE number = $1 RETURNING true", number) is True


class Parking:
    """The parked events, for people and for the worker that takes them up."""

    def __init__(self, clinics: Clinics) -> None:
        self._clinics = clinics

    async def list(self, consumer: str | None = None, *, limit: int = 1000) -> Sequence[Parked]:
        """Return parked events in the order they were parked in; of one consumer, or of all."""
        with translated():
            return [_parked(row) for row in await self._clinics.fetch(_LIST, consumer, limit)]

    async def retry(self, number: int) -> int:
        """Mark the event and all others of its key as due; return how many.

        Raises:
            NotFound: it is not parked.

        """
        with translated():
            done = await self._clinics.execute(_RETRY, number)
        return _some(done, number)

    async def due(self, consumer: str, *, limit: int = 100) -> Sequence[DueEvent]:
        """Return the events that are to be taken up, in order."""
        with translated():
            rows = await self._clinics.fetch(_DUE, consumer, limit)
        return [DueEvent(_parked(row), _event(row)) for row in rows]

    async def failed(self, number: int, error: str) -> None:
        """Note that a due event could not be applied again: it and those behind it wait for a person once more."""
        async with self._clinics.acquire() as connection:
            with translated():
                async with connection.transaction():
                    await connection.execute(_FAILED, number)
                    await connection.execute(
                        "UPDATE parked SET attempts = attempts + 1, error = $2 WHERE number = $1", number, error
                    )

    async def drop(self, number: int) -> Parked:
        """Remove an event for good, and let those behind it be taken up.

        Raises:
            NotFound: it is not parked.

        """
        async with self._clinics.acquire() as connection:
            with translated():
                async with connection.transaction():
                    await connection.execute(_RETRY, number)
                    row = await connection.fetchrow("DELETE FROM parked WHERE number = $1 RETURNING *", number)
        if row is None:
            raise NotFound(f"There is no parked event {number}.")
        return _parked(row)

    async def counts(self, consumer: str) -> Mapping[tuple[str, int], int]:
        """Return how many events are parked, by topic and partition."""
        with translated():
            rows = await self._clinics.fetch(_COUNTS, consumer)
        return {(row["topic"], row["partition"]): row["count"] for row in rows}


def _some(done: str, number: int) -> int:
    changed = int(done.rsplit(" ", 1)[-1])
    if not changed:
        raise NotFound(f"There is no parked event {number}.")
    return changed


def _parked(row: Record) -> Parked:
    return Parked(
        number=row["number"],
        consumer=row["consumer"],
        source=row["source"],
        event_id=row["event_id"],
        tenant=row["tenant"],
        key=row["key"],
        topic=row["topic"],
        partition=row["partition"],
        offset=row["offset"],
        error=row["error"],
        attempts=row["attempts"],
        parked_at=row["parked_at"],
    )


def _event(row: Record) -> Event:
    return Event(
        id=row["event_id"],
        source=row["source"],
        interaction=row["interaction"],
        type=row["type"],
        resource_id=row["resource_id"],
        version=row["version"],
        time=row["time"],
        tenant=row["tenant"],
        key=row["key"],
        shard=row["shard"],
        sequence=row["sequence"],
        body=row["body"],
        labels=tuple(row["labels"]),
        request_id=row["request_id"],
        traceparent=row["traceparent"],
        claim=read_claim(row["body"]) if row["claimed"] else None,
        unread=tuple(zip(row["header_names"] or (), row["header_values"] or (), strict=True)),
    )
