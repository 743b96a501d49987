"""What goes into the store and comes out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self
from uuid import UUID

from asyncpg import Record

from shared.events.envelope import Interaction
from shared.fhir.index import IndexRows
from shared.fhir.json import Resource


@dataclass(frozen=True, slots=True)
class Stored:
    """One version of one resource, as held.

    `body` is the exact JSON, `meta.versionId` and `meta.lastUpdated` included; of a deleted version, the tombstone.
    `origin` is the service that owns it. `behind` are the Consents that let somebody outside be told of it, once it is
    told (`shared.security.gate`): ``Consent/1/_history/2``; `through` the intermediaries that these name for it.
    """

    type: str
    id: str
    version: int
    last_updated: datetime
    deleted: bool
    body: bytes
    origin: str
    interaction: Interaction
    behind: tuple[str, ...] = ()
    through: tuple[str, ...] = ()

    @classmethod
    def of(cls, type_: str, row: Record) -> Self:
        """Return it by a row that has its other columns."""
        return cls(
            type=type_,
            id=row["id"],
            version=row["version"],
            last_updated=row["last_updated"],
            deleted=row["interaction"] == "delete",
            body=row["body"],
            origin=row["origin"],
            interaction=row["interaction"],
        )


@dataclass(frozen=True, slots=True)
class Write:
    """A change to commit.

    Attributes:
        interaction: create, update or delete. An update of an unknown or deleted id brings it (back) to life; whether
            that is allowed is the caller's to decide.
        type, id: the resource.
        resource: the resource without `meta.versionId` and `meta.lastUpdated` (both are the store's to set); for a
            delete, None.
        key: the event's key: ``Patient/<id>`` or the resource's own ``Type/<id>``.
        patient: `subject_uuid` of the patient, or None.
        labels: codes of `meta.security`.
        index: its index rows; none for a delete.
        expected: only if the current version is this one (`If-Match`), else PreconditionFailed.
        request_id, traceparent: carried on the event.

    """

    interaction: Interaction
    type: str
    id: str
    resource: Resource | None
    key: str
    patient: UUID | None
    labels: tuple[str, ...] = ()
    index: IndexRows = field(default_factory=IndexRows)
    expected: int | None = None
    request_id: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """What was committed: the stored version, whether the id was new, and its event's key and outbox sequence."""

    stored: Stored
    created: bool
    key: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a search or a history.

    `next` and `previous` are cursors for the neighbouring pages, opaque to everyone but the store; `total` is given
    where the query asked for it. `included` is what `_include` and `_revinclude` bring along; where it is not all of it
    (there is a bound), `partial` is True. `explained` says which indexes answered and how long it took, where the query
    asked for that.
    """

    entries: Sequence[Stored]
    next: str | None = None
    previous: str | None = None
    total: int | None = None
    included: Sequence[Stored] = ()
    partial: bool = False
    explained: str | None = None


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that could not be applied, and the events of the same key that wait behind it."""

    number: int
    consumer: str
    source: str
    event_id: str
    tenant: str
    key: str
    topic: str
    partition: int
    offset: int
    error: str
    attempts: int
    parked_at: datetime


@dataclass(frozen=True, slots=True)
class Digest:
    """What is held of one type and owner: versions, current resources, and an order-free hash of all versions."""

    type: str
    origin: str
    versions: int
    current: int
    content: int
