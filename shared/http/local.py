"""The FHIR interactions on the service's own store: what a service answers with, and the gateway reads with."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING, Final

from shared.fhir.extraction import compartment_key
from shared.fhir.ids import new_id
from shared.fhir.json import Json, Resource, dump, parse
from shared.fhir.outcome import FhirError, NotFound, PreconditionFailed
from shared.http.backend import OperationResult, Transacted, WriteResult, positions_of
from shared.http.body import LARGE
from shared.http.entries import READS, Change, refused
from shared.http.planning import ChangesRefused, Ground
from shared.http.provenance import of_versions
from shared.http.transactions import Changes
from shared.runtime.record import Prepared, Record, bearing, open_record, prepare
from shared.store.behind import behind
from shared.store.connection import retry_conflicts
from shared.store.terminology import StoredTerminology

if TYPE_CHECKING:
    from shared.fhir.history import HistoryQuery
    from shared.fhir.patch.apply import Patch
    from shared.fhir.search import SearchQuery
    from shared.http.backend import Read, RequestContext
    from shared.http.entries import Answer, Done, Request
    from shared.runtime.service import Operation, OperationCall, Service
    from shared.store.behind import Behind
    from shared.store.store import Store, Transaction
    from shared.store.terminology import Loaded
    from shared.store.types import Page, Stored, Written

AWAIT_SECONDS: Final = 2.0
"""How long a write may wait for what its caller has seen elsewhere; then its guards are told what is missing."""


@dataclass(frozen=True, slots=True)
class LocalBackend:
    """A `Backend` over one service's store.

    With `within` it reads in that transaction, which sees what it has written itself.
    """

    service: Service
    store: Store
    within: Transaction | None = None

    @property
    def _reads(self) -> Store | Transaction:
        return self.store if self.within is None else self.within

    async def read(self, context: RequestContext, type_: str, id_: str) -> Stored:
        """Return the current version."""
        return await self._reads.read(context.access, type_, id_)

    async def vread(self, context: RequestContext, type_: str, id_: str, version: int) -> Stored:
        """Return one version."""
        return await self._reads.read_version(context.access, type_, id_, version)

    async def history(self, context: RequestContext, query: HistoryQuery, *, cursor: str | None) -> Page:
        """Return versions of one resource, a type or everything, newest first."""
        return await self._reads.history(context.access, query, cursor=cursor)

    async def search(self, context: RequestContext, query: SearchQuery, *, cursor: str | None) -> Page:
        """Return a page of what matches."""
        return await self._reads.search(context.access, query, cursor=cursor)

    async def behind(
        self, context: RequestContext, places: Sequence[tuple[str, str]]
    ) -> Mapping[tuple[str, str], tuple[Behind, ...]]:
        """Return the Consents that let each of these be told to the caller."""
        told, tenant = context.caller.disclosure, context.access.tenant
        if told is None or not places:
            return {}
        if self.within is None:
            async with self.store.transaction(keys=(), tenant=tenant) as transaction:
                return await behind(transaction.connection, told, tenant, places)
        return await behind(self.within.connection, told, tenant, places)

    async def loaded(self, context: RequestContext, type_: str) -> Sequence[Loaded]:
        """Return the code systems or value sets that the clinic loaded."""
        if type_ not in {"CodeSystem", "ValueSet"}:
            return ()
        if self.within is None:
            async with self.store.transaction(keys=(), tenant=context.access.tenant) as transaction:
                return await replace(self, within=transaction).loaded(context, type_)
        terminology = StoredTerminology(self.within.connection)
        return await (terminology.systems() if type_ == "CodeSystem" else terminology.value_sets())

    async def create(
        self, context: RequestContext, resource: Resource, *, if_none_exist: SearchQuery | None
    ) -> WriteResult:
        """Validate, guard and commit a new resource; with a condition, only if nothing matches it.

        A type without guards and a request without a condition cost one round trip.
        """
        if if_none_exist is not None or context.provenance is not None:
            type_ = str(resource["resourceType"])
            return await self._written(context, Change(0, "POST", type_, None, if_none_exist, resource=resource))
        ready = await self._prepared(context, resource, new_id())
        labels = None if self.service.labels is None else self.service.labels.of(context.access.tenant)
        asks = labels is not None and labels.ask_for_unit(ready.resource or {}) is not None
        if not self.service.guards.get(ready.type) and not asks:
            if labels is not None:
                ready = bearing(ready, labels.labelled(ready.resource or {}))
            written = await retry_conflicts(
                lambda: self.store.write(
                    context.access,
                    ready.as_write("create", request_id=context.request_id, traceparent=context.traceparent),
                )
            )
            return _result(written, [written], context)
        behind = await self._behind(context, ready.type)
        return await retry_conflicts(lambda: self._create(context, ready, behind))

    async def _create(self, context: RequestContext, ready: Prepared, behind: Sequence[str]) -> WriteResult:
        async with self._record(context, ready.key, behind=behind) as record:
            written = await record.create(ready)
        return _result(written, record.written, context)

    async def update(self, context: RequestContext, resource: Resource, *, expected: int | None) -> WriteResult:
        """Validate, guard and commit a new version."""
        if context.provenance is not None:
            type_, id_ = str(resource["resourceType"]), str(resource["id"])
            return await self._written(context, Change(0, "PUT", type_, id_, None, expected, resource))
        ready = await self._prepared(context, resource, str(resource["id"]))
        behind = await self._behind(context, ready.type)
        return await retry_conflicts(lambda: self._update(context, ready, expected, behind))

    async def _update(
        self, context: RequestContext, ready: Prepared, expected: int | None, behind: Sequence[str]
    ) -> WriteResult:
        async with self._record(context, ready.key, behind=behind) as record:
            written = await record.update(ready, expected=expected)
        return _result(written, record.written, context)

    async def patch(
        self, context: RequestContext, type_: str, id_: str, patch: Patch, *, expected: int | None
    ) -> WriteResult:
        """Patch the current version, then validate, guard and commit it as an update."""
        if context.provenance is not None:
            return await self._written(context, Change(0, "PATCH", type_, id_, None, expected, patch=patch))
        behind = await self._behind(context, type_)
        return await retry_conflicts(lambda: self._patch(context, type_, id_, patch, expected, behind))

    async def _patch(
        self,
        context: RequestContext,
        type_: str,
        id_: str,
        patch: Patch,
        expected: int | None,
        behind: Sequence[str],
    ) -> WriteResult:
        key = await self._key_of(context, type_, id_)
        async with self._record(context, *key, behind=behind) as record:
            held = await record.transaction.find(context.access, type_, id_, lock=True)
            if held is None or held.deleted:
                held = await record.transaction.read(context.access, type_, id_)
            if expected is not None and expected != held.version:
                raise PreconditionFailed(
                    f"The current version is {held.version}, not {expected}. Read it, and patch that.",
                    expression=["http.if-match"],
                )
            if len(held.body) + context.body_bytes < LARGE:
                ready = prepare(patch.apply(parse(held.body)), id_)
            else:
                ready = await asyncio.to_thread(_prepare_patched, patch, held.body, id_)
            written = await record.update(ready, expected=held.version)
        return _result(written, record.written, context)

    async def delete(
        self, context: RequestContext, type_: str, id_: str, *, expected: int | None
    ) -> WriteResult | None:
        """Guard and commit a deletion."""
        if context.provenance is not None:
            return await self.change(context, Change(0, "DELETE", type_, id_, None, expected))
        behind = await self._behind(context, type_)
        return await retry_conflicts(lambda: self._delete(context, type_, id_, expected, behind))

    async def _delete(
        self, context: RequestContext, type_: str, id_: str, expected: int | None, behind: Sequence[str]
    ) -> WriteResult | None:
        key = await self._key_of(context, type_, id_)
        async with self._record(context, *key, behind=behind) as record:
            written = await record.delete(type_, id_, expected=expected)
        return None if written is None else _result(written, record.written, context)

    async def _written(self, context: RequestContext, change: Change) -> WriteResult:
        result = await self.change(context, change)
        if result is None:
            raise AssertionError("only a delete leaves nothing")
        return result

    async def change(self, context: RequestContext, change: Change) -> WriteResult | None:
        """Guard and commit one change, of what a condition finds or with its Provenance.

        Racing ones by the same condition wait in line.
        """
        behind = await self._behind(context, change.type)
        kept: list[str] = []

        async def prove(record: Record, done: Mapping[int, Done]) -> None:
            kept[:] = await _proved(context, record, done)

        try:
            done, record = await Changes(self._ground(context, behind), (change,)).make(prove)
        except ChangesRefused as refusal:
            raise refusal.errors[change.index] from refusal
        stored, created = done[change.index].stored, done[change.index].created
        if stored is None:
            return None
        return WriteResult(stored, created, positions_of(record.written, context.access.tenant), next(iter(kept), None))

    async def transact(
        self, context: RequestContext, requests: Sequence[Request], changes: Sequence[Change], read: Read
    ) -> Transacted:
        """Guard and commit all changes in one transaction of the database, in which the GETs are answered, too."""
        judged = any(change.type in self.service.judges_on_news for change in changes)
        behind = await self._behind(context) if judged else ()
        answers: dict[int, Answer] = {}
        kept: list[str] = []

        async def prove_and_read(record: Record, done: Mapping[int, Done]) -> None:
            kept[:] = await _proved(context, record, done)
            within = replace(self, within=record.transaction)
            errors: dict[int, FhirError] = {}
            for request in requests:
                if request.method in READS:
                    try:
                        answers[request.index] = await read(within, request)
                    except FhirError as error:
                        errors[request.index] = error
            if errors:
                raise ChangesRefused(errors)

        try:
            done, record = await Changes(self._ground(context, behind), changes).make(prove_and_read)
        except ChangesRefused as refusal:
            raise refused(refusal.errors, {change.index: change.type for change in changes}) from refusal
        positions = positions_of(record.written, context.access.tenant)
        return Transacted(done, answers, positions, next(iter(kept), None))

    def _ground(self, context: RequestContext, behind: Sequence[str]) -> Ground:
        def record(keys: Iterable[str]) -> AbstractAsyncContextManager[Record]:
            return self._record(context, *keys, behind=behind)

        return Ground(
            self.store, context, self.service.fixed_ids, self.service.judges_on_news, record=record, prepare=prepare
        )

    async def operation(self, context: RequestContext, operation: Operation, call: OperationCall) -> OperationResult:
        """Run the operation's handler in one transaction, with the records it is about locked.

        Those are the record the instance belongs to, and the patients and records its parameters name or hold. Within
        a transaction it is one that only reads, and runs in that one, which holds its locks already.
        """
        if self.within is not None:
            record = Record(
                self.service,
                self.within,
                context.access,
                request_id=context.request_id,
                traceparent=context.traceparent,
                user=context.caller.user,
                client=context.caller.client,
                reads=context.caller.access("r"),
            )
            return OperationResult(await asyncio.to_thread(dump, await operation.handler(call, record)))
        behind = await self._behind(context)
        return await retry_conflicts(lambda: self._operation(context, operation, call, behind))

    async def _operation(
        self, context: RequestContext, operation: Operation, call: OperationCall, behind: Sequence[str]
    ) -> OperationResult:
        keys = set(named_keys(call.parameters))
        if call.id is not None:
            keys.update(await self._key_of(context, call.type, call.id))
        async with self._record(context, *keys, behind=behind) as record:
            answer = await operation.handler(call, record)
            kept = await _proof_of([one.stored for one in record.written], context, record)
        positions = positions_of(record.written, context.access.tenant)
        body = await asyncio.to_thread(dump, answer)
        return OperationResult(body, positions=positions, provenance=next(iter(kept), None))

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
            user=context.caller.user,
            client=context.caller.client,
            reads=context.caller.access("r"),
        )

    async def _prepared(self, context: RequestContext, resource: Resource, id_: str) -> Prepared:
        if context.body_bytes < LARGE:
            return prepare(resource, id_)
        return await asyncio.to_thread(prepare, resource, id_)

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


def _prepare_patched(patch: Patch, body: bytes, id_: str) -> Prepared:
    return prepare(patch.apply(parse(body)), id_)


async def _proved(context: RequestContext, record: Record, done: Mapping[int, Done]) -> list[str]:
    """Keep the Provenance that came with the request for those versions that its changes made; return its name."""
    made = {(one.stored.type, one.stored.id, one.stored.version) for one in record.written}
    versions = [one.stored for _, one in sorted(done.items()) if one.stored is not None]
    return await _proof_of([one for one in versions if (one.type, one.id, one.version) in made], context, record)


async def _proof_of(versions: Sequence[Stored], context: RequestContext, record: Record) -> list[str]:
    if context.provenance is None or not versions:
        return []
    written = await record.create(of_versions(context.provenance, versions))
    return [f"Provenance/{written.stored.id}"]


def _result(written: Written, all_written: list[Written], context: RequestContext) -> WriteResult:
    return WriteResult(written.stored, written.created, positions_of(all_written, context.access.tenant))


def named_keys(value: Json) -> Iterator[str]:
    """Yield the records that an operation's parameters are about: patients they name, resources they hold."""
    if isinstance(value, list):
        for member in value:
            yield from named_keys(member)
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
                yield from named_keys(member)
