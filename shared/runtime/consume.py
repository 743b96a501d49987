"""Taking events in: inbox, copy, reactions and what they write, in one transaction for an event or for several."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import structlog

from shared.events.claims import Piece, piece_of
from shared.events.codec import read_again
from shared.events.envelope import Event
from shared.events.handler import Outcome, Position
from shared.events.watermark import Watermark
from shared.fhir.extraction import extract
from shared.fhir.ids import subject_uuid
from shared.fhir.index import IndexRows
from shared.fhir.json import Resource, parse
from shared.fhir.outcome import Unavailable
from shared.runtime.logging import fault
from shared.runtime.record import Record
from shared.runtime.service import Service
from shared.store.access import Access
from shared.store.connection import retry_conflicts
from shared.store.copies import Copy
from shared.store.parking import DueEvent
from shared.store.store import Store, Transaction

LARGE: Final = 64 * 1024
"""Bytes of a body from which on it is parsed in a thread, so that no heartbeat is missed."""

_LOOK_SECONDS: Final = 2.0
_BEHIND: Final = "an earlier event of this key is parked"

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class NotRedeemed(Exception):
    """An event came whose body, ahead of it, did not, or not all of it."""


@dataclass(frozen=True, slots=True)
class ServiceEvents:
    """The `EventHandler` of a service: keeps copies of the types it holds and runs its reactions.

    Events of other types pass by; that they did is remembered, for the position along their key moves on.
    """

    service: Service
    store: Store

    async def handle(self, event: Event, position: Position) -> Outcome:
        """Take the event in and commit, or change nothing."""
        whole = await self._whole(event)
        alone = event.replay is None and event.type not in self.service.leaves
        read = await self._read(whole) if alone else (await self._read_many([whole]))[0]
        outcome = await retry_conflicts(lambda: self._handle(whole, position, read, claimed=event.claim is not None))
        self.store.inbox.moved([event])
        return outcome

    async def _handle(
        self, event: Event, position: Position, read: tuple[Resource, IndexRows] | None, *, claimed: bool
    ) -> Outcome:
        consumer = self.service.name
        if read is None and not claimed:
            passed = await self._pass_by([event])
            if passed is not None:
                return passed[0]
        async with self.store.transaction(keys=(event.key,), tenant=event.tenant) as transaction:
            if claimed:
                await transaction.release(consumer, event)
            if await transaction.waits_behind(consumer, event):
                if await transaction.applied(consumer, [event]):
                    return Outcome.DUPLICATE
                await _park(transaction, consumer, event, position, _BEHIND)
                return Outcome.WAITING
            if not await transaction.take_in(consumer, event):
                return Outcome.DUPLICATE
            if read is not None:
                await self.apply(event, *read, transaction)
        return Outcome.APPLIED

    async def handle_many(self, events: Sequence[Event], positions: Sequence[Position]) -> list[Outcome]:
        """Take in events of one tenant and commit them together, or change nothing."""
        reads = await self._read_many(events)
        outcomes = await retry_conflicts(lambda: self._handle_many(events, positions, reads))
        self.store.inbox.moved(events)
        return outcomes

    async def _handle_many(
        self,
        events: Sequence[Event],
        positions: Sequence[Position],
        reads: Sequence[tuple[Resource, IndexRows] | None],
    ) -> list[Outcome]:
        if not any(reads):
            passed = await self._pass_by(events)
            if passed is not None:
                return passed
        consumer = self.service.name
        keys = {event.key for event in events}
        outcomes: list[Outcome] = []
        copies: list[Copy] = []
        async with self.store.transaction(keys=tuple(keys), tenant=events[0].tenant) as transaction:
            behind = await transaction.keys_with_parked(consumer, keys)
            waiting = [event for event in events if event.key in behind]
            repeats = await transaction.applied(consumer, waiting) if waiting else set()
            fresh = iter(
                await transaction.take_in_many(consumer, [event for event in events if event.key not in behind])
            )
            for event, position, read in zip(events, positions, reads, strict=True):
                if (event.source, event.id) in repeats:
                    outcomes.append(Outcome.DUPLICATE)
                elif event.key in behind:
                    await _park(transaction, consumer, event, position, _BEHIND)
                    outcomes.append(Outcome.WAITING)
                elif not next(fresh):
                    outcomes.append(Outcome.DUPLICATE)
                else:
                    outcomes.append(Outcome.APPLIED)
                    if read is None:
                        continue
                    resource, index = read
                    copies.append(_copy(event, index))
                    if event.type in self.service.reactions:
                        # A reaction sees all that came before it, and nothing that came after.
                        await transaction.apply_copies(copies)
                        copies = []
                        await self._react(event, resource, transaction)
            if copies:
                await transaction.apply_copies(copies)
        return outcomes

    async def _pass_by(self, events: Sequence[Event]) -> list[Outcome] | None:
        """Note events that change nothing here; None where they may have to wait behind one that is parked."""
        fresh = await self.store.pass_by(self.service.name, events)
        return None if fresh is None else [Outcome.APPLIED if one else Outcome.DUPLICATE for one in fresh]

    async def apply(self, event: Event, resource: Resource, index: IndexRows, transaction: Transaction) -> None:
        """Store the copy and run the reactions, in the transaction that takes the event in.

        The reactions run whether or not the copy was new: the gateway may hold it already, by the answer to a write it
        forwarded.
        """
        copy = _copy(event, index)
        await transaction.apply_copy(event, index, copy.patient)
        await self._react(event, resource, transaction)

    async def _react(self, event: Event, resource: Resource, transaction: Transaction) -> None:
        reactions = self.service.reactions.get(event.type, ())
        if not reactions:
            return
        record = Record(
            self.service,
            transaction,
            Access.unrestricted(event.tenant),
            request_id=event.request_id,
            traceparent=event.traceparent,
        )
        for react in reactions:
            await react(event, resource, record)

    async def deposit(self, piece: Piece) -> None:
        """Keep a piece of a body that is ahead of its event, where the event's resource will be kept."""
        if piece.source in self.service.consumes and piece.type in self.service.holds:
            await self.store.claims.deposit(self.service.name, piece)

    async def _whole(self, event: Event) -> Event:
        """Return the event with its body, where that came ahead of it; as it is where it needs none here.

        Raises:
            NotRedeemed: the body did not come, and the event was not applied before.

        """
        if event.claim is None or not self._holds(event):
            return event
        body = await self.store.claims.redeem(self.service.name, event)
        if body is not None:
            return replace(event, body=body, claim=None)
        async with self.store.transaction(keys=(), tenant=event.tenant) as transaction:
            if await transaction.applied(self.service.name, [event]):
                return event
        raise NotRedeemed(
            f"Of the body of {event.id}, {event.claim.bytes} bytes in {event.claim.pieces} pieces, not all came. "
            f"./kap replay {event.source} brings it again; then retry."
        )

    async def park(self, event: Event, position: Position, error: str) -> None:
        """Store an event that could not be applied; later ones of its key wait behind it."""
        async with self.store.transaction(keys=(event.key,), tenant=event.tenant) as transaction:
            await _park(transaction, self.service.name, event, position, error)

    async def parked(self) -> Mapping[tuple[str, int], int]:
        """Return how many events are parked, waiting ones included, by topic and partition."""
        return await self.store.parking.counts(self.service.name)

    async def hear(self, watermarks: Sequence[Watermark]) -> None:
        """Note how far others have told everything."""
        await self.store.knowledge.hear(self.service.name, watermarks)

    async def measured(self, lags: Mapping[tuple[str, int], int]) -> None:
        """Note how many events wait in the partitions that this process takes in."""
        await self.store.knowledge.measured(self.service.name, lags)

    async def take_up(self) -> int:
        """Apply the parked events that a person has marked as due; return how many were applied.

        One that fails again waits for a person once more, and with it those behind it.

        Raises:
            Unavailable: not now.

        """
        applied = 0
        failed: set[tuple[str, str]] = set()
        for due in await self.store.parking.due(self.service.name):
            along = (due.event.tenant, due.event.key)
            if along in failed:
                continue
            try:
                if await self._piece_again(due):
                    continue
                event = read_again(due.event)
                whole = await self._whole(event)
                read = await self._read(whole)
                await retry_conflicts(partial(self._take_up, due.parked.number, whole, read))
                applied += 1
            except Unavailable:
                raise
            except Exception as error:  # noqa: BLE001 - the event's fault or ours: a person decides
                _log.error(
                    "parked_event_failed_again", service=self.service.name, number=due.parked.number, **fault(error)
                )
                await self.store.parking.failed(due.parked.number, f"{type(error).__name__}: {error}")
                failed.add(along)
        return applied

    async def _piece_again(self, due: DueEvent) -> bool:
        """Deposit a piece that an older program parked as a record it could not read; False where it is none."""
        piece = piece_of(due.event.body, due.event.unread)
        if piece is None:
            return False
        await self.deposit(piece)
        async with self.store.transaction(keys=(due.event.key,), tenant=due.event.tenant) as transaction:
            await transaction.take_up(due.parked.number)
        return True

    async def _take_up(self, number: int, event: Event, read: tuple[Resource, IndexRows] | None) -> None:
        async with self.store.transaction(keys=(event.key,), tenant=event.tenant) as transaction:
            if not await transaction.take_up(number):
                return
            await transaction.release(self.service.name, event)
            if await transaction.take_in(self.service.name, event) and read is not None:
                await self.apply(event, *read, transaction)

    async def take_up_forever(self, beat: Callable[[], None]) -> None:
        """Look for due events every `_LOOK_SECONDS`, until cancelled."""
        while True:
            try:
                await self.take_up()
            except Unavailable:
                _log.warning("database_away", service=self.service.name)
            beat()
            await asyncio.sleep(_LOOK_SECONDS)

    async def _read_many(self, events: Sequence[Event]) -> list[tuple[Resource, IndexRows] | None]:
        """Return what is to be stored of each event, None where there is nothing left to do with it."""
        plain = [
            event
            for event in events
            if self._holds(event) and (event.replay is not None or event.type not in self.service.reactions)
        ]
        held = await self.store.held(plain[0].tenant, plain) if plain else set()
        left = await self._left(events)
        reads: list[tuple[Resource, IndexRows] | None] = []
        for event in events:
            if (event.source, event.id) in left:
                reads.append(None)
                continue
            # At the gateway by the answer to a write that it forwarded; of what is replayed, by its first time, which
            # the inbox may have forgotten: copy and reactions were committed together, so they are not to run again.
            if (event.source, event.id) in held:
                reads.append(None)
                continue
            reads.append(await self._read(event))
            await asyncio.sleep(0)  # what else runs in this process is not to wait for all of them
        return reads

    async def _left(self, events: Sequence[Event]) -> set[tuple[str, str]]:
        """Return (source, id) of the events that are left (`Service.leaves`): of what is not held in any version."""
        asked = [
            event
            for event in events
            if event.type in self.service.leaves and event.interaction != "delete" and self._holds(event)
        ]
        found = [event for event in asked if self.service.leaves[event.type](parse(event.body))]
        if not found:
            return set()
        known = await self.store.known(found[0].tenant, found)
        # What comes before it in the same batch may be what is held of it from then on.
        kept = {(event.type, event.resource_id) for event in asked if event not in found}
        return {(event.source, event.id) for event in found if (event.type, event.resource_id) not in known | kept}

    def _holds(self, event: Event) -> bool:
        return event.source in self.service.consumes and event.type in self.service.holds

    async def _read(self, event: Event) -> tuple[Resource, IndexRows] | None:
        """Return what is to be stored of the event, None where its type is not held here."""
        if not self._holds(event):
            return None
        if len(event.body) < LARGE:
            return self._parsed(event)
        return await asyncio.to_thread(self._parsed, event)

    def _parsed(self, event: Event) -> tuple[Resource, IndexRows]:
        resource = parse(event.body)
        searched = self.service.searches_copies and event.interaction != "delete"
        return resource, extract(resource) if searched else IndexRows()


def _copy(event: Event, index: IndexRows) -> Copy:
    patient = event.patient
    return Copy(event, index, None if patient is None else subject_uuid(patient.removeprefix("Patient/")))


async def _park(transaction: Transaction, consumer: str, event: Event, position: Position, error: str) -> None:
    await transaction.park(
        consumer,
        event,
        topic=position.topic,
        partition=position.partition,
        offset=position.offset,
        error=error,
    )
