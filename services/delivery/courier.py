"""The way of resources into one destination: several patients at once, each patient's in order.

What happens to a patient's queue is one turn: it is taken from the ledger (from then on its end counts as uncertain),
sent one after the other as `rules.choose` says, and what became of each is written down together with its Task. A
process that is killed in between leaves entries that are "sending"; the next one asks the destination before it sends
them again.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
from prometheus_client import Histogram

from services.delivery.capability import Accepted
from services.delivery.destination import TRACE, Answer, DestinationServer, NoAnswer
from services.delivery.mapping import Target, outbound, targets_of, withdrawn
from services.delivery.rules import (
    MOST_ATTEMPTS,
    Candidate,
    Choice,
    Standing,
    Step,
    choose,
    is_withheld,
    judge,
    next_step,
    pause,
)
from services.delivery.tasks import OPEN, status_of, task_of
from shared.fhir.content import content_hash
from shared.fhir.json import Resource, parse
from shared.fhir.outcome import Issue, operation_outcome
from shared.runtime.raising import own_work
from shared.runtime.record import Record, open_record
from shared.store.access import Access
from shared.store.connection import retry_conflicts
from shared.store.ledger import Ledger
from shared.store.ledger_types import PENDING, Destination, Entry, Settled

if TYPE_CHECKING:
    from shared.runtime.service import Service
    from shared.store.store import Store, Transaction

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

DELAY: Final = Histogram(
    "kap_delivery_delay_seconds",
    "From a change's commit at its owner to its acceptance by a destination",
    ("service",),
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600, 86400),
)

MOST_OF_A_TURN: Final = 500
"""Entries of one patient that are taken at once."""

WRITTEN_DOWN_EVERY: Final = 20
"""Entries after which a turn writes down what became of them."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Times, in seconds.

    Attributes:
        answer: how long an answer of a destination is waited for.
        reference: how long a resource waits for one it refers to before it goes with a logical reference.
        shown: how long a resource may wait before a Task shows it.
        look_again: after which a patient's queue that could not go on is looked at again.
        housekeeping: between looks for what a dead process left behind, and for what people should see.

    """

    answer: float = 10.0
    reference: float = 30.0
    shown: float = 5.0
    look_again: float = 0.3
    housekeeping: float = 2.0


@dataclass(slots=True)
class _Parcel:
    """An entry of this turn and what it says."""

    entry: Entry
    resource: Resource | None
    targets: frozenset[Target]
    traceparent: str | None
    """Of the request that caused the version that is sent."""

    @property
    def own(self) -> Target:
        return Target(self.entry.type, self.entry.id)

    @property
    def patient(self) -> Target | None:
        key = self.entry.key
        if self.entry.type == "Patient" or not key.startswith("Patient/"):
            return None
        if self.resource is None and self.entry.server_id is None and not self.entry.uncertain:
            return None  # nothing is there and nothing will be: it waits for nobody
        return Target("Patient", key.removeprefix("Patient/"))


@dataclass(slots=True)
class Turn:
    """What a turn came to: when the patient is due again (None: at once), and whether the destination is away.

    `moved` counts what the destination took, or need not take.
    """

    again_in: float | None = None
    outage: str | None = None
    asked: float = 0.0
    moved: int = 0


@dataclass(slots=True)
class Courier:
    """Takes the queues of one destination there."""

    service: Service
    store: Store
    destination: Destination
    server: DestinationServer
    own_base: str
    patience: Patience = field(default_factory=Patience)
    accepted: Accepted = field(default_factory=Accepted)
    late: str | None = None
    """Why nothing may be disclosed now, for the Tasks that show what waits; None: it may."""

    async def turn(self, key: str) -> Turn:
        """Send what is queued of one key (``Patient/<id>``); return when to come back.

        Raises:
            Unavailable: our own database does not answer; what was sent is then found again by its identifier.

        """
        parcels = await self._taken(key)
        known = await self._standings(parcels)
        left = {parcel.own: parcel for parcel in parcels}
        turn = Turn()
        ends: list[tuple[_Parcel, Settled]] = []
        while left and turn.again_in is None:
            chosen = choose([self._candidate(one) for one in left.values()], partial(self._standing, known))
            if not isinstance(chosen, Choice):
                for one in chosen.without_patient:
                    parcel = left.pop(one.own)
                    ends.append((parcel, replace(_kept(parcel.entry), state="waiting")))
                turn.again_in = self.patience.look_again if left else None
                break
            parcel = left.pop(chosen.candidate.own)
            end = await self._send(parcel, known, chosen.unresolved, turn)
            ends.append((parcel, end))
            known[parcel.own] = _as_settled(parcel.entry, end)
            turn.moved += end.state not in PENDING
            if len(ends) >= WRITTEN_DOWN_EVERY:
                await self._write_down(key, ends)
                ends = []
        ends.extend((parcel, _kept(parcel.entry)) for parcel in left.values())
        if ends:
            await self._write_down(key, ends)
        return turn

    async def show_waiting(self, *, limit: int = 50) -> int:
        """Write Tasks for what waits for so long that people should see it; return how many."""
        before = datetime.now(UTC) - timedelta(seconds=self.patience.shown)
        async with self.store.transaction(keys=(), tenant=self.destination.tenant) as transaction:
            waiting = await Ledger(transaction).unshown(self.destination.id, before=before, limit=limit)
        by_key: dict[str, list[Entry]] = {}
        for entry in waiting:
            by_key.setdefault(entry.key, []).append(entry)
        for key, entries in by_key.items():
            await retry_conflicts(partial(self._show, key, entries))
        return len(waiting)

    async def _show(self, key: str, entries: Sequence[Entry]) -> None:
        async with self._record(key) as record:
            ledger = Ledger(record.transaction)
            now = await ledger.find(self.destination.id, [(entry.type, entry.id) for entry in entries])
            for entry in now.values():
                if entry.state in {"queued", "waiting"} and entry.task_status not in OPEN:
                    await self._write_task(record, ledger, entry)

    # What is in a turn

    async def _taken(self, key: str) -> list[_Parcel]:
        async with self.store.transaction(keys=(), tenant=self.destination.tenant) as transaction:
            entries = await Ledger(transaction).take(self.destination.id, key, limit=MOST_OF_A_TURN)
            return [await _parcel(entry, transaction) for entry in entries]

    async def _standings(self, parcels: Sequence[_Parcel]) -> dict[Target, Entry]:
        targets = {target for parcel in parcels for target in parcel.targets}
        targets |= {parcel.patient for parcel in parcels if parcel.patient is not None}
        own = {parcel.own: parcel.entry for parcel in parcels}
        others = [(target.type, target.id) for target in targets - own.keys()]
        if not others:
            return own
        async with self.store.transaction(keys=(), tenant=self.destination.tenant) as transaction:
            found = await Ledger(transaction).find(self.destination.id, others)
        return own | {Target(type_, id_): entry for (type_, id_), entry in found.items()}

    def _candidate(self, parcel: _Parcel) -> Candidate:
        waited = (datetime.now(UTC) - parcel.entry.queued_at).total_seconds()
        return Candidate(
            parcel.own,
            parcel.entry.place,
            parcel.targets,
            parcel.patient,
            impatient=waited > self.patience.reference,
        )

    def _standing(self, known: Mapping[Target, Entry], target: Target) -> Standing:
        entry = known.get(target)
        if entry is None:
            return "unknown" if target.type in self.destination.types else "never"
        if entry.server_id is not None and entry.state != "withdrawn":
            return "there"
        return "coming" if entry.state in PENDING else "never"

    # Sending one

    async def _send(
        self, parcel: _Parcel, known: Mapping[Target, Entry], unresolved: frozenset[Target], turn: Turn
    ) -> Settled:
        """Do what the rules say until the entry is settled or the destination does not go along."""
        entry = parcel.entry
        TRACE.set(parcel.traceparent)
        sent = self._outbound(parcel, known)
        new_hash = None if sent is None else content_hash(sent)
        step = next_step(entry, self.accepted, new_hash)
        try:
            if self._only_links(entry):
                return await self._link(parcel)
            while step.action in {"find", "compare"}:
                entry = await self._found(entry) if step.action == "find" else await self._compared(entry)
                step = next_step(entry, self.accepted, new_hash)
            answer = await self._done(step, entry, sent)
        except NoAnswer as lost:
            return _again(entry, turn, lost.outcome, uncertain=entry.uncertain or lost.uncertain, outage=str(lost))
        except CannotAsk as silent:
            return replace(_kept(entry), state="refused", outcome=silent.outcome)
        if answer is None:
            return self._rested(entry, step, unresolved)
        verdict = judge(answer.status)
        if verdict.meaning == "accepted":
            return self._accepted(entry, step, answer.server_id, new_hash, unresolved)
        if verdict.meaning == "refused":
            return replace(_kept(entry), state="refused", attempts=entry.attempts + 1, outcome=answer.outcome)
        return _again(
            entry,
            turn,
            answer.outcome,
            uncertain=verdict.uncertain,
            outage=f"answered {answer.status}" if verdict.meaning == "outage" else None,
            asked=answer.retry_after,
        )

    def _outbound(self, parcel: _Parcel, known: Mapping[Target, Entry]) -> Resource | None:
        if parcel.resource is None:
            return None

        def resolve(target: Target) -> str | None:
            entry = known.get(target)
            return None if entry is None or entry.state == "withdrawn" else entry.server_id

        return outbound(parcel.resource, resolve, own_base=self.own_base)

    async def _done(self, step: Step, entry: Entry, sent: Resource | None) -> Answer | None:
        match step.action:
            case "create":
                return await self.server.create(sent or {})
            case "update":
                return await self.server.update(_with_id(sent or {}, entry.server_id))
            case "mark":
                held = await self.server.read(entry.type, entry.server_id or "")
                return Answer(200) if held is None else await self.server.update(withdrawn(held))
            case "delete":
                return await self.server.delete(entry.type, entry.server_id or "")
            case _:
                return None

    async def _found(self, entry: Entry) -> Entry:
        """Ask by identifier whether the destination has it from an attempt whose answer was lost."""
        if not self.accepted.can("search-type", entry.type):
            raise CannotAsk(entry.type)
        found = await self.server.find(entry.type, Target(entry.type, entry.id).identifier)
        if not found:
            return replace(entry, uncertain=False)
        if len(found) > 1:
            _log.warning("doubled_at_destination", destination=entry.destination, type=entry.type, count=len(found))
        held = found[0]
        return replace(entry, uncertain=False, server_id=held["id"], content_hash=content_hash(held))

    async def _compared(self, entry: Entry) -> Entry:
        """Ask whether the update whose answer was lost arrived."""
        held = await self.server.read(entry.type, entry.server_id or "")
        return replace(entry, uncertain=False, content_hash=None if held is None else content_hash(held))

    def _accepted(
        self, entry: Entry, step: Step, said_id: str | None, new_hash: str | None, unresolved: frozenset[Target]
    ) -> Settled:
        server_id = entry.server_id or said_id
        if server_id is None:  # accepted, but not said as what: it is asked for by its identifier
            return replace(_kept(entry), attempts=entry.attempts + 1, uncertain=True)
        accepted_at = datetime.now(UTC)
        DELAY.labels(self.service.name).observe(max((accepted_at - entry.wanted_at).total_seconds(), 0))
        return Settled(
            state=step.state,
            version=entry.wanted_version,
            server_id=None if step.action == "delete" else server_id,
            delivered_version=entry.wanted_version,
            committed_at=entry.wanted_at,
            accepted_at=accepted_at,
            content_hash=new_hash,
            unresolved=tuple(sorted(str(target) for target in unresolved)),
        )

    def _rested(self, entry: Entry, step: Step, unresolved: frozenset[Target]) -> Settled:
        if step.state == "accepted":
            return self._accepted(entry, step, None, entry.content_hash, unresolved)
        outcome = None
        if step.state in {"not-accepted", "superseded"}:
            refused = "create" if step.state == "not-accepted" else "update"
            said = f"The destination's CapabilityStatement offers no {refused} of {entry.type}."
            outcome = operation_outcome([Issue(said, code="not-supported")])
        return replace(_kept(entry), state=step.state, outcome=outcome)

    # A destination that says who its patients are

    def _only_links(self, entry: Entry) -> bool:
        return entry.type == "Patient" and not self.destination.creates_patients

    async def _link(self, parcel: _Parcel) -> Settled:
        """Find the patient there by an identifier both know; nothing of the patient is written there.

        Raises:
            NoAnswer: no usable answer.

        """
        entry = parcel.entry
        if parcel.resource is None:
            return replace(_kept(entry), state="withdrawn")
        matches: dict[str, Resource] = {}
        for identifier in parcel.resource.get("identifier", ()):
            if "system" in identifier and "value" in identifier:
                matches |= {one["id"]: one for one in await self.server.find("Patient", identifier)}
        if len(matches) != 1:
            said = "several patients" if matches else "no patient"
            issue = Issue(
                f"The destination knows {said} by the identifiers of this one, and is not given new ones. Somebody "
                "has to link the records: give the patient the destination's identifier, then $retry.",
                code="multiple-matches" if matches else "not-found",
            )
            return replace(_kept(entry), state="refused", outcome=operation_outcome([issue]))
        [(server_id, held)] = matches.items()
        return self._accepted(
            replace(entry, server_id=None), Step("rest", "accepted"), server_id, content_hash(held), frozenset()
        )

    # Writing it down

    async def _write_down(self, key: str, ends: Sequence[tuple[_Parcel, Settled]]) -> None:
        await retry_conflicts(lambda: self._write_down_once(key, ends))

    async def _write_down_once(self, key: str, ends: Sequence[tuple[_Parcel, Settled]]) -> None:
        async with self._record(key) as record:
            ledger = Ledger(record.transaction)
            updatable = [type_ for type_ in self.destination.types if self.accepted.can("update", type_)]
            for parcel, end in ends:
                entry = await ledger.settle(self.destination.id, parcel.entry.type, parcel.entry.id, end)
                if end.state == "accepted" and parcel.entry.server_id is None:
                    await ledger.release(self.destination.id, key, str(parcel.own), updatable=updatable)
                if _is_news(parcel.entry, entry):
                    await self._write_task(record, ledger, entry)

    async def _write_task(self, record: Record, ledger: Ledger, entry: Entry) -> None:
        task = task_of(entry, address=self.destination.address, now=datetime.now(UTC), late=self.late)
        with own_work():
            written = await (record.create(task) if entry.task_id is None else record.update(task))
        await ledger.show(entry, written.stored.id, status_of(entry.state, entry.attempts))

    def _record(self, key: str) -> AbstractAsyncContextManager[Record]:
        return open_record(self.service, self.store, Access.unrestricted(self.destination.tenant), keys=(key,))


class CannotAsk(Exception):
    """An attempt's end is unknown, and the destination lets nobody search for the type."""

    def __init__(self, type_: str) -> None:
        super().__init__(
            f"The answer to an attempt was lost, and the destination offers no search of {type_}. Somebody has to look "
            "up whether it is there. If it is not, $retry sends it."
        )

    @property
    def outcome(self) -> Resource:
        """As an OperationOutcome."""
        return operation_outcome([Issue(str(self), code="incomplete")])


async def _parcel(entry: Entry, transaction: Transaction) -> _Parcel:
    """Return an entry with the newest version of its resource."""
    held = await transaction.find(Access.unrestricted(entry.tenant), entry.type, entry.id)
    if held is None:
        raise LookupError(f"The ledger has a {entry.type} that is not held.")
    resource = None if held.deleted else parse(held.body)
    if resource is not None and is_withheld(resource):
        resource = None  # as if deleted: what is there of an earlier version is withdrawn
    newest = replace(entry, wanted_version=held.version, wanted_at=held.last_updated, deleted=resource is None)
    traceparent = await Ledger(transaction).traceparent_of(newest)
    return _Parcel(newest, resource, frozenset() if resource is None else targets_of(resource), traceparent)


def _kept(entry: Entry) -> Settled:
    """Return the end that leaves an entry as it was, queued."""
    return Settled(
        state="queued",
        version=entry.wanted_version,
        attempts=entry.attempts,
        uncertain=entry.uncertain,
        next_attempt_at=entry.next_attempt_at,
        server_id=entry.server_id,
        delivered_version=entry.delivered_version,
        committed_at=entry.committed_at,
        accepted_at=entry.accepted_at,
        content_hash=entry.content_hash,
        unresolved=entry.unresolved,
        outcome=entry.outcome,
    )


def _as_settled(entry: Entry, end: Settled) -> Entry:
    return replace(entry, state=end.state, server_id=end.server_id)


def _again(
    entry: Entry,
    turn: Turn,
    outcome: Resource | None,
    *,
    uncertain: bool,
    outage: str | None,
    asked: float = 0.0,
) -> Settled:
    """Return the end of an attempt that is to be made again; the turn ends with it, for order's sake."""
    attempts = entry.attempts + 1
    tried = replace(_kept(entry), attempts=attempts, uncertain=uncertain, outcome=outcome)
    if outage is None and attempts >= MOST_ATTEMPTS:
        return replace(tried, state="refused")
    wait = pause(attempts, random.random(), asked=asked)  # noqa: S311 - jitter, no secret
    turn.again_in, turn.outage, turn.asked = wait, outage, asked
    return replace(tried, next_attempt_at=datetime.now(UTC) + timedelta(seconds=wait))


def _with_id(sent: Resource, server_id: str | None) -> Resource:
    return {"resourceType": sent["resourceType"], "id": server_id, **sent}


def _is_news(before: Entry, after: Entry) -> bool:
    """Tell whether an entry changed in a way that people should see in its Task."""
    status = status_of(after.state, after.attempts)
    if status == "requested":  # what waits for longer is shown by `show_waiting`
        return False
    if after.state == "withdrawn" and after.task_id is None and after.delivered_version is None:
        return False
    if status != before.task_status:
        return True
    return status not in OPEN and (after.delivered_version, after.wanted_version, after.outcome) != (
        before.delivered_version,
        before.wanted_version,
        before.outcome,
    )
