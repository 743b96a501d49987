"""Process notes, sealed and opened: each under its patient's key, and that under the installation's."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from shared.fhir.json import Resource, dump
from shared.security.envelope import Keyring, new_key, opened, seal
from shared.store.notes import NoteStore, SealedNote, WrappedKey


@dataclass(frozen=True, slots=True)
class Sealing:
    """Seals what goes into `notes` and opens what comes from there, by the installation's keys."""

    notes: NoteStore
    keyring: Keyring

    async def sealed(
        self, note: Resource, *, tenant: str, version: int, patient: str, author: str, now: datetime
    ) -> SealedNote:
        """Return a version of a note, sealed; the first note about a patient makes his key."""
        key = await self._key(tenant, patient)
        id_ = str(note["id"])
        about = _about(tenant, id_, version, patient, author)
        return SealedNote(tenant, id_, version, patient, author, now, seal(key, dump(note), about))

    async def opened(self, note: SealedNote) -> bytes:
        """Return the resource as it was sealed.

        Raises:
            SealBroken: what is stored is not that.
            KeyringError: the key that wraps the patient's is not there any more.

        """
        key = await self._key(note.tenant, note.patient)
        return opened(key, note.sealed, _about(note.tenant, note.id, note.version, note.patient, note.author))

    async def _key(self, tenant: str, patient: str) -> bytes:
        about = f"key\0{tenant}\0{patient}"
        held = await self.notes.key(tenant, patient)
        if held is None:
            made = WrappedKey(self.keyring.current, self.keyring.wrap(new_key(), about))
            held = await self.notes.add_key(tenant, patient, made)
        key = self.keyring.unwrap(held.kek, held.wrapped, about)
        if held.kek != self.keyring.current:
            again = WrappedKey(self.keyring.current, self.keyring.wrap(key, about))
            await self.notes.rewrap(tenant, patient, held, again)
        return key


def _about(tenant: str, id_: str, version: int, patient: str, author: str) -> str:
    return "\0".join(("note", tenant, id_, str(version), patient, author))
