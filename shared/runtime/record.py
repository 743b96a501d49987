"""The unit of work: everything one request or one event does to the record, in one transaction, through one door.

A POST, an operation, a guard that raises an alarm and a reaction to an event all end here: validate, guard, write.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from shared.fhir.extraction import compartment_key, extract, labels_of
from shared.fhir.freshness import Freshness, Unheard, as_words
from shared.fhir.ids import new_id, subject_uuid
from shared.fhir.index import IndexRows
from shared.fhir.json import Resource, parse
from shared.fhir.outcome import Gone, Issue, MethodNotAllowed, NotFound, Unavailable, Unprocessable
from shared.fhir.query import parse_search
from shared.fhir.validation import require_valid
from shared.runtime.service import Change, Service
from shared.store.access import Access
from shared.store.knowledge import ages
from shared.store.terminology import StoredTerminology
from shared.store.types import Stored, Write, Written

if TYPE_CHECKING:
    from shared.events.envelope import Interaction
    from shared.store.store import Store, Transaction

_RETRY_SECONDS: Final = 1
_OF_THE_SERVER: Final = frozenset(("versionId", "lastUpdated", "_versionId", "_lastUpdated"))


@dataclass(frozen=True, slots=True)
class Prepared:
    """A resource that is valid, with all that the store must know of it: the processor's work, done before any lock.

    `resource` is None for a deletion; else it carries `id`, and no `meta.versionId` and `meta.lastUpdated`.
    """

    type: str
    id: str
    resource: Resource | None
    key: str
    labels: tuple[str, ...]
    index: IndexRows

    def as_write(
        self,
        interaction: Interaction,
        *,
        expected: int | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> Write:
        """Return it as a change to commit."""
        patient = self.key.removeprefix("Patient/") if self.key.startswith("Patient/") else None
        return Write(
            interaction=interaction,
            type=self.type,
            id=self.id,
            resource=self.resource,
            key=self.key,
            patient=None if patient is None else subject_uuid(patient),
            labels=self.labels,
            index=self.index,
            expected=expected,
            request_id=request_id,
            traceparent=traceparent,
        )


def valid(resource: Resource, id_: str) -> Resource:
    """Validate `resource` and return it with `id_`, without what in its `meta` is the server's to say.

    Raises:
        BadRequest: not valid FHIR; with every issue.

    """
    after = _said(resource, id_)
    require_valid(after)
    return after


def _said(resource: Resource, id_: str) -> Resource:
    after: Resource = {"resourceType": resource.get("resourceType"), "id": id_, **resource}
    after["id"] = id_
    meta = after.get("meta")
    if isinstance(meta, dict):
        kept = {name: value for name, value in meta.items() if name not in _OF_THE_SERVER}
        if kept or not meta:  # an empty meta of the caller's is left for the validation to refuse
            after["meta"] = kept
        else:
            del after["meta"]
    return after


def prepare(resource: Resource, id_: str) -> Prepared:
    """Validate `resource`, give it `id_`, and compute its key, labels and index rows.

    Raises:
        BadRequest: not valid FHIR; with every issue.

    """
    after = valid(resource, id_)
    type_ = str(after["resourceType"])
    return Prepared(type_, id_, after, compartment_key(after, type_, id_), labels_of(after), extract(after))


def bearing(ready: Prepared, resource: Resource) -> Prepared:
    """Return a prepared resource with the labels of `resource`, which is the same in all else."""
    if resource is ready.resource:
        return ready
    of_labels = extract({"resourceType": ready.type, "meta": {"security": resource["meta"]["security"]}}).token
    others = [row for row in ready.index.token if row.parameter.partition(":")[0] != "_security"]
    index = replace(ready.index, token=[*others, *of_labels])
    return replace(ready, resource=resource, labels=labels_of(resource), index=index)


class Record:
    """One transaction on what a service holds.

    `user` is the resource of the person who asked for it (``Practitioner/<id>``); None: no person, or nobody knows.
    `client` is the client by whose token it was asked; None: no token was asked for, or the service does it by itself.
    `reads` is what exists, by reading, for who learns of what is answered; None: as `access` has it.
    """

    def __init__(
        self,
        service: Service,
        transaction: Transaction,
        access: Access,
        *,
        request_id: str | None = None,
        traceparent: str | None = None,
        behind: Sequence[str] = (),
        user: str | None = None,
        client: str | None = None,
        reads: Access | None = None,
    ) -> None:
        self.service = service
        self.transaction = transaction
        self.access = access
        self.request_id = request_id
        self.traceparent = traceparent
        self.behind = tuple(behind)
        self.user = user
        self.client = client
        self.reads = reads
        self.written: list[Written] = []
        self._read: dict[tuple[str, str], Stored | None] = {}

    @property
    def _all(self) -> Access:
        """Guards and reactions judge on everything the service holds, whatever the caller may see."""
        return Access.unrestricted(self.access.tenant)

    @property
    def terminology(self) -> StoredTerminology:
        """What codes mean, as far as it is shipped or was loaded here (`shared.terminology.port.Terminology`)."""
        return StoredTerminology(self.transaction.connection)

    async def unheard(self, limit: Freshness | None = None, *keys: str) -> list[Unheard]:
        """Return the services whose newest news along `keys` may be missing here.

        Those are the ones whose events the caller has seen the effect of and that have not been taken in here, and of
        those that `limit` names the ones that were not heard of for longer than it allows.
        """
        found = [Unheard(source, None, seen=True) for source in dict.fromkeys(self.behind)]
        if limit is None:
            return found
        told = await ages(
            self.transaction.connection, self.service.name, limit.of, self.transaction.tenant, sorted(set(keys))
        )
        found.extend(one for one in limit.too_old(told) if one.source not in self.behind)
        return found

    async def require_current(self, limit: Freshness | None = None, *keys: str) -> None:
        """Refuse to judge what is about to happen on news along `keys` that may be too old.

        For guards of intent only. What has happened is recorded whatever is known: a guard of facts does not ask.

        Raises:
            Unavailable: see `unheard`; names whom was not heard of, and since when.

        """
        unheard = await self.unheard(limit, *keys)
        if unheard:
            raise Unavailable(
                [
                    Issue(
                        f"{self.service.title} does not decide without the latest news. It lacks {as_words(unheard)}. "
                        "Try again.",
                        code="transient",
                        expression=tuple(dict.fromkeys(key.partition("/")[0] for key in keys)),
                        rule="N-NEWS",
                        source="KAP Exchange" if limit is None else limit.source,
                        evidence=keys,
                    )
                ],
                retry_after=_RETRY_SECONDS,
            )

    async def knowledge_age(self, source: str, *keys: str) -> timedelta | None:
        """Return how long ago this service knew, for certain, all that `source` had committed along `keys`.

        None: it never heard. Without keys it is about everything; events that are parked are not known.
        """
        transaction = self.transaction
        told = await ages(transaction.connection, self.service.name, [source], transaction.tenant, keys)
        seconds = told[source]
        return None if seconds is None else timedelta(seconds=seconds)

    async def get(self, type_: str, id_: str) -> Resource | None:
        """Return the current resource, own or copied, or None where there is none (never, or deleted)."""
        stored = await self.stored(type_, id_)
        return None if stored is None or stored.deleted else parse(stored.body)

    async def as_written(self, resource: Resource, *says: str) -> Resource:
        """Return a resource with the time at which what it says was written; as it is where it says one of `says`.

        A later version that changes nothing but its meta (`label`) makes no answer, order or reading newer.
        """
        meta = resource.get("meta", {})
        if "lastUpdated" not in meta or any(name in resource for name in says):
            return resource
        when = meta["lastUpdated"]
        for number in range(int(meta["versionId"]) - 1, 0, -1):
            try:
                stored = await self.transaction.read_version(
                    self._all, resource["resourceType"], resource["id"], number
                )
            except NotFound:  # a copy that never came
                continue
            except Gone:
                break
            held = parse(stored.body)
            if {**held, "meta": None} != {**resource, "meta": None}:
                break
            when = held["meta"]["lastUpdated"]
        return {**resource, "meta": {**meta, "lastUpdated": when}}

    async def stored(self, type_: str, id_: str) -> Stored | None:
        """Return the current version with its origin, own or copied, deleted or not.

        What was read once in this transaction is not read again until it is written here, or more is locked: each guard
        of each resource of a Bundle asks for the same visit, whose record is held.
        """
        if (type_, id_) not in self._read:
            self._read[type_, id_] = await self.transaction.find(self._all, type_, id_)
        return self._read[type_, id_]

    async def lock(self, *keys: str) -> None:
        """Hold more keys until the commit (`Transaction.lock`); what was read before may have changed meanwhile."""
        await self.transaction.lock(*keys)
        self._read.clear()

    async def search(self, type_: str, criteria: Mapping[str, str] | Sequence[tuple[str, str]]) -> list[Resource]:
        """Return all current resources, own or copied, that match FHIR search parameters, oldest first.

        A mapping cannot repeat a parameter; give pairs for that (``[("date", "ge2026"), ("date", "lt2027")]``).
        """
        return [parse(one.body) for one in await self._found(type_, criteria)]

    async def search_own(self, type_: str, criteria: Mapping[str, str] | Sequence[tuple[str, str]]) -> list[Resource]:
        """As `search`, but of the service's own resources alone."""
        found = await self._found(type_, criteria)
        return [parse(one.body) for one in found if one.origin == self.service.name]

    async def _found(self, type_: str, criteria: Mapping[str, str] | Sequence[tuple[str, str]]) -> list[Stored]:
        pairs = list(criteria.items()) if isinstance(criteria, Mapping) else list(criteria)
        query = parse_search(type_, [*pairs, ("_count", "1000")], strict=True)
        found: list[Stored] = []
        cursor: str | None = None
        while True:
            page = await self.transaction.search(self._all, query, cursor=cursor)
            found.extend(page.entries)
            if page.next is None:
                return found
            cursor = page.next

    async def create(self, resource: Resource | Prepared) -> Written:
        """Validate, guard and write a new resource; its id is made here.

        Raises:
            BadRequest: not valid FHIR.
            Unprocessable: against a rule.

        """
        ready = resource if isinstance(resource, Prepared) else prepare(resource, new_id())
        self._require_owned(ready.type)
        ready = await self._completed("create", ready, None)
        return await self._commit("create", ready, before=None, expected=None)

    async def update(
        self, resource: Resource | Prepared, *, expected: int | None = None, unlabels: bool = False
    ) -> Written:
        """Validate, guard and write a new version of the resource whose `id` it carries.

        It keeps the security labels of the last version; with `unlabels` those alone that it says and has to bear.

        Raises:
            NotFound: no such resource here, and a client may not choose ids.
            PreconditionFailed: `expected` is not the current version.
            Unprocessable: against a rule, or the subject differs from the one it was created with.

        """
        ready = resource if isinstance(resource, Prepared) else prepare(resource, str(resource.get("id")))
        type_, id_ = ready.type, ready.id
        self._require_owned(type_)
        current = await self._reached(type_, id_)
        if current is None and not self.service.fixed_ids:
            raise NotFound(f"There is no {type_}/{id_} here. Create it by POST {type_}; the server gives the id.")
        if current is not None and current.origin != self.service.name:
            raise NotFound(f"{type_}/{id_} belongs to {current.origin}, not to {self.service.name}.")
        before = None if current is None or current.deleted else parse(current.body)
        ready = await self._completed("update", ready, before)
        if before is not None and compartment_key(before, type_, id_) != ready.key:
            raise Unprocessable(
                "The patient of a resource cannot be changed. Mark it entered-in-error and create a new one.",
                expression=[f"{type_}.subject"],
            )
        return await self._commit("update", ready, before=before, expected=expected, unlabels=unlabels)

    async def label(self, type_: str, id_: str) -> Written | None:
        """Write a version with the labels that the rules say now; None where it has them, or is not this service's.

        Nothing else is changed, so no guard judges it, nor whether it would be valid today.

        Raises:
            Unprocessable: it is a process note.

        """
        current = await self.transaction.find(self._all, type_, id_, lock=True)
        if current is None or current.deleted or current.origin != self.service.name:
            return None
        held = _said(parse(current.body), id_)
        key = compartment_key(held, type_, id_)
        ready = Prepared(type_, id_, held, key, labels_of(held), extract(held))
        labelled = await self._labelled(ready, None)
        if labelled is ready:
            return None
        write = labelled.as_write("update", request_id=self.request_id, traceparent=self.traceparent)
        written = await self.transaction.write(self._all, write)
        self.written.append(written)
        self._read.pop((type_, id_), None)
        return written

    async def delete(self, type_: str, id_: str, *, expected: int | None = None) -> Written | None:
        """Guard and write a deletion; None where it was deleted before.

        Raises:
            NotFound: there never was such a resource here.
            PreconditionFailed: `expected` is not the current version.

        """
        current = await self._reached(type_, id_)
        if current is None or current.origin != self.service.name:
            raise NotFound(f"There is no {type_}/{id_} here.")
        if current.deleted:
            return None
        before = parse(current.body)
        gone = Prepared(type_, id_, None, compartment_key(before, type_, id_), (), IndexRows())
        return await self._commit("delete", gone, before=before, expected=expected)

    async def _reached(self, type_: str, id_: str) -> Stored | None:
        """Return what is held, locked; None where it does not exist for the caller: before anything judges it.

        Who may not see everything is asked for first: what is hidden takes the statements of what is not there.
        """
        narrow = None if self.access.in_full((type_,)) else replace(self.access, origin=None)
        if narrow is not None and await self.transaction.find(narrow, type_, id_) is None:
            return None
        current = await self.transaction.find(self._all, type_, id_, lock=True)
        if current is None or narrow is None:
            return current
        return await self.transaction.find(narrow, type_, id_)

    def _require_owned(self, type_: str) -> None:
        if type_ not in self.service.types:
            raise MethodNotAllowed(f"{self.service.title} does not own {type_}.")

    async def _completed(self, interaction: Interaction, ready: Prepared, before: Resource | None) -> Prepared:
        """Return it with what the service adds, as of everything it holds; the patient may be of that."""
        complete = self.service.completes.get(ready.type)
        if complete is None:
            return ready
        asked = self.access
        self.access = self._all
        try:
            completed = await complete(Change(interaction, ready.type, ready.id, before, ready.resource), self)
        finally:
            self.access = asked
        return ready if completed is None else prepare(completed, ready.id)

    async def _labelled(self, ready: Prepared, before: Resource | None) -> Prepared:
        """Return it with the labels it has to bear.

        Raises:
            Unprocessable: it is a process note, which is no part of the record.

        """
        if self.service.labels is None or ready.resource is None:
            return ready
        labels = self.service.labels.of(self.access.tenant)
        asked = labels.ask_for_unit(ready.resource)
        encounter = None if asked is None else await self.get("Encounter", asked)
        return bearing(ready, labels.labelled(ready.resource, before=before, encounter=encounter))

    async def _commit(
        self,
        interaction: Interaction,
        ready: Prepared,
        *,
        before: Resource | None,
        expected: int | None,
        unlabels: bool = False,
    ) -> Written:
        asked = self.access
        self.access = self._all  # an alarm that a guard raises is the clinic's, whatever the caller may write
        try:
            ready = await self._labelled(ready, None if unlabels else before)
            for guard in self.service.guards.get(ready.type, ()):
                await guard(Change(interaction, ready.type, ready.id, before, ready.resource), self)
        finally:
            self.access = asked
        written = await self.transaction.write(
            self.access,
            ready.as_write(interaction, expected=expected, request_id=self.request_id, traceparent=self.traceparent),
        )
        self.written.append(written)
        self._read.pop((ready.type, ready.id), None)
        return written


@asynccontextmanager
async def open_record(
    service: Service,
    store: Store,
    access: Access,
    *,
    keys: Sequence[str],
    request_id: str | None = None,
    traceparent: str | None = None,
    behind: Sequence[str] = (),
    user: str | None = None,
    client: str | None = None,
    reads: Access | None = None,
) -> AsyncIterator[Record]:
    """Open a transaction with the records of `keys` (``Patient/<id>`` ...) locked; commit when the block ends well.

    `behind` names the services whose latest news, seen by the caller, has not arrived here (`Record.require_current`);
    `user` is the resource of the person who asks, `client` the client by whose token, `reads` what he may read.
    """
    async with store.transaction(keys=keys, tenant=access.tenant) as transaction:
        yield Record(
            service,
            transaction,
            access,
            request_id=request_id,
            traceparent=traceparent,
            behind=behind,
            user=user,
            client=client,
            reads=reads,
        )
