"""Taking events in: inbox, copy, reactions and what they write, in one transaction for each event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from shared.events.envelope import Event
from shared.events.handler import Outcome, Position
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
from shared.store.parking import DueEvent
from shared.store.store import Store, Transaction

LARGE: Final = 64 * 1024
"""Bytes of a body from which on it is parsed in a thread, so that no heartbeat is missed."""

_LOOK_SECONDS: Final = 2.0

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ServiceEvents:
    """The `EventHandler` of a service: keeps copies of the types it holds and runs its reactions.

    Events of other types pass by; that they did is remembered, for the position along their key moves on.
    """

    service: Service
    store: Store

    async def handle(self, event: Event, position: Position) -> Outcome:
        """Take the event in and commit, or change nothing."""
        read = await self._read(event)
        return await retry_conflicts(lambda: self._handle(event, position, read))

    async def _handle(self, event: Event, position: Position, read: tuple[Resource, IndexRows] | None) -> Outcome:
        consumer = self.service.name
        async with self.store.transaction(keys=(event.key,), tenant=event.tenant) as transaction:
            if await transaction.waits_behind(consumer, event):
                await _park(transaction, consumer, event, position, "an earlier event of this key is parked")
                return Outcome.WAITING
            if not await transaction.take_in(consumer, event):
                return Outcome.DUPLICATE
            if read is not None:
                await self.apply(event, *read, transaction)
        return Outcome.APPLIED

    async def apply(self, event: Event, resource: Resource, index: IndexRows, transaction: Transaction) -> None:
        """Store the copy and run the reactions, in the transaction that takes the event in.

        The reactions run whether or not the copy was new: the gateway may hold it already, by the answer to a write it
        forwarded.
        """
        patient = event.patient
        await transaction.apply_copy(
            event, index, None if patient is None else subject_uuid(patient.removeprefix("Patient/"))
        )
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

    async def park(self, event: Event, position: Position, error: str) -> None:
        """Store an event that could not be applied; later ones of its key wait behind it."""
        async with self.store.transaction(keys=(event.key,), tenant=event.tenant) as transaction:
            await _park(transaction, self.service.name, event, position, error)

    async def parked(self) -> Mapping[tuple[str, int], int]:
        """Return how many events are parked, waiting ones included, by topic and partition."""
        return await self.store.parking.counts(self.service.name)

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
                read = await self._read(due.event)
                await retry_conflicts(partial(self._take_up, due, read))
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

    async def _take_up(self, due: DueEvent, read: tuple[Resource, IndexRows] | None) -> None:
        event = due.event
        async with self.store.transaction(keys=(event.key,), tenant=event.tenant) as transaction:
            if not await transaction.take_up(due.parked.number):
                return
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

    async def _read(self, event: Event) -> tuple[Resource, IndexRows] | None:
        """Return what is to be stored of the event, None where its type is not held here."""
        if event.source not in self.service.consumes or event.type not in self.service.holds:
            return None
        if len(event.body) < LARGE:
            return _parsed(event)
        return await asyncio.to_thread(_parsed, event)


async def _park(transaction: Transaction, consumer: str, event: Event, position: Position, error: str) -> None:
    await transaction.park(
        consumer,
        event,
        topic=position.topic,
        partition=position.partition,
        offset=position.offset,
        error=error,
    )


def _parsed(event: Event) -> tuple[Resource, IndexRows]:
    resource = parse(event.body)
    return resource, IndexRows() if event.interaction == "delete" else extract(resource)
