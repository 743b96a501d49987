"""The gateway's `Backend`: reads from its own copy, writes to the owner, and what it wrote can be read at once.

A write goes to the owner of the resource with `X-Kap-Await`: the positions of the other owners that the gateway has
seen along the same record, so that the owner judges on nothing older than what the caller may have read here. The
owner's answer is put into the copy before it is given to the caller; the event that follows finds it there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from services.gateway import subscribing
from services.gateway.catalog import OWN_TYPES, OWNERS, owner_of_operation
from services.gateway.copies import Copies
from services.gateway.everything import everything
from services.gateway.operations import EVENTS, EVERYTHING, STATUS
from services.gateway.owners import ANSWER_SECONDS, Answered, Owners
from services.gateway.rules import awaits
from services.gateway.seen import Seen
from services.gateway.subscribing import Subscribing
from services.gateway.transactions import Routing, done_of, in_place
from services.gateway.whose import Whose, key_of
from shared.fhir.extraction import compartment_key
from shared.fhir.ids import new_id
from shared.fhir.json import Resource, dump
from shared.fhir.outcome import FhirError, NotFound, Unprocessable
from shared.http.backend import OperationResult, Position, Transacted, WriteResult
from shared.http.body import LARGE
from shared.http.conditions import as_query
from shared.http.entries import READS, Answer, Done, refused
from shared.http.local import LocalBackend, named_keys
from shared.http.negotiation import etag
from shared.http.provenance import HEADER, KEPT_AS, in_one_line
from shared.runtime.ownership import ALONE, GATEWAY
from shared.runtime.record import valid

if TYPE_CHECKING:
    from shared.fhir.history import HistoryQuery
    from shared.fhir.patch.apply import Patch
    from shared.fhir.search import SearchQuery
    from shared.http.backend import Read, RequestContext
    from shared.http.entries import Change, Request
    from shared.runtime.service import Operation, OperationCall, Service
    from shared.store.behind import Behind
    from shared.store.store import Store
    from shared.store.terminology import Loaded
    from shared.store.types import Page, Stored

ENTRY_SECONDS: Final = 0.02
"""What each entry of a transaction adds to the time its answer may take."""

_WHOLE: Final = {"Prefer": "return=representation"}


@dataclass(frozen=True, slots=True)
class GatewayBackend:
    """A `Backend` over the gateway's copy and the owners behind it."""

    service: Service
    store: Store
    owners: Owners
    seen: Seen = field(default_factory=Seen)
    subscribing: Subscribing = field(default_factory=Subscribing.of)

    @property
    def _local(self) -> LocalBackend:
        return LocalBackend(self.service, self.store)

    def _own(self, context: RequestContext) -> LocalBackend:
        """Return the store as the owner of what is the gateway's own, beside which no Provenance is kept.

        Raises:
            Unprocessable: the request brings one.

        """
        if context.provenance is not None:
            raise Unprocessable(
                f"{HEADER} is not taken with {', '.join(sorted(OWN_TYPES))}, which the gateway keeps itself. Create "
                "the Provenance by itself, with this as its target.",
                code="not-supported",
                expression=["http.x-provenance"],
            )
        return self._local

    @property
    def _whose(self) -> Whose:
        return Whose(self.store)

    @property
    def _copies(self) -> Copies:
        return Copies(self.service.name, self.store, self.owners)

    # Reading: the copy

    async def read(self, context: RequestContext, type_: str, id_: str) -> Stored:
        """Return the current version."""
        return await self._local.read(context, type_, id_)

    async def vread(self, context: RequestContext, type_: str, id_: str, version: int) -> Stored:
        """Return one version."""
        return await self._local.vread(context, type_, id_, version)

    async def history(self, context: RequestContext, query: HistoryQuery, *, cursor: str | None) -> Page:
        """Return versions of one resource, a type or everything, newest first."""
        return await self._local.history(context, query, cursor=cursor)

    async def search(self, context: RequestContext, query: SearchQuery, *, cursor: str | None) -> Page:
        """Return a page of what matches."""
        return await self._local.search(context, query, cursor=cursor)

    async def behind(
        self, context: RequestContext, places: Sequence[tuple[str, str]]
    ) -> Mapping[tuple[str, str], tuple[Behind, ...]]:
        """Return the Consents that let each of these be told to the caller."""
        return await self._local.behind(context, places)

    async def loaded(self, context: RequestContext, type_: str) -> Sequence[Loaded]:
        """Return the code systems or value sets that the clinic loaded."""
        return await self._local.loaded(context, type_)

    # Writing: the owner

    async def create(
        self, context: RequestContext, resource: Resource, *, if_none_exist: SearchQuery | None
    ) -> WriteResult:
        """Have the owner commit a new resource.

        Raises:
            FhirError: as the owner refuses; Unavailable, where it is not there.
            OutcomeUnknown: the owner did not answer.

        """
        if resource["resourceType"] == subscribing.TYPE and if_none_exist is None:
            self._own(context)
            return await self.subscribing.write(self.service, self.store, context, _without_id(resource))
        if resource["resourceType"] in OWN_TYPES:
            return await self._own(context).create(context, resource, if_none_exist=if_none_exist)
        key = await _checked(context, resource, new_id())
        owner = None
        headers = dict(_WHOLE)
        if if_none_exist is not None:
            headers["If-None-Exist"] = as_query(if_none_exist)
            if if_none_exist.type not in ALONE:
                owner, _ = await self._found(context, if_none_exist, where="http.if-none-exist")
        owner = owner or await self._whose.of_new(context.access, resource)
        answer = await self._send(
            owner, "POST", str(resource["resourceType"]), key, context, body=dump(resource), headers=headers
        )
        return await self._copies.written(owner, answer, context)

    async def update(self, context: RequestContext, resource: Resource, *, expected: int | None) -> WriteResult:
        """Have the owner commit a new version.

        Raises:
            FhirError: as the owner refuses; Unavailable, where it is not there.
            OutcomeUnknown: the owner did not answer.

        """
        type_, id_ = str(resource["resourceType"]), str(resource["id"])
        if type_ == subscribing.TYPE:
            self._own(context)
            return await self.subscribing.write(self.service, self.store, context, resource, expected=expected)
        if type_ in OWN_TYPES:
            return await self._own(context).update(context, resource, expected=expected)
        key = await _checked(context, resource, id_)
        owner = await self._whose.origin(context.access, type_, id_) or await self._whose.of_new(
            context.access, resource
        )
        headers = _WHOLE if expected is None else {**_WHOLE, "If-Match": etag(expected)}
        place = f"{type_}/{id_}"
        answer = await self._send(owner, "PUT", place, key, context, body=dump(resource), headers=headers)
        return await self._copies.written(owner, answer, context)

    async def patch(
        self, context: RequestContext, type_: str, id_: str, patch: Patch, *, expected: int | None
    ) -> WriteResult:
        """Have the owner patch its current version.

        Raises:
            NotFound: there is no such resource here.
            FhirError: as the owner refuses; Unavailable, where it is not there.
            OutcomeUnknown: the owner did not answer.

        """
        if type_ in OWN_TYPES:
            return await self._own(context).patch(context, type_, id_, patch, expected=expected)
        owner, key = await self._whose.held_by(context.access, type_, id_)
        headers = {**_WHOLE, "Content-Type": patch.media_type}
        if expected is not None:
            headers["If-Match"] = etag(expected)
        place = f"{type_}/{id_}"
        answer = await self._send(owner, "PATCH", place, key, context, body=dump(patch.body), headers=headers)
        return await self._copies.written(owner, answer, context)

    async def delete(
        self, context: RequestContext, type_: str, id_: str, *, expected: int | None
    ) -> WriteResult | None:
        """Have the owner commit a deletion.

        Raises:
            NotFound: there is no such resource here.
            FhirError: as the owner refuses; Unavailable, where it is not there.
            OutcomeUnknown: the owner did not answer.

        """
        if type_ == subscribing.TYPE:
            return await self.subscribing.delete(self.service, self.store, context, id_, expected=expected)
        if type_ in OWN_TYPES:
            return await self._own(context).delete(context, type_, id_, expected=expected)
        owner, key = await self._whose.held_by(context.access, type_, id_)
        headers = {} if expected is None else {"If-Match": etag(expected)}
        answer = await self._send(owner, "DELETE", f"{type_}/{id_}", key, context, headers=headers)
        return await self._copies.gone(owner, answer, context, type_, id_)

    async def change(self, context: RequestContext, change: Change) -> WriteResult | None:
        """Have the owner of what a condition finds decide on it: the one the copy names, else the content's.

        Raises:
            PreconditionFailed: it finds resources of several owners.
            FhirError: as the owner refuses; Unavailable, where it is not there.
            OutcomeUnknown: the owner did not answer.

        """
        type_, condition = change.type, change.condition
        if type_ in OWN_TYPES or condition is None:
            return await self._own(context).change(context, change)
        key: str | None = None
        if change.resource is not None:
            key = await _checked(context, change.resource, new_id())
        owner, found = await self._found(context, condition, where="http.url")
        if owner is None and change.resource is not None:
            owner = await self._whose.of_new(context.access, change.resource)
        if owner is None:
            if change.method == "DELETE":
                return None
            raise NotFound(f"The condition finds no {type_}.", expression=["http.url"])
        headers = {} if change.expected is None else {"If-Match": etag(change.expected)}
        body = None if change.resource is None else dump(change.resource)
        if change.patch is not None:
            headers["Content-Type"], body = change.patch.media_type, dump(change.patch.body)
        if change.method != "DELETE":
            headers.update(_WHOLE)
        path = f"{type_}?{as_query(condition)}"
        answer = await self._send(
            owner, change.method, path, key or found or type_, context, body=body, headers=headers
        )
        if change.method != "DELETE":
            return await self._copies.written(owner, answer, context)
        if "location" not in answer.headers:
            return None
        id_ = answer.headers["location"].split("/")[-3]
        return await self._copies.gone(owner, answer, context, type_, id_)

    async def _found(
        self, context: RequestContext, condition: SearchQuery, *, where: str
    ) -> tuple[str | None, str | None]:
        """Return owner and key of what a condition finds here. A type of one owner is that owner's to decide on."""
        found = await self._whose.found(context.access.tenant, condition, where=where)
        return (ALONE.get(condition.type), None) if found is None else found

    async def transact(
        self, context: RequestContext, requests: Sequence[Request], changes: Sequence[Change], read: Read
    ) -> Transacted:
        """Have the one owner of all changes commit them, or none; GETs are answered from the copy when it has them.

        A GET that cannot be answered refuses the whole before anything is sent.

        Raises:
            Unprocessable: the changes belong to several owners.
            FhirError: as the owner refuses; Unavailable, where it is not there.
            OutcomeUnknown: the owner did not answer.

        """
        reads = [request for request in requests if request.method in READS]
        answers, errors = await self._answers(reads, read)
        if errors:
            raise refused(errors, {})
        if not changes:
            return Transacted({}, answers)
        routed = await Routing(self.store, context, requests, changes).route()
        done = dict.fromkeys(routed.nothing, Done(None, created=False))
        positions: tuple[Position, ...] = ()
        provenance: str | None = None
        if routed.owner == GATEWAY:
            own = await self._own(context).transact(context, (), changes, read)
            done, positions = {**done, **own.done}, own.positions
        elif routed.owner is not None:
            try:
                answer = await self._send(
                    routed.owner,
                    "POST",
                    "",
                    routed.keys,
                    context,
                    body=routed.body,
                    headers=_WHOLE,
                    seconds=ANSWER_SECONDS + ENTRY_SECONDS * len(routed.sent),
                )
            except FhirError as error:
                raise in_place(error, routed.sent) from error
            sent, left = done_of(answer, routed)
            await self._copies.apply(left, answer.positions, context)
            done, positions = {**done, **sent}, answer.positions
            provenance = answer.headers.get(KEPT_AS)
        answers, errors = await self._answers(reads, read)
        for index, refusal in errors.items():  # what this transaction deleted
            answers[index] = Answer(refusal.status, dump(refusal.as_fhir()))
        return Transacted(done, answers, positions, provenance)

    async def _answers(self, reads: Sequence[Request], read: Read) -> tuple[dict[int, Answer], dict[int, FhirError]]:
        answers: dict[int, Answer] = {}
        errors: dict[int, FhirError] = {}
        for request in reads:
            try:
                answers[request.index] = await read(self, request)
            except FhirError as error:
                errors[request.index] = error
        return answers, errors

    async def operation(self, context: RequestContext, operation: Operation, call: OperationCall) -> OperationResult:
        """Run an operation: `$everything` here, any other at the service that owns it or its instance.

        Raises:
            FhirError: as the owner refuses; Unavailable, where it is not there.
            OutcomeUnknown: the owner did not answer.

        """
        if operation is EVERYTHING and call.id is not None:
            return await everything(self.store, context, call.id, call.parameters)
        if operation in STATUS:
            return await self.subscribing.status(self.store, context, call)
        if operation is EVENTS:
            return await self.subscribing.events(self.store, context, call)
        owner = owner_of_operation(operation)
        key = min(named_keys(call.parameters), default=call.type)
        if call.id is not None:
            held = await self.store.find(context.access, call.type, call.id)
            key = f"{call.type}/{call.id}"
            if held is not None:
                owner = held.origin
                key = key_of(held)
        if owner not in OWNERS:
            return await self._local.operation(context, operation, call)
        body = dump(call.parameters) if call.parameters.get("parameter") else None
        path = f"{call.type}/${call.name}" if call.id is None else f"{call.type}/{call.id}/${call.name}"
        answer = await self._send(owner, "POST", path, key, context, body=body)
        await self._copies.read_back(owner, answer, context, call)
        await self._copies.taken_in(answer.positions)
        return OperationResult(answer.body, answer.status, answer.positions, provenance=answer.headers.get(KEPT_AS))

    async def _send(
        self,
        owner: str,
        method: str,
        path: str,
        about: str | Sequence[str],
        context: RequestContext,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = ANSWER_SECONDS,
    ) -> Answered:
        """Send a request on, with the positions that its caller may have seen along the records it is `about`."""
        tenant = context.access.tenant
        awaited = []
        for key in (about,) if isinstance(about, str) else about:
            events = await self.store.inbox.positions(self.service.name, OWNERS, tenant, key)
            told = {position.service: position.sequence for position in context.awaits if position.key == key}
            awaited.append(awaits(owner, key, (events, self.seen.of(tenant, key), told)))
        sent = dict(headers or {})
        if any(awaited):
            sent["X-Kap-Await"] = ", ".join(filter(None, awaited))
        if context.provenance is not None:
            sent[HEADER] = in_one_line(context.provenance)
        answer = await self.owners.send(owner, method, path, context, body=body, headers=sent, seconds=seconds)
        self.seen.note(answer.positions)
        if KEPT_AS in answer.headers:
            await self._copies.also(owner, answer.headers[KEPT_AS], answer, context)
        return answer


def _without_id(resource: Resource) -> Resource:
    return {name: value for name, value in resource.items() if name != "id"}


async def _checked(context: RequestContext, resource: Resource, id_: str) -> str:
    """Validate before the owner is looked for, whose rule reads only what is FHIR; return the key of the record."""
    if context.body_bytes < LARGE:
        after = valid(resource, id_)
    else:
        after = await asyncio.to_thread(valid, resource, id_)
    return compartment_key(after, str(after["resourceType"]), id_)
