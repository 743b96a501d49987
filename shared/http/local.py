"""The FHIR interactions on the service's own store: what a service answers with, and the gateway reads with."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Final

from shared.events.topics import MAX_EVENT_BODY_BYTES
from shared.fhir.extraction import compartment_key
from shared.fhir.ids import new_id
from shared.fhir.json import Json, Resource, dump, parse
from shared.fhir.outcome import NotFound, PreconditionFailed, TooLarge
from shared.http.backend import OperationResult, WriteResult, positions_of
from shared.http.body import LARGE
from shared.runtime.record import Prepared, Record, open_record, prepare
from shared.store.access import Access
from shared.store.connection import retry_conflicts

if TYPE_CHECKING:
    from shared.fhir.search import SearchQuery
    from shared.http.backend import RequestContext
    from shared.runtime.service import Operation, OperationCall, Service
    from shared.store.store import Store
    from shared.store.types import Page, Stored, Written

AWAIT_SECONDS: Final = 2.0
"""How long a write may wait for what its caller has seen elsewhere; then its guards are told what is missing."""

_MOST_PUBLISHED: Final = MAX_EVENT_BODY_BYTES - 1024
"""Bytes of a resource without what the store adds to it."""


@dataclass(frozen=True, slots=True)
class LocalBackend:
    """A `Backend` over one service's store."""

    service: Service
    store: Store

    async def read(self, context: RequestContext, type_: str, id_: str) -> Stored:
        """Return the current version."""
        return await self.store.read(context.access, type_, id_)

    async def vread(self, context: RequestContext, type_: str, id_: str, version: int) -> Stored:
        """Return one version."""
        return await self.store.read_version(context.access, type_, id_, version)

    async def history(self, context: RequestContext, type_: str, id_: str, *, count: int, cursor: str | None) -> Page:
        """Return the versions of one resource, newest first."""
        return await self.store.history(context.access, type_, id_, count=count, cursor=cursor)

    async def search(self, context: RequestContext, query: SearchQuery, *, cursor: str | None) -> Page:
        """Return a page of what matches."""
        return await self.store.search(context.access, query, cursor=cursor)

    async def create(
        self, context: RequestContext, resource: Resource, *, if_none_exist: SearchQuery | None
    ) -> WriteResult:
        """Validate, guard and commit a new resource; with a condition, only if nothing matches it.

        A type without guards and a request without a condition cost one round trip.
        """
        ready = await self._prepared(context, resource, new_id())
        if if_none_exist is None and not self.service.guards.get(ready.type):
            written = await retry_conflicts(
                lambda: self.store.write(
                    context.access,
                    ready.as_write("create", request_id=context.request_id, traceparent=context.traceparent),
                )
            )
            return _result(written, [written], context)
        behind = await self._behind(context, ready.type)
        return await retry_conflicts(lambda: self._create(context, ready, if_none_exist, behind))

    async def _create(
        self, context: RequestContext, ready: Prepared, if_none_exist: SearchQuery | None, behind: Sequence[str]
    ) -> WriteResult:
        async with self._record(context, ready.key, behind=behind) as record:
            if if_none_exist is not None and (held := await _existing(record, if_none_exist)) is not None:
                return WriteResult(held, created=False)
            written = await record.create(ready)
        return _result(written, record.written, context)

    async def update(self, context: RequestContext, resource: Resource, *, expected: int | None) -> WriteResult:
        """Validate, guard and commit a new version."""
        ready = await self._prepared(context, resource, str(resource["id"]))
        behind = await self._behind(context, ready.type)
        return await retry_conflicts(lambda: self._update(context, ready, expected, behind))

    async def _update(
        self, context: RequestContext, ready: Prepared, expected: int | None, behind: Sequence[str]
    ) -> WriteResult:
        async with self._record(context, ready.key, behind=behind) as record:
            written = await record.update(ready, expected=expected)
        return _result(written, record.written, context)

    async def delete(
        self, context: RequestContext, type_: str, id_: str, *, expected: int | None
    ) -> WriteResult | None:
        """Guard and commit a deletion."""
        behind = await self._behind(context, type_)
        return await retry_conflicts(lambda: self._delete(context, type_, id_, expected, behind))

    async def _delete(
        self, context: RequestContext, type_: str, id_: str, expected: int | None, behind: Sequence[str]
    ) -> WriteResult | None:
        key = await self._key_of(context, type_, id_)
        async with self._record(context, *key, behind=behind) as record:
            written = await record.delete(type_, id_, expected=expected)
        return None if written is None else _result(written, record.written, context)

    async def operation(self, context: RequestContext, operation: Operation, call: OperationCall) -> OperationResult:
        """Run the operation's handler in one transaction, with the records it is about locked.

        Those are the record the instance belongs to, and the patients and records its parameters name or hold.
        """
        behind = await self._behind(context)
        return await retry_conflicts(lambda: self._operation(context, operation, call, behind))

    async def _operation(
        self, context: RequestContext, operation: Operation, call: OperationCall, behind: Sequence[str]
    ) -> OperationResult:
        keys = set(_named_keys(call.parameters))
        if call.id is not None:
            keys.update(await self._key_of(context, call.type, call.id))
        async with self._record(context, *keys, behind=behind) as record:
            answer = await operation.handler(call, record)
        positions = positions_of(record.written, context.access.tenant)
        return OperationResult(await asyncio.to_thread(dump, answer), positions=positions)

    def _record(
        self, context: RequestContext, *keys: str, behind: Sequence[str]
    ) -> AbstractAsyncContextManager[Record]:
        return open_record(
            self.service,
            self.store,
            context.access,
            keys=sorted(keys),
            request_id=context.request_id,
            traceparent=context.traceparent,
            behind=behind,
        )

    async def _prepared(self, context: RequestContext, resource: Resource, id_: str) -> Prepared:
        if context.body_bytes < LARGE:
            return prepare(resource, id_)
        return await asyncio.to_thread(self._prepare_large, resource, id_)

    def _prepare_large(self, resource: Resource, id_: str) -> Prepared:
        ready = prepare(resource, id_)
        if self.service.publishes and len(dump(ready.resource)) > _MOST_PUBLISHED:
            raise TooLarge(
                f"The resource is larger than {_MOST_PUBLISHED} bytes, the most that can be sent on to other systems. "
                "Put large content in several resources.",
                expression=[ready.type],
            )
        return ready

    async def _key_of(self, context: RequestContext, type_: str, id_: str) -> tuple[str, ...]:
        """Return the key of the record a held resource belongs to; it never changes, so it is read before the lock."""
        held = await self.store.find(context.access, type_, id_)
        if held is None:
            raise NotFound(f"There is no {type_}/{id_} here.")
        return () if held.deleted else (compartment_key(parse(held.body), type_, id_),)

    async def _behind(self, context: RequestContext, type_: str | None = None) -> tuple[str, ...]:
        """Wait until what the caller has seen of other services was taken in here; return those still missing.

        A write of a type that is not judged on such news does not wait: a vital sign never waits for Kafka.
        """
        if not context.awaits or (type_ is not None and type_ not in self.service.judges_on_news):
            return ()
        until = monotonic() + AWAIT_SECONDS
        return tuple(
            [
                position.service
                for position in context.awaits
                if position.service in self.service.consumes
                and not await self.store.inbox.await_position(
                    self.service.name,
                    position.service,
                    position.tenant,
                    position.key,
                    position.sequence,
                    max(until - monotonic(), 0.0),
                )
            ]
        )


def _result(written: Written, all_written: list[Written], context: RequestContext) -> WriteResult:
    return WriteResult(written.stored, written.created, positions_of(all_written, context.access.tenant))


async def _existing(record: Record, condition: SearchQuery) -> Stored | None:
    """Return the one resource that the condition of a conditional create matches, None where there is none.

    Uniqueness counts all of the tenant's data. Racing creators of one condition wait for each other here, until the
    first has committed.

    Raises:
        PreconditionFailed: several match, or one that this caller may not see; the answer is the same.

    """
    said = "&".join(sorted(f"{name}={value}" for name, value in condition.given))
    await record.transaction.claim(record.access.tenant, f"{condition.type}?{said}")
    everything = Access.unrestricted(record.access.tenant)
    found = (await record.transaction.search(everything, condition)).entries
    if not found:
        return None
    visible = await record.transaction.find(record.access, condition.type, found[0].id)
    if len(found) > 1 or visible is None or visible.deleted:
        raise PreconditionFailed(
            "If-None-Exist does not name exactly one resource: nothing was created. Use a condition that can match one "
            "only, such as identifier=system|value.",
            code="multiple-matches",
            expression=["http.if-none-exist"],
        )
    return visible


def _named_keys(value: Json) -> Iterator[str]:
    """Yield the records that an operation's parameters are about: patients they name, resources they hold."""
    if isinstance(value, list):
        for member in value:
            yield from _named_keys(member)
    elif isinstance(value, dict):
        resource = value.get("resource")
        if isinstance(resource, dict) and isinstance(type_ := resource.get("resourceType"), str):
            key = compartment_key(resource, type_, str(resource.get("id", "")))
            if key.startswith("Patient/"):
                yield key
        reference = value.get("reference")
        if isinstance(reference, str) and reference.startswith("Patient/"):
            yield "/".join(reference.split("/")[:2])
        for name, member in value.items():
            if name != "resource":
                yield from _named_keys(member)
