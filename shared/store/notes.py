"""Therapists' process notes in a PostgreSQL database of their own: sealed versions, wrapped keys, who read what.

The pool is opened when it is first needed, so that a service whose notes' database is away does everything else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from uuid import UUID

from shared.store.connection import Pool, open_pool, translated

if TYPE_CHECKING:
    from asyncpg import Record

SCHEMA: Final = "notes_schema"
"""The folder of its migrations (`shared.store.migrate`)."""

_CONNECTIONS: Final = 3
_STATEMENT_SECONDS: Final = 10.0
_NEWEST: Final = (
    "SELECT DISTINCT ON (id) * FROM process_note WHERE tenant = $1 AND patient = $2 AND ($3::uuid IS NULL OR id < $3) "
    "AND ($5::text IS NULL OR author = $5) ORDER BY id DESC, version DESC LIMIT $4"
)

Action: TypeAlias = Literal["create", "update", "read", "history", "search"]


@dataclass(frozen=True, slots=True)
class SealedNote:
    """One version of a note: whose, by whom, and the resource, sealed under the patient's key."""

    tenant: str
    id: str
    version: int
    patient: str
    author: str
    last_updated: datetime
    sealed: bytes


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """The key of a patient's notes, wrapped by the installation's key of the id `kek`."""

    kek: str
    wrapped: bytes


@dataclass(frozen=True, slots=True)
class Access:
    """Who was answered what: `reader` as ``Practitioner/<id>``; `consent` by which, where he is not the author."""

    tenant: str
    reader: str
    client: str
    action: Action
    patient: str
    request_id: str
    note: str | None = None
    version: int | None = None
    consent: str | None = None


class NoteStore:
    """The notes' database; each call is one transaction."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._opened: Pool | None = None
        self._opening = asyncio.Lock()

    async def _pool(self) -> Pool:
        async with self._opening:
            if self._opened is None:
                self._opened = await open_pool(
                    self._dsn,
                    application="kap-notes",
                    min_size=0,
                    max_size=_CONNECTIONS,
                    statement_timeout=_STATEMENT_SECONDS,
                )
            return self._opened

    async def close(self) -> None:
        """Close its connections."""
        if self._opened is not None:
            await self._opened.close()

    async def key(self, tenant: str, patient: str) -> WrappedKey | None:
        """Return the wrapped key of a patient's notes; None: there is none yet."""
        with translated():
            row = await (await self._pool()).fetchrow(
                "SELECT kek, wrapped FROM patient_key WHERE tenant = $1 AND patient = $2", tenant, patient
            )
        return None if row is None else WrappedKey(row["kek"], row["wrapped"])

    async def add_key(self, tenant: str, patient: str, key: WrappedKey) -> WrappedKey:
        """Keep a patient's first key, and return the one that is kept: another's, who came first."""
        with translated():
            await (await self._pool()).execute(
                "INSERT INTO patient_key (tenant, patient, kek, wrapped) VALUES ($1, $2, $3, $4) "
                "ON CONFLICT DO NOTHING",
                tenant,
                patient,
                key.kek,
                key.wrapped,
            )
        return await self.key(tenant, patient) or key

    async def rewrap(self, tenant: str, patient: str, old: WrappedKey, new: WrappedKey) -> None:
        """Replace a wrapping by the same key under a newer key of the installation."""
        with translated():
            await (await self._pool()).execute(
                "UPDATE patient_key SET kek = $4, wrapped = $5 WHERE tenant = $1 AND patient = $2 AND wrapped = $3",
                tenant,
                patient,
                old.wrapped,
                new.kek,
                new.wrapped,
            )

    async def append(self, note: SealedNote, access: Access) -> bool:
        """Keep a version, and who wrote it; False where there is that version already."""
        with translated():
            async with (await self._pool()).acquire() as connection, connection.transaction():
                done = await connection.execute(
                    "INSERT INTO process_note (tenant, id, version, patient, author, last_updated, sealed) "
                    "VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
                    note.tenant,
                    UUID(note.id),
                    note.version,
                    note.patient,
                    note.author,
                    note.last_updated,
                    note.sealed,
                )
                if not done.endswith(" 1"):
                    return False
                await _note_access(connection, access)
                return True

    async def versions(self, tenant: str, id_: str) -> list[SealedNote]:
        """Return all versions of a note, the newest first; none where there is no such note."""
        try:
            number = UUID(id_)
        except ValueError:
            return []
        with translated():
            rows = await (await self._pool()).fetch(
                "SELECT * FROM process_note WHERE tenant = $1 AND id = $2 ORDER BY version DESC", tenant, number
            )
        return [_note(row) for row in rows]

    async def of_patient(
        self, tenant: str, patient: str, *, author: str | None, before: str | None, limit: int
    ) -> list[SealedNote]:
        """Return the newest version of each note about a patient, the newest note first.

        `author`: whose; None: everybody's. `before`: older than this note.
        """
        with translated():
            rows = await (await self._pool()).fetch(
                _NEWEST, tenant, patient, None if before is None else UUID(before), limit, author
            )
        return [_note(row) for row in rows]

    async def accessed(self, several: Sequence[Access]) -> None:
        """Keep who is answered what, before he is answered."""
        if not several:
            return
        with translated():
            async with (await self._pool()).acquire() as connection, connection.transaction():
                for access in several:
                    await _note_access(connection, access)

    async def accesses(self, tenant: str, patient: str) -> list[Access]:
        """Return who was answered what about a patient, the oldest first."""
        with translated():
            rows = await (await self._pool()).fetch(
                "SELECT * FROM process_note_access WHERE tenant = $1 AND patient = $2 ORDER BY at", tenant, patient
            )
        return [
            Access(
                tenant=row["tenant"],
                reader=row["reader"],
                client=row["client"],
                action=row["action"],
                patient=row["patient"],
                request_id=row["request_id"],
                note=None if row["note"] is None else str(row["note"]),
                version=row["version"],
                consent=row["consent"],
            )
            for row in rows
        ]


async def _note_access(connection: Any, access: Access) -> None:
    await connection.execute(
        "INSERT INTO process_note_access (tenant, reader, client, action, patient, note, version, consent, request_id) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        access.tenant,
        access.reader,
        access.client,
        access.action,
        access.patient,
        None if access.note is None else UUID(access.note),
        access.version,
        access.consent,
        access.request_id,
    )


def _note(row: Record) -> SealedNote:
    return SealedNote(
        tenant=row["tenant"],
        id=str(row["id"]),
        version=row["version"],
        patient=row["patient"],
        author=row["author"],
        last_updated=row["last_updated"],
        sealed=bytes(row["sealed"]),
    )
