"""What an owner's answer left, put into the gateway's copy before it is answered: a caller reads what he wrote."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from services.gateway.catalog import TYPES
from services.gateway.owners import Answered, Owners
from shared.events.envelope import Event, Interaction
from shared.events.shards import shard_of
from shared.fhir.dates import interval
from shared.fhir.extraction import compartment_key, extract, labels_of
from shared.fhir.ids import subject_uuid
from shared.fhir.index import IndexRows
from shared.fhir.json import Resource, parse
from shared.fhir.outcome import FhirError, Unavailable
from shared.http.backend import Position, WriteResult
from shared.http.body import LARGE
from shared.http.negotiation import etag, version_of_etag
from shared.http.provenance import KEPT_AS
from shared.security.glass import OPERATION
from shared.store.body import join, parts
from shared.store.connection import retry_conflicts
from shared.store.copies import Copy
from shared.store.types import Stored

if TYPE_CHECKING:
    from shared.http.backend import RequestContext
    from shared.runtime.service import OperationCall
    from shared.store.store import Store

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

EVENT_SECONDS: Final = 2.0
"""How long an answer may wait for the event of what it tells of, where the answer itself is not the whole of it."""


@dataclass(frozen=True, slots=True)
class Left:
    """A version that an owner's answer told of: `resource` is its parsed body, None of a deletion; `key` its record."""

    stored: Stored
    resource: Resource | None
    key: str


def stored_of(resource: Resource, body: bytes, owner: str, interaction: Interaction) -> Stored:
    """Return a version as the owner holds it."""
    meta = resource["meta"]
    return Stored(
        type=str(resource["resourceType"]),
        id=str(resource["id"]),
        version=int(meta["versionId"]),
        last_updated=datetime.fromisoformat(meta["lastUpdated"]),
        deleted=interaction == "delete",
        body=body,
        origin=owner,
        interaction=interaction,
    )


def left_of(body: bytes, owner: str) -> Left:
    """Return a version that an owner answered with. A first version was created, any other is an update."""
    resource: Resource = parse(body)
    first = resource["meta"]["versionId"] == "1"
    stored = stored_of(resource, body, owner, "create" if first else "update")
    return Left(stored, resource, compartment_key(resource, stored.type, stored.id))


def deletion_of(type_: str, id_: str, version: int, when: datetime, owner: str, key: str) -> Left:
    """Return a deletion as the owner holds it."""
    head, tail = parts(type_, id_, None)
    body = join(head, version, when, tail)
    return Left(stored_of(parse(body), body, owner, "delete"), None, key)


class Copies:
    """Puts answers into the copy."""

    def __init__(self, service: str, store: Store, owners: Owners) -> None:
        self._service = service
        self._store = store
        self._owners = owners

    async def written(self, owner: str, answer: Answered, context: RequestContext) -> WriteResult:
        """Put in what a create, update or patch left, also where a condition found what was there already."""
        left = left_of(answer.body, owner)
        await self.apply((left,), answer.positions, context)
        return WriteResult(left.stored, answer.status == 201, answer.positions, answer.headers.get(KEPT_AS))

    async def gone(
        self, owner: str, answer: Answered, context: RequestContext, type_: str, id_: str
    ) -> WriteResult | None:
        """Put in a deletion, with the owner's time, which only its history tells; None where nothing was deleted."""
        if not answer.positions or "etag" not in answer.headers:
            return None
        version = version_of_etag(answer.headers["etag"])
        when = await self._deleted_at(owner, type_, id_, version, context)
        key = next(one.key for one in answer.positions if one.service == owner)
        left = deletion_of(type_, id_, version, when or datetime.now(UTC), owner, key)
        if when is None:
            await self.taken_in(answer.positions)
        else:
            await self.apply((left,), answer.positions, context)
        return WriteResult(
            left.stored, created=False, positions=answer.positions, provenance=answer.headers.get(KEPT_AS)
        )

    async def also(self, owner: str, provenance: str, answer: Answered, context: RequestContext) -> None:
        """Put in the Provenance that was kept with a write, as its owner holds it."""
        try:
            held = await self._owners.send(owner, "GET", provenance, context)
        except FhirError:  # it was kept all the same; the event tells the rest
            return
        await self.apply((left_of(held.body, owner),), answer.positions, context)

    async def _deleted_at(
        self, owner: str, type_: str, id_: str, version: int, context: RequestContext
    ) -> datetime | None:
        try:
            answer = await self._owners.send(owner, "GET", f"{type_}/{id_}/_history?_count=5", context)
        except FhirError:
            return None
        for entry in parse(answer.body).get("entry", ()):
            response = entry.get("response", {})
            if "resource" not in entry and response.get("etag") == etag(version):
                return interval(response["lastModified"])[0]
        return None

    async def read_back(self, owner: str, answer: Answered, context: RequestContext, call: OperationCall) -> None:
        """Put in the resource that an operation answered with, or (of `$meta-add`) changed, as its owner holds it."""
        said = parse(answer.body) if answer.body else None
        if not answer.positions or not isinstance(said, dict):
            return
        type_, id_ = said.get("resourceType"), said.get("id")
        if call.name in {"meta-add", "meta-delete"}:
            type_, id_ = call.type, call.id
        if call.name == OPERATION:  # whose caller may not read what he is answered again
            await self.apply((left_of(answer.body, owner),), answer.positions, context)
            return
        if type_ not in TYPES or not isinstance(id_, str):
            return
        try:
            held = await self._owners.send(owner, "GET", f"{type_}/{id_}", context)
        except FhirError:  # it was done all the same; the event tells the rest
            return
        await self.apply((left_of(held.body, owner),), answer.positions, context)

    async def apply(self, several: Sequence[Left], positions: tuple[Position, ...], context: RequestContext) -> None:
        """Store an owner's versions as their events will; without the database they are left to the events."""
        size = sum(len(left.stored.body) for left in several)
        copies = _copies(several, positions, context)
        made = list(copies) if size < LARGE else await asyncio.to_thread(list, copies)
        try:
            if len(made) == 1:
                await retry_conflicts(partial(self._store.apply_copy, made[0].event, made[0].index, made[0].patient))
            elif made:
                await retry_conflicts(partial(self._together, made, context.access.tenant))
        except Unavailable:
            _log.warning("answer_not_applied", versions=len(made), request_id=context.request_id)

    async def _together(self, copies: Sequence[Copy], tenant: str) -> None:
        keys = sorted({copy.event.key for copy in copies})
        async with self._store.transaction(keys=keys, tenant=tenant) as transaction:
            await transaction.apply_copies(copies)

    async def taken_in(self, positions: tuple[Position, ...]) -> None:
        """Wait a while until the events up to `positions` were taken in."""
        await asyncio.gather(
            *(
                self._store.inbox.await_position(
                    self._service, one.service, one.tenant, one.key, one.sequence, EVENT_SECONDS
                )
                for one in positions
            )
        )


def _copies(several: Sequence[Left], positions: tuple[Position, ...], context: RequestContext) -> Iterator[Copy]:
    tenant = context.access.tenant
    sequences: dict[str, int] = {}
    for one in positions:
        sequences[one.key] = max(one.sequence, sequences.get(one.key, 0))
    for left in several:
        stored, resource = left.stored, left.resource
        event = Event(
            id=f"{stored.type}/{stored.id}/{stored.version}",
            source=stored.origin,
            interaction=stored.interaction,
            type=stored.type,
            resource_id=stored.id,
            version=stored.version,
            time=stored.last_updated,
            tenant=tenant,
            key=left.key,
            shard=shard_of(tenant, left.key),
            sequence=sequences.get(left.key, 0),
            body=stored.body,
            labels=() if resource is None else labels_of(resource),
            request_id=context.request_id,
            traceparent=context.traceparent,
        )
        patient = None if event.patient is None else subject_uuid(event.patient.removeprefix("Patient/"))
        yield Copy(event, IndexRows() if resource is None else extract(resource), patient)
