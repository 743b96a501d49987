"""What an operation that books several visits of one patient has read and written: read once, not for every visit.

Nothing of the patient changes while his record is locked. Never where events are taken in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from shared.fhir.json import Resource
from shared.runtime.record import Record
from shared.store.bookings import Taken


@dataclass(slots=True)
class Memory:
    """What was found by search and by id, the visits that were booked, and what stands in the way of which."""

    found: dict[tuple[str, str], list[Resource]] = field(default_factory=dict)
    got: dict[tuple[str, str], Resource | None] = field(default_factory=dict)
    booked: list[Resource] = field(default_factory=list)
    taken: dict[str, list[Taken]] = field(default_factory=dict)

    def add(self, appointment: Resource) -> None:
        """Note a visit that was written: what was found by searching Appointments has it, too."""
        for (type_, _), found in self.found.items():
            if type_ == "Appointment":
                found.append(appointment)


_memory: ContextVar[Memory | None] = ContextVar("memory", default=None)


def memory() -> Memory | None:
    """Return what is remembered; None where nothing is."""
    return _memory.get()


@contextmanager
def remembering() -> Iterator[Memory]:
    """Remember what is read inside. For an operation that has locked the record of its one patient."""
    kept = Memory()
    token = _memory.set(kept)
    try:
        yield kept
    finally:
        _memory.reset(token)


async def held(record: Record, type_: str, criteria: dict[str, str]) -> list[Resource]:
    """Return what a search finds, once."""
    kept = _memory.get()
    if kept is None:
        return await record.search(type_, criteria)
    key = (type_, str(sorted(criteria.items())))
    if key not in kept.found:
        kept.found[key] = await record.search(type_, criteria)
    return kept.found[key]


async def got(record: Record, type_: str, id_: str) -> Resource | None:
    """Return a resource by its id, once."""
    kept = _memory.get()
    if kept is None:
        return await record.get(type_, id_)
    if (type_, id_) not in kept.got:
        kept.got[type_, id_] = await record.get(type_, id_)
    return kept.got[type_, id_]
