"""The outbox as a relay reads it: unpublished events of the shards it holds, in order.

A shard is held by a lock of the database session, so by one relay at a time, and is free again the moment the session
ends. The relay's connection must be a direct one: a transaction-mode pooler breaks session locks and LISTEN.

What is read is what is *unpublished*, never what is above some position: of two writers, the one with the lower
sequence may commit later.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid4

from asyncpg import Record

from shared.events.envelope import Event
from shared.events.relay import BATCH_BYTES
from shared.events.shards import SHARDS
from shared.fhir.outcome import Unavailable
from shared.store.connection import Connection, open_connection, translated
from shared.store.keys import LOCK_CLASS

CHANNEL: Final = "kap_outbox"

_LINGER_POLLS = 5
_LINGER_SECONDS = 0.01

_UNPUBLISHED = """
SELECT sequence, id, aggregatetype, aggregateid, type, payload, tenant, shard, resource_id, version, time, labels,
       request_id, traceparent
FROM (
    SELECT *, sum(octet_length(payload)) OVER (ORDER BY sequence) - octet_length(payload) AS bytes_before
    FROM outbox WHERE published_at IS NULL AND shard = ANY ($1::smallint[]) ORDER BY sequence LIMIT $2
) AS next WHERE bytes_before < $3 ORDER BY sequence
"""
_PENDING = "SELECT EXISTS (SELECT FROM outbox WHERE published_at IS NULL AND shard = ANY ($1::smallint[]))"
_MARK = """
WITH held AS (
    SELECT objid::integer AS shard FROM pg_locks
    WHERE locktype = 'advisory' AND classid = $2 AND objsubid = 2 AND granted AND pid = pg_backend_pid()
), marked AS (
    UPDATE outbox SET published_at = clock_timestamp()
    WHERE sequence = ANY ($1::bigint[]) AND published_at IS NULL AND shard IN (SELECT shard FROM held)
)
SELECT array_agg(shard) FROM held
"""
_FORGET_RELAYS = "DELETE FROM relay_state WHERE pid NOT IN (SELECT pid FROM pg_stat_activity)"
_ENTER = "INSERT INTO relay_state (relay, pid, sleeping) VALUES ($1, pg_backend_pid(), false)"
_SLEEP = "UPDATE relay_state SET sleeping = $2 WHERE relay = $1"


class LostShard(Unavailable):
    """A shard of these events is not held any more: another relay may have it, so open the outbox anew."""


async def open_outbox(dsn: str, *, service: str) -> Outbox:
    """Connect to the outbox of `service`, directly.

    Raises:
        Unavailable: PostgreSQL cannot be reached.

    """
    connection = await open_connection(
        dsn,
        application=f"kap-{service}-relay",
        # A dead relay's shards must come free soon, also where its machine went without a word.
        settings={"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"},
    )
    try:
        outbox = Outbox(connection, service)
        await outbox.enter()
    except BaseException:
        connection.terminate()
        raise
    return outbox


class Outbox:
    """The outbox on one connection. Made by `open_outbox`; for one task at a time."""

    def __init__(self, connection: Connection, service: str) -> None:
        self._connection = connection
        self._service = service
        self._relay: UUID = uuid4()
        self._held: set[int] = set()
        self._woken = asyncio.Event()
        self._sleeping = False

    async def enter(self) -> None:
        """Make this relay known, and listen."""
        with translated():
            await self._connection.execute(_FORGET_RELAYS)
            await self._connection.execute(_ENTER, self._relay)
            await self._connection.add_listener(CHANNEL, self._wake)
            self._connection.add_termination_listener(self._wake)

    def _wake(self, *_: Any) -> None:
        self._woken.set()

    async def acquire(self, max_shards: int) -> set[int]:
        """Try to hold up to `max_shards` shards, and return all that are held now."""
        free = [shard for shard in range(SHARDS) if shard not in self._held]
        random.shuffle(free)
        for shard in free:
            if len(self._held) >= max_shards:
                break
            with translated():
                got = await self._connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", LOCK_CLASS, shard)
            if got:
                self._held.add(shard)
        return self.held()

    def held(self) -> set[int]:
        """Return the shards that are held."""
        return set(self._held)

    async def now(self) -> datetime:
        """Return the present by the database's clock."""
        with translated():
            present: datetime = await self._connection.fetchval("SELECT clock_timestamp()")
        return present

    async def unpublished(self, limit: int, most_bytes: int = BATCH_BYTES) -> list[Event]:
        """Return up to `limit` unpublished events of the held shards, in order of sequence.

        None more once their bodies come to `most_bytes`: the one that reaches it is the last, however large.
        """
        with translated():
            rows = await self._connection.fetch(_UNPUBLISHED, sorted(self._held), limit, most_bytes)
        return [self._event(row) for row in rows]

    async def mark_published(self, events: Sequence[Event]) -> None:
        """Mark events as published; those of a shard that is not held are left alone.

        Raises:
            LostShard: a shard of one of them is not held any more (its events will be published again).

        """
        if not events:
            return
        with translated():
            held = await self._connection.fetchval(_MARK, [event.sequence for event in events], LOCK_CLASS)
        self._held &= set(held or ())
        lost = {event.shard for event in events} - self._held
        if lost:
            raise LostShard(f"The relay does not hold the shards {sorted(lost)} any more.")

    async def wait(self, timeout: float) -> None:
        """Return when there may be something to publish, or after `timeout` seconds.

        A relay that has just been busy looks a few times more before it lies down: while it is awake no writer has to
        notify it.
        """
        if not self._sleeping:
            for _ in range(_LINGER_POLLS):
                await asyncio.sleep(min(_LINGER_SECONDS, timeout))
                if await self._pending():
                    return
            self._woken.clear()
            await self._sleep(sleeping=True)
        # Whoever committed before it was known that this relay sleeps did not notify.
        if not await self._pending():
            try:
                await asyncio.wait_for(self._woken.wait(), timeout)
            except TimeoutError:
                return
        self._woken.clear()
        await self._sleep(sleeping=False)

    async def close(self) -> None:
        """Give up all shards."""
        self._held.clear()
        connection = self._connection
        if connection.is_closed():
            return
        try:
            await connection.execute("DELETE FROM relay_state WHERE relay = $1", self._relay, timeout=2)
            await connection.close(timeout=2)
        except Exception:  # noqa: BLE001 - whatever it is, the session's end frees the shards
            connection.terminate()

    async def _pending(self) -> bool:
        with translated():
            return bool(await self._connection.fetchval(_PENDING, sorted(self._held)))

    async def _sleep(self, *, sleeping: bool) -> None:
        with translated():
            await self._connection.execute(_SLEEP, self._relay, sleeping)
        self._sleeping = sleeping

    def _event(self, row: Record) -> Event:
        return Event(
            id=row["id"],
            source=self._service,
            interaction=row["type"],
            type=row["aggregatetype"],
            resource_id=row["resource_id"],
            version=row["version"],
            time=row["time"],
            tenant=row["tenant"],
            key=row["aggregateid"],
            shard=row["shard"],
            sequence=row["sequence"],
            body=row["payload"],
            labels=tuple(row["labels"]),
            request_id=row["request_id"],
            traceparent=row["traceparent"],
        )
