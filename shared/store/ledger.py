"""Delivery's ledger in PostgreSQL: what is to reach which destination, and what is known of it there.

Everything happens in the transaction it is given, so that an event and the queueing it causes, or an answer and the
Task that shows it, are committed together or not at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from shared.fhir.definitions import type_id
from shared.fhir.json import dump, parse
from shared.store.connection import translated
from shared.store.ledger_types import Destination, Entry, Settled, TaskStatus

if TYPE_CHECKING:
    import asyncpg

    from shared.store.store import Transaction

_ENTRY = ", ".join(f"d.{one.name}" for one in fields(Entry))
_DESTINATION = ", ".join(one.name for one in fields(Destination))

# A newer version is queued: in its old place while it waits there, else at the end. What is under way is left to its
# end; what a person cancelled, and what waits for its patient, stays.
_NEWER = """
    ON CONFLICT (tenant, destination, type, id) DO UPDATE SET
        wanted_version = excluded.wanted_version, wanted_at = excluded.wanted_at, deleted = excluded.deleted,
        attempts = 0, queued_at = clock_timestamp(), next_attempt_at = clock_timestamp(),
        place = CASE WHEN delivery.state IN ('queued', 'sending') THEN delivery.place ELSE excluded.place END,
        state = CASE WHEN delivery.state IN ('sending', 'waiting', 'cancelled') THEN delivery.state ELSE 'queued' END
    WHERE delivery.wanted_version < excluded.wanted_version
"""

# Another address may be another server, whose ids are of other resources: nothing is known of it any more. What may
# have been sent is asked for by our identifier before it is sent (`uncertain`); so the same server under another name
# is found again. What is gone stays withdrawn, and is asked for when it is there again.
_ANOTHER_SERVER = """
    UPDATE delivery d SET
        uncertain = d.uncertain OR d.server_id IS NOT NULL OR d.state = 'sending',
        server_id = NULL, content_hash = NULL, unresolved = '{}', delivered_version = NULL, committed_at = NULL,
        accepted_at = NULL, outcome = NULL, attempts = 0, sent_at = NULL, next_attempt_at = clock_timestamp(),
        queued_at = clock_timestamp(),
        state = CASE WHEN d.state IN ('cancelled', 'withdrawn') THEN d.state ELSE 'queued' END
    WHERE d.tenant = $1 AND d.destination = $2
"""

_ASK_ANEW = """
    UPDATE delivery d SET state = 'queued', place = nextval('delivery_place'), queued_at = clock_timestamp(),
        next_attempt_at = clock_timestamp(), attempts = 0
    WHERE d.state = 'held' AND"""


class Ledger:
    """The ledger, as one transaction sees it."""

    def __init__(self, transaction: Transaction) -> None:
        self._connection = transaction.connection
        self._tenant = transaction.tenant

    # Destinations

    async def put_destination(self, destination: Destination) -> None:
        """Add a destination, or change what is known of it; `filled` is left as it is.

        What is held for want of consent is queued, to be asked for anew: it may be somebody else now. Where the address
        becomes another, all is queued, and nothing of what was known of the server there counts.
        """
        with translated():
            before = await self._connection.fetchval(
                "SELECT address FROM delivery_destination WHERE tenant = $1 AND id = $2 FOR UPDATE",
                destination.tenant,
                destination.id,
            )
            await self._connection.execute(
                """
                INSERT INTO delivery_destination
                    (id, tenant, name, address, active, types, creates_patients, recipient, purpose, through)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
                ON CONFLICT (tenant, id) DO UPDATE SET name = excluded.name, address = excluded.address,
                    active = excluded.active, types = excluded.types, creates_patients = excluded.creates_patients,
                    recipient = excluded.recipient, purpose = excluded.purpose, through = excluded.through,
                    filled = delivery_destination.filled AND delivery_destination.types @> excluded.types
                """,
                destination.id,
                destination.tenant,
                destination.name,
                destination.address,
                destination.active,
                sorted(destination.types),
                destination.creates_patients,
                destination.recipient,
                destination.purpose,
                destination.through,
            )
            await self._connection.execute(
                _ANOTHER_SERVER
                if before not in (None, destination.address)
                else f"{_ASK_ANEW} d.tenant = $1 AND d.destination = $2",
                destination.tenant,
                destination.id,
            )

    async def destinations(self) -> list[Destination]:
        """Return all destinations of the transaction's tenant, inactive ones too."""
        with translated():
            rows = await self._connection.fetch(
                f"SELECT {_DESTINATION} FROM delivery_destination WHERE tenant = $1 ORDER BY id", self._tenant
            )
        return [Destination(**{**row, "types": frozenset(row["types"])}) for row in rows]

    async def is_at(self, destination: Destination) -> bool:
        """Tell whether a destination is still at its address; until the transaction ends it stays where it is."""
        with translated():
            found = await self._connection.fetchval(
                "SELECT address FROM delivery_destination WHERE tenant = $1 AND id = $2 FOR SHARE",
                destination.tenant,
                destination.id,
            )
        return bool(found == destination.address)

    async def fill(self, destination: Destination) -> int:
        """Queue what is held already of the types that a destination is to have; return how many entries are new."""
        with translated():
            count: int = await self._connection.fetchval(
                f"""
                WITH queued AS (
                    INSERT INTO delivery (destination, type, id, tenant, key, wanted_version, wanted_at, deleted)
                    SELECT $1, t.name, r.id, $2, h.key, r.version, r.last_updated, r.deleted
                    FROM resource r
                    JOIN tenant n ON n.id = r.tenant AND n.name = $2
                    JOIN resource_type t ON t.id = r.type AND t.name = ANY ($3)
                    JOIN history h ON h.rid = r.rid AND h.version = r.version
                    ORDER BY r.rid
                    {_NEWER}
                    RETURNING 1
                ) SELECT count(*) FROM queued
                """,
                destination.id,
                destination.tenant,
                sorted(destination.types),
            )
            await self._connection.execute(
                "UPDATE delivery_destination SET filled = true WHERE tenant = $1 AND id = $2",
                destination.tenant,
                destination.id,
            )
        return count

    # The queue

    async def traceparent_of(self, entry: Entry) -> str | None:
        """Return the trace context that the wanted version came with; None where it had none."""
        with translated():
            given: str | None = await self._connection.fetchval(
                """
                SELECT h.traceparent FROM history h JOIN resource r ON r.rid = h.rid
                JOIN tenant n ON n.id = r.tenant JOIN resource_type t ON t.id = r.type
                WHERE n.name = $1 AND t.name = $2 AND r.id = $3 AND h.version = $4
                """,
                entry.tenant,
                entry.type,
                entry.id,
                entry.wanted_version,
            )
        return given

    async def want(
        self, *, tenant: str, type_: str, id_: str, key: str, version: int, committed_at: datetime, deleted: bool
    ) -> None:
        """Queue a version for every destination of the tenant that takes its type; an older one changes nothing."""
        with translated():
            await self._connection.execute(
                f"""
                INSERT INTO delivery (destination, type, id, tenant, key, wanted_version, wanted_at, deleted)
                SELECT o.id, $2, $3, $1, $4, $5, $6, $7
                FROM delivery_destination o WHERE o.tenant = $1 AND $2 = ANY (o.types)
                {_NEWER}
                """,
                tenant,
                type_,
                id_,
                key,
                version,
                committed_at,
                deleted,
            )

    async def withhold(self, *, tenant: str, type_: str, id_: str, version: int) -> None:
        """Take this version out of every queue of the tenant, as long as nothing of it may be at the destination."""
        with translated():
            await self._connection.execute(
                "UPDATE delivery SET state = 'withdrawn' WHERE tenant = $1 AND type = $2 AND id = $3 "
                "AND wanted_version = $4 AND state IN ('queued', 'waiting') AND server_id IS NULL AND NOT uncertain",
                tenant,
                type_,
                id_,
                version,
            )

    async def ask_anew(self, *, tenant: str, key: str) -> None:
        """Queue what is held of a key (``Patient/1``), for every destination: what its consents say has changed.

        And of the keys of the records that are joined with it: the same person's.
        """
        with translated():
            await self._connection.execute(
                f"""
                {_ASK_ANEW} d.tenant = $1 AND d.key = ANY (ARRAY(
                    SELECT 'Patient/' || o.id FROM tenant n
                    JOIN resource p ON p.tenant = n.id AND p.type = $3 AND p.id = substring($2 FROM '^Patient/(.*)$')
                    JOIN resource o ON o.tenant = n.id AND o.type = $3
                        AND o.patient = ANY (kap_same_person(n.id, p.patient))
                    WHERE n.name = $1
                    UNION ALL SELECT $2))
                """,
                tenant,
                key,
                type_id("Patient"),
            )

    async def ask_anew_by_time(self, destination: Destination, *, since: datetime | None) -> datetime:
        """Queue what is held of patients of whom a rule began or ended since then (None: ever); return until when."""
        with translated():
            until: datetime = await self._connection.fetchval("SELECT now()")
            await self._connection.execute(
                f"""
                {_ASK_ANEW} d.destination = $1 AND d.tenant = $2 AND d.key IN (
                    SELECT 'Patient/' || p.id FROM tenant n JOIN consent_rule c ON c.tenant = n.id
                    JOIN resource p ON p.tenant = n.id AND p.type = $5 AND p.patient = c.patient
                    WHERE n.name = $2 AND (c.low > $3 AND c.low <= $4 OR c.high > $3 AND c.high <= $4))
                """,
                destination.id,
                destination.tenant,
                since or datetime.min.replace(tzinfo=UTC),
                until,
                type_id("Patient"),
            )
        return until

    async def keys(self, destination: str, *, busy: Collection[str], limit: int) -> list[str]:
        """Return keys (patients) with something queued that are not `busy`, longest queued first."""
        with translated():
            rows = await self._connection.fetch(
                """
                SELECT key FROM (
                    SELECT key, place FROM delivery
                    WHERE tenant = $1 AND destination = $2 AND state = 'queued' AND key <> ALL ($3)
                    ORDER BY place LIMIT 1000
                ) AS queue GROUP BY key ORDER BY min(place) LIMIT $4
                """,
                self._tenant,
                destination,
                list(busy),
                limit,
            )
        return [row["key"] for row in rows]

    async def take(self, destination: str, key: str, *, limit: int) -> list[Entry]:
        """Take the queue of one key: each entry is now "sending", and known as uncertain should its end be lost."""
        with translated():
            rows = await self._connection.fetch(
                f"""
                WITH taken AS (
                    UPDATE delivery d SET state = 'sending', sent_at = clock_timestamp()
                    FROM (SELECT type, id FROM delivery
                          WHERE tenant = $1 AND destination = $2 AND key = $3 AND state = 'queued'
                          ORDER BY place LIMIT $4) AS q
                    WHERE d.tenant = $1 AND d.destination = $2 AND d.type = q.type AND d.id = q.id
                      AND d.state = 'queued'
                    RETURNING {_ENTRY}
                ) SELECT * FROM taken ORDER BY place
                """,
                self._tenant,
                destination,
                key,
                limit,
            )
        return [_entry(row) for row in rows]

    async def find(self, destination: str, targets: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Entry]:
        """Return the entries of the given (type, id), those that there are."""
        wanted = list(targets)
        with translated():
            rows = await self._connection.fetch(
                f"""
                SELECT {_ENTRY} FROM unnest($3::text[], $4::text[]) AS t(type, id)
                JOIN delivery d ON d.tenant = $1 AND d.destination = $2 AND d.type = t.type AND d.id = t.id
                """,
                self._tenant,
                destination,
                [type_ for type_, _ in wanted],
                [id_ for _, id_ in wanted],
            )
        return {(row["type"], row["id"]): _entry(row) for row in rows}

    async def settle(self, destination: str, type_: str, id_: str, end: Settled) -> Entry:
        """Write down how an attempt ended; where a newer version was queued meanwhile, the entry is queued again."""
        with translated():
            row = await self._connection.fetchrow(
                f"""
                UPDATE delivery d SET
                    state = CASE WHEN d.state = 'cancelled' THEN d.state
                                 WHEN d.wanted_version > $4 THEN 'queued' ELSE $5 END,
                    attempts = CASE WHEN d.wanted_version > $4 THEN 0 ELSE $6 END,
                    uncertain = $7, next_attempt_at = coalesce($8, clock_timestamp()), server_id = $9,
                    delivered_version = $10, committed_at = $11, accepted_at = $12, content_hash = $13,
                    unresolved = $14, outcome = $15, sent_at = NULL
                WHERE d.tenant = $16 AND d.destination = $1 AND d.type = $2 AND d.id = $3
                RETURNING {_ENTRY}
                """,
                destination,
                type_,
                id_,
                end.version,
                end.state,
                end.attempts,
                end.uncertain,
                end.next_attempt_at,
                end.server_id,
                end.delivered_version,
                end.committed_at,
                end.accepted_at,
                end.content_hash,
                list(end.unresolved),
                None if end.outcome is None else dump(end.outcome).decode(),
                self._tenant,
            )
        return _entry(row)

    async def release(self, destination: str, key: str, target: str, *, updatable: Collection[str]) -> None:
        """Queue what waited for `target` (``Patient/1``), now that the destination has it.

        Of the types `updatable` also what was sent with a logical reference to it, to be sent again with a real one.
        """
        with translated():
            await self._connection.execute(
                """
                UPDATE delivery SET state = 'queued', place = nextval('delivery_place'), queued_at = clock_timestamp(),
                    next_attempt_at = clock_timestamp(), attempts = 0
                WHERE tenant = $5 AND destination = $1 AND key = $2 AND (
                    (state IN ('waiting', 'held') AND key = $3)
                    OR (type = ANY ($4) AND state = 'accepted' AND unresolved @> ARRAY[$3::text]))
                """,
                destination,
                key,
                target,
                list(updatable),
                self._tenant,
            )

    async def take_up_waiting(self, destination: str, key: str) -> None:
        """Queue what waited for its patient, who is now known to be held: to be held as well, and to say why."""
        with translated():
            await self._connection.execute(
                "UPDATE delivery SET state = 'queued', next_attempt_at = clock_timestamp() "
                "WHERE tenant = $1 AND destination = $2 AND key = $3 AND state = 'waiting'",
                self._tenant,
                destination,
                key,
            )

    async def recover(self, destination: str, *, busy: Collection[str], before: datetime) -> int:
        """Queue again, as uncertain, what was being sent by a process that is gone; return how many entries that were.

        Only what was taken before `before`: an older request may still be under way.
        """
        with translated():
            rows = await self._connection.fetch(
                """
                UPDATE delivery SET state = 'queued', uncertain = true, sent_at = NULL
                WHERE tenant = $1 AND destination = $2 AND state = 'sending' AND sent_at < $3 AND key <> ALL ($4)
                RETURNING 1
                """,
                self._tenant,
                destination,
                before,
                list(busy),
            )
        return len(rows)

    # What people see and do

    async def unshown(self, destination: str, *, before: datetime, limit: int) -> list[Entry]:
        """Return what waits since `before` or longer and has no open Task that says so."""
        with translated():
            rows = await self._connection.fetch(
                f"""
                SELECT {_ENTRY} FROM delivery d
                WHERE d.tenant = $1 AND d.destination = $2 AND d.state IN ('queued', 'waiting') AND d.queued_at < $3
                  AND (d.task_status IS NULL OR d.task_status NOT IN ('requested', 'in-progress', 'on-hold'))
                ORDER BY d.queued_at LIMIT $4
                """,
                self._tenant,
                destination,
                before,
                limit,
            )
        return [_entry(row) for row in rows]

    async def show(self, entry: Entry, task_id: str, status: TaskStatus) -> None:
        """Remember the Task that shows an entry."""
        with translated():
            await self._connection.execute(
                "UPDATE delivery SET task_id = $5, task_status = $6 "
                "WHERE tenant = $1 AND destination = $2 AND type = $3 AND id = $4",
                entry.tenant,
                entry.destination,
                entry.type,
                entry.id,
                task_id,
                status,
            )

    async def of_task(self, task_id: str) -> Entry | None:
        """Return the entry that a Task shows, its row locked."""
        with translated():
            row = await self._connection.fetchrow(
                f"SELECT {_ENTRY} FROM delivery d WHERE d.tenant = $1 AND d.task_id = $2 FOR UPDATE",
                self._tenant,
                task_id,
            )
        return None if row is None else _entry(row)

    async def retry(self, entry: Entry) -> Entry:
        """Queue an entry anew, at the end of the queue."""
        return await self._set_state(entry, "queued")

    async def cancel(self, entry: Entry) -> Entry:
        """Take an entry out of the queue for good."""
        return await self._set_state(entry, "cancelled")

    async def _set_state(self, entry: Entry, state: str) -> Entry:
        with translated():
            row = await self._connection.fetchrow(
                f"""
                UPDATE delivery d SET state = $5, attempts = 0, place = nextval('delivery_place'),
                    queued_at = clock_timestamp(), next_attempt_at = clock_timestamp()
                WHERE d.tenant = $1 AND d.destination = $2 AND d.type = $3 AND d.id = $4 RETURNING {_ENTRY}
                """,
                entry.tenant,
                entry.destination,
                entry.type,
                entry.id,
                state,
            )
        return _entry(row)

    async def entries(self, destination: str) -> Sequence[Entry]:
        """Return everything the ledger holds of one destination, in the order of the queue."""
        with translated():
            rows = await self._connection.fetch(
                f"SELECT {_ENTRY} FROM delivery d WHERE d.tenant = $1 AND d.destination = $2 ORDER BY d.place",
                self._tenant,
                destination,
            )
        return [_entry(row) for row in rows]


def _entry(row: asyncpg.Record | None) -> Entry:
    if row is None:
        raise LookupError("The ledger has no such entry.")
    values: dict[str, Any] = dict(row)
    values["unresolved"] = tuple(values["unresolved"])
    if values["outcome"] is not None:
        values["outcome"] = parse(values["outcome"])
    return Entry(**values)
