"""The gateway's `Backend`: reads from its own copy, writes to the owner, and what it wrote can be read at once.

A write goes to the owner of the resource with `X-Kap-Await`: the positions of the other owners that the gateway has
seen along the same record, so that the owner judges on nothing older than what the caller may have read here. The
owner's answer is put into the copy before it is given to the caller; the event that follows finds it there.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

import structlog

from services.gateway.catalog import OWN_TYPES, OWNERS, TYPES, owner_of_operation
from services.gateway.everything import everything
from services.gateway.operations import EVERYTHING
from services.gateway.owners import Answered, Owners
from services.gateway.routing import Unresolved, knowing, owner_of_new
from services.gateway.rules import awaits
from services.gateway.seen import Seen
from shared.events.envelope import Event, Interaction
from shared.events.shards import shard_of
from shared.fhir.dates import interval
from shared.fhir.extraction import compartment_key, extract, labels_of
from shared.fhir.ids import new_id, subject_uuid
from shared.fhir.index import IndexRows
from shared.fhir.json import Resource, dump, parse
from shared.fhir.outcome import FhirError, NotFound, Unavailable
from shared.http.backend import OperationResult, Position, WriteResult
from shared.http.body import LARGE
from shared.http.local import LocalBackend
from shared.http.negotiation import etag, version_of_etag
from shared.runtime.ownership import ALONE
from shared.runtime.record import valid
from shared.store.body import join, parts
from shared.store.connection import retry_conflicts
from shared.store.types import Stored

if TYPE_CHECKING:
    from shared.fhir.search import SearchQuery
    from shared.http.backend import RequestContext
    from shared.runtime.service import Operation, OperationCall, Service
    from shared.store.store import Store
    from shared.store.types import Page

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

EVENT_SECONDS: Final = 2.0
"""How long an answer may wait for the event of what it tells of, where the answer itself is not the whole of it."""

_POLL: Final = 0.01
_WHOLE: Final = {"Prefer": "return=representation"}


@dataclass(frozen=True, slots=True)
class GatewayBackend:
    """A `Backend` over the gateway's copy and the owners behind it."""

    service: Service
    store: Store
    owners: Owners
    seen: Seen = field(default_factory=Seen)

    @property
    def _local(self) -> LocalBackend:
        return LocalBackend(self.service, self.store)

    # Reading: the copy

    async def read(self, context: RequestContext, type_: str, id_: str) -> Stored:
        """Return the current version."""
        return await self._local.read(context, type_, id_)

    async def vread(self, context: RequestContext, type_: str, id_: str, version: int) -> Stored:
        """Return one version."""
        return await self._local.vread(context, type_, id_, version)

    async def history(self, context: RequestContext, type_: str, id_: str, *, count: int, cursor: str | None) -> Page:
        """Return the versions of one resource, newest first."""
        return await self._local.history(context, type_, id_, count=count, cursor=cursor)

    async def search(self, context: RequestContext, query: SearchQuery, *, cursor: str | None) -> Page:
        """Return a page of what matches."""
        return await self._local.search(context, query, cursor=cursor)

    # Writing: the owner

    async def create(
        self, context: RequestContext, resource: Resource, *, if_none_exist: SearchQuery | None
    ) -> WriteResult:
        """Have the owner commit a new resource.

        Raises:
            FhirError: as the owner refuses; Unavailable, where it is not there.
            OutcomeUnknown: the owner did not answer.

        """
        if resource["resourceType"] in OWN_TYPES:
            return await self._local.create(context, resource, if_none_exist=if_none_exist)
        key = await _checked(context, resource, new_id())
        owner = await self._owner_of_new(context, resource)
        headers = dict(_WHOLE)
        if if_none_exist is not None:
            headers["If-None-Exist"] = urlencode(if_none_exist.given)
        answer = await self._send(
            owner, "POST", str(resource["resourceType"]), key, context, body=dump(resource), headers=headers
        )
        return await self._written(owner, answer, context)

    async def update(self, context: RequestContext, resource: Resource, *, expected: int | None) -> WriteResult:
        """Have the owner commit a new version.

        Raises:
            FhirError: as the owner refuses; Unavailable, where it is not there.
            OutcomeUnknown: the owner did not answer.

        """
        type_, id_ = str(resource["resourceType"]), str(resource["id"])
        if type_ in OWN_TYPES:
            return await self._local.update(context, resource, expected=expected)
        key = await _checked(context, resource, id_)
        owner = await self._origin(context, type_, id_) or await self._owner_of_new(context, resource)
        headers = _WHOLE if expected is None else {**_WHOLE, "If-Match": etag(expected)}
        place = f"{type_}/{id_}"
        answer = await self._send(owner, "PUT", place, key, context, body=dump(resource), headers=headers)
        return await self._written(owner, answer, context)

    async def delete(
        self, context: RequestContext, type_: str, id_: str, *, expected: int | None
    ) -> WriteResult | None:
        """Have the owner commit a deletion.

        Raises:
            NotFound: there is no such resource here.
            FhirError: as the owner refuses; Unavailable, where it is not there.
            OutcomeUnknown: the owner did not answer.

        """
        if type_ in OWN_TYPES:
            return await self._local.delete(context, type_, id_, expected=expected)
        held = await self.store.find(context.access, type_, id_)
        owner = ALONE.get(type_) if held is None else held.origin
        if owner is None:
            raise NotFound(f"There is no {type_}/{id_} here.")
        key = f"{type_}/{id_}" if held is None or held.deleted else compartment_key(parse(held.body), type_, id_)
        headers = {} if expected is None else {"If-Match": etag(expected)}
        answer = await self._send(owner, "DELETE", f"{type_}/{id_}", key, context, headers=headers)
        if not answer.positions or "etag" not in answer.headers:
            return None
        return await self._gone(owner, answer, context, type_, id_)

    async def operation(self, context: RequestContext, operation: Operation, call: OperationCall) -> OperationResult:
        """Run an operation: `$everything` here, any other at the service that owns it or its instance.

        Raises:
            FhirError: as the owner refuses; Unavailable, where it is not there.
            OutcomeUnknown: the owner did not answer.

        """
        if operation is EVERYTHING and call.id is not None:
            return await everything(self.store, context, call.id, call.parameters)
        owner = owner_of_operation(operation)
        key = call.type
        if call.id is not None:
            held = await self.store.find(context.access, call.type, call.id)
            key = f"{call.type}/{call.id}"
            if held is not None:
                owner = held.origin
                key = key if held.deleted else compartment_key(parse(held.body), call.type, call.id)
        if owner not in OWNERS:
            return await self._local.operation(context, operation, call)
        body = dump(call.parameters) if call.parameters.get("parameter") else None
        path = f"{call.type}/${call.name}" if call.id is None else f"{call.type}/{call.id}/${call.name}"
        answer = await self._send(owner, "POST", path, key, context, body=body)
        await self._read_back(owner, answer, context)
        await self._taken_in(answer.positions)
        return OperationResult(answer.body, answer.status, answer.positions)

    async def _send(
        self,
        owner: str,
        method: str,
        path: str,
        key: str,
        context: RequestContext,
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answered:
        tenant = context.access.tenant
        events = await self.store.inbox.positions(self.service.name, OWNERS, tenant, key)
        told = {position.service: position.sequence for position in context.awaits if position.key == key}
        awaited = awaits(owner, key, (events, self.seen.of(tenant, key), told))
        sent = dict(headers or {})
        if awaited is not None:
            sent["X-Kap-Await"] = awaited
        answer = await self.owners.send(owner, method, path, context, body=body, headers=sent)
        self.seen.note(answer.positions)
        return answer

    # Whose it is

    async def _origin(self, context: RequestContext, type_: str, id_: str) -> str | None:
        held = await self.store.find(context.access, type_, id_)
        return None if held is None else held.origin

    async def _owner_of_new(self, context: RequestContext, resource: Resource) -> str:
        """Return the owner by content, looking up the owners of what it refers to as the rule asks for them."""
        origins: dict[tuple[str, str], str | None] = {}
        while True:
            try:
                return owner_of_new(resource, knowing(origins))
            except Unresolved as needed:
                origins[needed.resource] = await self._origin(context, *needed.resource)

    # What it left, in the copy before it is answered

    async def _written(self, owner: str, answer: Answered, context: RequestContext) -> WriteResult:
        resource: Resource = parse(answer.body)
        stored = _stored(resource, answer.body, owner, "create" if answer.status == 201 else "update")
        if answer.positions:
            await self._apply(stored, resource, answer.positions, context)
        else:  # a conditional create that found what is there already: its event is on its way
            await self._held(stored, context)
        return WriteResult(stored, created=answer.status == 201, positions=answer.positions)

    async def _gone(self, owner: str, answer: Answered, context: RequestContext, type_: str, id_: str) -> WriteResult:
        """Put the deletion into the copy, with the owner's time, which only its history tells."""
        version = version_of_etag(answer.headers["etag"])
        when = await self._deleted_at(owner, type_, id_, version, context)
        head, tail = parts(type_, id_, None)
        body = join(head, version, when or datetime.now(UTC), tail)
        stored = _stored(parse(body), body, owner, "delete")
        if when is None:
            await self._taken_in(answer.positions)
        else:
            await self._apply(stored, None, answer.positions, context)
        return WriteResult(stored, created=False, positions=answer.positions)

    async def _deleted_at(
        self, owner: str, type_: str, id_: str, version: int, context: RequestContext
    ) -> datetime | None:
        try:
            answer = await self.owners.send(owner, "GET", f"{type_}/{id_}/_history?_count=5", context)
        except FhirError:
            return None
        for entry in parse(answer.body).get("entry", ()):
            response = entry.get("response", {})
            if "resource" not in entry and response.get("etag") == etag(version):
                return interval(response["lastModified"])[0]
        return None

    async def _read_back(self, owner: str, answer: Answered, context: RequestContext) -> None:
        """Put the resource that an operation answered with into the copy, as its owner holds it."""
        said = parse(answer.body) if answer.body else None
        if not answer.positions or not isinstance(said, dict) or said.get("resourceType") not in TYPES:
            return
        if not isinstance(said.get("id"), str):
            return
        try:
            held = await self.owners.send(owner, "GET", f"{said['resourceType']}/{said['id']}", context)
        except FhirError:  # it was done all the same; the event tells the rest
            return
        resource: Resource = parse(held.body)
        version = int(resource["meta"]["versionId"])
        stored = _stored(resource, held.body, owner, "create" if version == 1 else "update")
        await self._apply(stored, resource, answer.positions, context)

    async def _apply(
        self, stored: Stored, resource: Resource | None, positions: tuple[Position, ...], context: RequestContext
    ) -> None:
        """Store an owner's version as its event will; without the database it is left to the event."""
        tenant = context.access.tenant
        key = _key(stored, resource, positions)
        sequence = max((one.sequence for one in positions if one.key == key), default=0)
        event = Event(
            id=f"{stored.type}/{stored.id}/{stored.version}",
            source=stored.origin,
            interaction=stored.interaction,
            type=stored.type,
            resource_id=stored.id,
            version=stored.version,
            time=stored.last_updated,
            tenant=tenant,
            key=key,
            shard=shard_of(tenant, key),
            sequence=sequence,
            body=stored.body,
            labels=() if resource is None else labels_of(resource),
            request_id=context.request_id,
            traceparent=context.traceparent,
        )
        index = IndexRows() if resource is None else await _extracted(resource, stored.body)
        patient = None if event.patient is None else subject_uuid(event.patient.removeprefix("Patient/"))
        try:
            await retry_conflicts(partial(self.store.apply_copy, event, index, patient))
        except Unavailable:
            _log.warning("answer_not_applied", type=stored.type, owner=stored.origin, request_id=context.request_id)

    async def _held(self, stored: Stored, context: RequestContext) -> None:
        """Wait a while until the copy has a version."""
        until = asyncio.get_running_loop().time() + EVENT_SECONDS
        while asyncio.get_running_loop().time() < until:
            held = await self.store.find(context.access, stored.type, stored.id)
            if held is not None and held.version >= stored.version:
                return
            await asyncio.sleep(_POLL)

    async def _taken_in(self, positions: tuple[Position, ...]) -> None:
        """Wait a while until the events up to `positions` were taken in."""
        await asyncio.gather(
            *(
                self.store.inbox.await_position(
                    self.service.name, one.service, one.tenant, one.key, one.sequence, EVENT_SECONDS
                )
                for one in positions
            )
        )


def _key(stored: Stored, resource: Resource | None, positions: tuple[Position, ...]) -> str:
    if resource is not None:
        return compartment_key(resource, stored.type, stored.id)
    return next(one.key for one in positions if one.service == stored.origin)


def _stored(resource: Resource, body: bytes, owner: str, interaction: Interaction) -> Stored:
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


async def _checked(context: RequestContext, resource: Resource, id_: str) -> str:
    """Validate before the owner is looked for, whose rule reads only what is FHIR; return the key of the record."""
    if context.body_bytes < LARGE:
        after = valid(resource, id_)
    else:
        after = await asyncio.to_thread(valid, resource, id_)
    return compartment_key(after, str(after["resourceType"]), id_)


async def _extracted(resource: Resource, body: bytes) -> IndexRows:
    return extract(resource) if len(body) < LARGE else await asyncio.to_thread(extract, resource)
