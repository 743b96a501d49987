"""A change of a service's own resource: one call, which commits version, history, index rows, event and audit."""

from __future__ import annotations

from shared.events.shards import shard_of
from shared.fhir.definitions import type_id
from shared.store import body
from shared.store.access import Access
from shared.store.audit import change_note
from shared.store.connection import Connection, translated
from shared.store.keys import key_lock
from shared.store.predicates import patient_uuids
from shared.store.rows import NO_ROWS, arrays_of
from shared.store.types import Stored, Write, Written

_FIXED = 21
_ALL = _FIXED + len(NO_ROWS)
_WRITE = f"""
WITH done AS MATERIALIZED (SELECT * FROM kap_write({", ".join(f"${n + 1}" for n in range(_ALL))})),
noted AS (
    INSERT INTO audit_pending (body)
    SELECT ${_ALL + 1}::bytea || convert_to(version::text, 'UTF8') || ${_ALL + 2}::bytea FROM done
)
SELECT * FROM done
"""


async def change(
    connection: Connection, access: Access, tenant: int, write: Write, *, service: str, publishes: bool, wake: bool
) -> Written:
    """Make one change, in one round trip; outside of a transaction it is committed with it.

    Args:
        connection: of the service's database.
        access: who makes it.
        tenant: the number of the clinic.
        write: the change.
        service: whose resource it is.
        publishes: whether it makes an event.
        wake: whether a relay that sleeps is to be woken for it; a transaction does so once, at its end.

    Raises:
        FhirError: see `Store.write`.

    """
    deletes = write.interaction == "delete"
    if deletes != (write.resource is None):
        raise ValueError("a delete carries no resource, and every other write carries one")
    head, tail = body.parts(write.type, write.id, write.resource)
    noted = change_note(service, access.tenant, write)
    with translated():
        row = await connection.fetchrow(
            _WRITE,
            service,
            tenant,
            access.tenant,
            key_lock(access.tenant, write.key),
            shard_of(access.tenant, write.key),
            publishes,
            wake,
            type_id(write.type),
            write.type,
            write.id,
            write.interaction,
            write.expected,
            write.key,
            write.patient,
            list(write.labels),
            write.request_id,
            write.traceparent,
            head,
            tail,
            patient_uuids(access),
            sorted(access.hidden_labels),
            *(NO_ROWS if deletes else arrays_of(write.index)),
            *noted,
        )
    assert row is not None  # noqa: S101 - a function with OUT parameters answers one row
    version, last_updated, sequence, created = row
    stored = Stored(
        type=write.type,
        id=write.id,
        version=version,
        last_updated=last_updated,
        deleted=deletes,
        body=body.join(head, version, last_updated, tail),
        origin=service,
        interaction=write.interaction,
    )
    return Written(stored=stored, created=created, key=write.key, sequence=sequence or 0)
