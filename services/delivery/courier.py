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
from typing import TYPE_CHECKING, Final, Literal

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
)
from services.delivery.tasks import OPEN, status_of, task_of
from shared.fhir.content import content_hash
from shared.fhir.freshness import Freshness, as_words
from shared.fhir.json import Resource, parse
from shared.fhir.outcome import Issue, operation_outcome
from shared.runtime.pauses import pause
from shared.runtime.raising import own_work
from shared.runtime.record import Record, open_record
from shared.security.notice import with_notice
from shared.store.access import Access
from shared.store.connection import retry_conflicts
from shared.store.disclosures import Decision, Disclosures, Request
from shared.store.knowledge import ages_of_consents
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
        news: after which news of consents that was too old is looked at again.
        consents: between looks for consents that began or ended by the clock.

    """

    answer: float = 10.0
    reference: float = 30.0
    shown: float = 5.0
    look_again: float = 0.3
    housekeeping: float = 2.0
    news: float = 2.0
    consents: float = 10.0


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

    `moved` counts what the destination took, or need not take. `late` says which news of consents is too old to go on.
    """

    again_in: float | None = None
    outage: str | None = None
    asked: float = 0.0
    moved: int = 0
    late: str | None = None


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What is done next for an entry: what the consents say, what would be sent, and its row in the record."""

    decision: Decision | None
    step: Step
    sent: Resource | None = None
    new_hash: str | None = None
    number: int | None = None


@dataclass(slots=True)
class Courier:
    """Takes the queues of one destination there."""

    service: Service
    store: Store
    destination: Destination
    server: DestinationServer
    own_base: str
    news: Freshness
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
                    ends.append((parcel, replace(_kept(parcel.entry), state=_without_patient(parcel, known))))
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
        """Do what the rules say until the entry is settled or the destination does not go along.

        What the consents say is asked anew before each request that tells of a resource. That something is in error or
        gone is told to who has it, whatever they say: it tells nothing new.
        """
        entry = parcel.entry
        TRACE.set(parcel.traceparent)
        numbers: list[int] = []
        try:
            while True:
                attempt = await self._attempt(replace(parcel, entry=entry), known)
                if attempt is None:
                    turn.again_in, turn.late = self.patience.news, self.late
                    return _kept(entry)
                if attempt.decision is not None and not attempt.decision.permitted:
                    return replace(_kept(entry), state="held", outcome=None)
                if attempt.number is not None:
                    numbers.append(attempt.number)
                if self._only_links(entry):
                    return await self._link(parcel, numbers)
                if attempt.step.action not in {"find", "compare"}:
                    break
                entry = await (self._found(entry) if attempt.step.action == "find" else self._compared(entry))
            answer = await self._done(attempt.step, entry, attempt.sent)
        except NoAnswer as lost:
            if not lost.uncertain:
                await self._turned_down(numbers)
            return _again(entry, turn, lost.outcome, uncertain=entry.uncertain or lost.uncertain, outage=str(lost))
        except CannotAsk as silent:
            return replace(_kept(entry), state="refused", outcome=silent.outcome)
        masked = frozenset() if attempt.decision is None else frozenset(Target(*one) for one in attempt.decision.hidden)
        if answer is None:
            return self._rested(entry, attempt.step, unresolved | masked)
        verdict = judge(answer.status)
        if not verdict.uncertain and verdict.meaning != "accepted":
            await self._turned_down(numbers)
        if verdict.meaning == "accepted":
            return self._accepted(entry, attempt.step, answer.server_id, attempt.new_hash, unresolved | masked)
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

    async def _attempt(self, parcel: _Parcel, known: Mapping[Target, Entry]) -> _Attempt | None:
        """Return what comes next, by the consents as they are known now; None where that knowledge may be too old.

        What tells of the resource, or is not permitted, is written down in the transaction that asks.
        """
        entry, resource = parcel.entry, parcel.resource
        if resource is None:
            return _Attempt(None, next_step(entry, self.accepted, None))
        async with self.store.transaction(keys=(), tenant=entry.tenant) as transaction:
            heard = await ages_of_consents(
                transaction.connection, self.service.name, self.news.of, entry.tenant, entry.key
            )
            if unheard := self.news.too_old(heard):
                self.late = f"Waits: what is known of consent may be too old ({as_words(unheard)})."
                return None
            disclosures = Disclosures(transaction)
            if await disclosures.sends_to(entry.destination) != self.destination.address:
                self.late = "Waits: the Endpoint was changed."
                return None
            targets = [(target.type, target.id) for target in parcel.targets]
            decision = await disclosures.decide(entry, targets)
            sent = self._outbound(resource, known, decision) if decision.permitted else None
            new_hash = None if sent is None else content_hash(sent)
            step = next_step(entry, self.accepted, new_hash)
            request: Request
            match step.action:
                case _ if self._only_links(entry):
                    request = "match"
                case "find" | "compare" | "create" | "update":
                    request = step.action
                case _ if decision.permitted:
                    return _Attempt(decision, step, sent, new_hash)
                case _:
                    request = "create" if entry.server_id is None else "update"
            oldest = max((seconds for seconds in heard.values() if seconds is not None), default=None)
            number = await disclosures.note(
                entry, decision, request, redacted=bool(decision.hidden), known_seconds=oldest
            )
        return _Attempt(decision, step, sent, new_hash, number)

    async def _turned_down(self, numbers: Sequence[int]) -> None:
        """Write down that the destination took none of these requests; lost with the process, it is not known."""
        if numbers:
            async with self.store.transaction(keys=(), tenant=self.destination.tenant) as transaction:
                await Disclosures(transaction).refused(numbers)

    def _outbound(self, resource: Resource, known: Mapping[Target, Entry], decision: Decision) -> Resource:
        def resolve(target: Target) -> str | None:
            entry = known.get(target)
            return None if entry is None or entry.state == "withdrawn" else entry.server_id

        hidden = frozenset(Target(*one) for one in decision.hidden)
        sent = outbound(resource, resolve, own_base=self.own_base, hidden=hidden)
        return with_notice(sent, decision.behind, own_base=self.own_base) if decision.part_2 else sent

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

    async def _link(self, parcel: _Parcel, numbers: Sequence[int]) -> Settled:
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
            await self._turned_down(numbers)
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
            if not await ledger.is_at(self.destination):
                return  # what this server said is not known of the one that is there now: all is queued for that
            updatable = [type_ for type_ in self.destination.types if self.accepted.can("update", type_)]
            for parcel, ended in ends:
                end = ended
                if end.state == "held" and await self._permitted_now(record, parcel):
                    end = _kept(parcel.entry)  # a consent came in between
                entry = await ledger.settle(self.destination.id, parcel.entry.type, parcel.entry.id, end)
                if end.state == "accepted":
                    await Disclosures(record.transaction).arrived(parcel.entry)
                if end.state == "accepted" and parcel.entry.server_id is None:
                    await ledger.release(self.destination.id, key, str(parcel.own), updatable=updatable)
                if entry.state == "held" and parcel.own.type == "Patient":
                    await ledger.take_up_waiting(self.destination.id, key)
                if _is_news(parcel.entry, entry):
                    await self._write_task(record, ledger, entry)

    async def _permitted_now(self, record: Record, parcel: _Parcel) -> bool:
        """Tell whether a consent came in between: under the lock of the patient's record none does any more."""
        asked = [parcel.entry]
        if parcel.patient is not None:
            named = (parcel.patient.type, parcel.patient.id)
            found = await Ledger(record.transaction).find(self.destination.id, [named])
            asked += [one for one in found.values() if one.state == "held"]
        disclosures = Disclosures(record.transaction)
        return all([(await disclosures.decide(one)).permitted for one in asked])

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


def _without_patient(parcel: _Parcel, known: Mapping[Target, Entry]) -> Literal["waiting", "held"]:
    """Return the state of what cannot go as long as its patient is not there."""
    patient = None if parcel.patient is None else known.get(parcel.patient)
    return "held" if patient is not None and patient.state == "held" else "waiting"


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
