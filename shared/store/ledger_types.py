"""What delivery's ledger holds: destinations, and one entry for each resource that is to reach one of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias

from shared.fhir.json import Resource

State: TypeAlias = Literal[
    "queued",
    "sending",
    "waiting",
    "held",
    "accepted",
    "withdrawn",
    "superseded",
    "refused",
    "not-accepted",
    "cancelled",
]
"""Where a resource stands at a destination.

queued: to be sent. sending: an attempt is under way, or its end is not known. waiting: the destination does not have
its patient. held: no consent of the patient's lets it be told now; what is there of an earlier version stays. accepted:
the wanted version is there. withdrawn: deleted here, or never pushed (a device's feed), and marked as in error or
deleted there if it was there. superseded: an older version is there and the destination takes no update. refused: the
destination refused it. not-accepted: the destination takes no resources of this type. cancelled: a person said that it
shall not be sent.
"""

PENDING: frozenset[State] = frozenset(("queued", "sending", "waiting"))
"""The states from which an entry still moves by itself."""

TaskStatus: TypeAlias = Literal["requested", "in-progress", "on-hold", "completed", "failed", "rejected", "cancelled"]


@dataclass(frozen=True, slots=True)
class Destination:
    """An Endpoint that resources are pushed to.

    Attributes:
        id: the Endpoint's logical id.
        tenant: the clinic it belongs to.
        name: for people.
        address: FHIR base URL, without a slash at its end.
        active: whether anything is sent; an inactive one keeps its queue.
        types: what is pushed to it.
        creates_patients: whether a Patient that it does not know may be created there.
        filled: whether what was held when it was added has been queued.
        recipient: who it is for a Consent, as ``Organization/1``; None: nobody whom a Consent can name.
        purpose: what it is told things for, a code of v3-ActReason.
        through: the intermediary (``Organization/1``) by which the recipient is told; None: it is told itself.

    """

    id: str
    tenant: str
    name: str
    address: str
    active: bool
    types: frozenset[str]
    creates_patients: bool
    filled: bool = field(default=False, compare=False)
    recipient: str | None = None
    purpose: str = "TREAT"
    through: str | None = None

    @property
    def path(self) -> str:
        """What names it among all clinics': two clinics may have Endpoints of one id."""
        return f"{self.tenant}/{self.id}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One resource on its way to one destination.

    Attributes:
        destination: id of the `Destination`.
        tenant, type, id, key: the resource, and its event key (``Patient/<id>``).
        place: grows in the order of queueing.
        wanted_version, wanted_at: the newest version known, and when its owner committed it.
        deleted: whether that version is a deletion.
        state: see `State`.
        attempts: attempts for the wanted version, so far.
        uncertain: an attempt may have reached the destination although no answer did.
        queued_at: when the wanted version was queued.
        next_attempt_at: not before then.
        server_id: the id at the destination, once known.
        delivered_version, committed_at, accepted_at: the version that is there, when its owner committed it, and when
            the destination accepted it.
        content_hash: `shared.fhir.content.content_hash` of what was sent.
        unresolved: references (``Encounter/1``) that were sent as logical ones: their targets were not there yet.
        outcome: the last OperationOutcome of the destination, or one made here for a lost connection.
        task_id, task_status: the Task that shows this to people; None as long as there is nothing to show.

    """

    destination: str
    tenant: str
    type: str
    id: str
    key: str
    place: int
    wanted_version: int
    wanted_at: datetime
    deleted: bool
    state: State
    attempts: int
    uncertain: bool
    queued_at: datetime
    next_attempt_at: datetime
    server_id: str | None = None
    delivered_version: int | None = None
    committed_at: datetime | None = None
    accepted_at: datetime | None = None
    content_hash: str | None = None
    unresolved: tuple[str, ...] = ()
    outcome: Resource | None = None
    task_id: str | None = None
    task_status: TaskStatus | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """How an attempt ended: what becomes of the entry.

    `version` is the one that was attempted. Where a newer one was queued meanwhile, what is learnt of the destination
    (`server_id`, `content_hash` ...) is kept and the entry is queued again.
    """

    state: State
    version: int
    attempts: int = 0
    uncertain: bool = False
    next_attempt_at: datetime | None = None
    server_id: str | None = None
    delivered_version: int | None = None
    committed_at: datetime | None = None
    accepted_at: datetime | None = None
    content_hash: str | None = None
    unresolved: tuple[str, ...] = field(default=())
    outcome: Resource | None = None
