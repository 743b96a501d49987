"""A transaction through the gateway: one owner for all of it, forwarded whole, and its answer put into the copy.

Whose each entry is, is decided as for a single write; what it refers to may be another entry of the same Bundle.
Conditional references are resolved here, where the whole record is at hand; those that mean what the transaction itself
makes are left to the owner.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from services.gateway.copies import Left, deletion_of, left_of
from services.gateway.whose import Whose
from shared.fhir.extraction import compartment_key
from shared.fhir.ids import new_id
from shared.fhir.json import Resource, dump
from shared.fhir.links import LinkKind, relinked
from shared.fhir.outcome import FhirError, Issue, NotFound, Unprocessable
from shared.http.body import LARGE
from shared.http.entries import READS, Change, Done, Request, refused
from shared.http.linking import conditional_references, find_all, link, links_between, targets_of
from shared.http.negotiation import version_of_etag
from shared.runtime.ownership import ALONE
from shared.runtime.record import valid

if TYPE_CHECKING:
    from services.gateway.owners import Answered
    from shared.fhir.search import SearchQuery
    from shared.http.backend import RequestContext
    from shared.http.linking import Targets
    from shared.store.store import Store

_ENTRY: Final = re.compile(r"^Bundle\.entry\[([0-9]+)\]")


@dataclass(slots=True)
class _Aimed:
    """A change, the id it is about (of a new resource a provisional one), and whose it is."""

    change: Change
    id: str | None
    content: Resource | None = None
    owner: str | None = None
    key: str | None = None


class _DecideFirst(Exception):
    """Whose another change is has to be known before."""

    def __init__(self, aimed: _Aimed) -> None:
        super().__init__(aimed.change.type)
        self.aimed = aimed


@dataclass(frozen=True, slots=True)
class Routed:
    """A transaction on its way.

    Attributes:
        owner: whose all of it is; None: there is nothing to be done.
        body: the Bundle to send.
        sent: the entries of the Bundle sent, by their index in the one that came.
        keys: the records it is about, as far as they are there already.
        key_of: of an entry that deletes, the record it belongs to.
        nothing: entries that delete what nobody has.

    """

    owner: str | None
    body: bytes
    sent: tuple[int, ...]
    keys: tuple[str, ...]
    key_of: Mapping[int, str]
    nothing: tuple[int, ...]


class Routing:
    """Finds the one owner of a transaction."""

    def __init__(
        self, store: Store, context: RequestContext, requests: Sequence[Request], changes: Sequence[Change]
    ) -> None:
        self._store = store
        self._whose = Whose(store)
        self._context = context
        self._requests = {request.index: request for request in requests if request.method not in READS}
        self._changes = changes
        self._aimed: dict[int, _Aimed] = {}
        self._by_identity: dict[tuple[str, str], _Aimed] = {}
        self._deciding: set[int] = set()
        self._errors: dict[int, FhirError] = {}

    async def route(self) -> Routed:
        """Return where the transaction goes, and as what.

        Raises:
            FhirError: an entry cannot be understood or belongs to nobody; or (Unprocessable) the entries belong to
                several owners.

        """
        references, unread = conditional_references(self._changes)
        self._errors.update(unread)
        targets = await self._targets(references)
        await self._aim(targets)
        self._refuse()
        for aimed in self._aimed.values():
            try:
                await self._decide(aimed)
            except FhirError as error:
                self._errors[aimed.change.index] = error
        self._refuse()
        owners = {aimed.owner for aimed in self._aimed.values() if aimed.owner is not None}
        if len(owners) > 1:
            raise self._across_owners()
        sent = tuple(index for index, aimed in self._aimed.items() if aimed.owner is not None)
        begun = {f"{one.change.type}/{one.id}" for one in self._aimed.values() if one.change.id is None}
        keys = {aimed.key for aimed in self._aimed.values() if aimed.key is not None} - begun
        return Routed(
            next(iter(owners), None),
            self._bundle(sent, targets),
            sent,
            tuple(sorted(keys)),
            {index: aimed.key for index, aimed in self._aimed.items() if aimed.key is not None},
            tuple(index for index, aimed in self._aimed.items() if aimed.owner is None),
        )

    def _refuse(self) -> None:
        if self._errors:
            raise refused(self._errors, {change.index: change.type for change in self._changes})

    async def _targets(self, references: Mapping[str, SearchQuery]) -> Targets:
        gone = {(one.type, one.id) for one in self._changes if one.method == "DELETE" and one.id is not None}
        found = await find_all(self._store, self._context.access.tenant, references.values(), most=2 + len(gone))
        return await targets_of(
            self._store,
            self._context.access,
            references,
            found,
            gone=gone,
            makes={one.type for one in self._changes if one.method != "DELETE"},
        )

    async def _aim(self, targets: Targets) -> None:
        """Give each change the id it is about, and its content the links that follow; all of it is then valid FHIR."""
        for change in self._changes:
            made = change.method in {"POST", "PUT"} and change.id is None
            aimed = _Aimed(change, new_id() if made else change.id)
            self._aimed[change.index] = aimed
            if aimed.id is not None:
                self._by_identity[change.type, aimed.id] = aimed
        links = links_between({index: (aimed.change, aimed.id) for index, aimed in self._aimed.items()})

        def validate_all() -> None:
            for aimed in self._aimed.values():
                if aimed.change.resource is None:
                    continue
                linked = link(aimed.change, aimed.change.resource, links, targets, base_url=self._context.base_url)
                try:
                    if linked.refusal is not None:
                        raise linked.refusal
                    aimed.content = valid(linked.content, str(aimed.id))
                except FhirError as error:
                    self._errors[aimed.change.index] = error

        if self._context.body_bytes < LARGE:
            validate_all()
        else:
            await asyncio.to_thread(validate_all)

    async def _decide(self, aimed: _Aimed) -> str | None:
        """Find whose a change is; None where a delete finds nothing."""
        if aimed.owner is not None or aimed.change.index in self._deciding:
            return aimed.owner
        self._deciding.add(aimed.change.index)
        change, access = aimed.change, self._context.access
        if aimed.content is not None:
            aimed.key = compartment_key(aimed.content, change.type, str(aimed.id))
        if change.id is not None:
            try:
                aimed.owner, aimed.key = await self._whose.held_by(access, change.type, change.id)
            except NotFound:
                if aimed.content is None:
                    raise
                aimed.owner = await self._of_content(aimed.content)
            return aimed.owner
        if change.type in ALONE and aimed.content is not None:
            aimed.owner = ALONE[change.type]
            return aimed.owner
        if change.condition is not None:
            where = "http.if-none-exist" if change.method == "POST" else "http.url"
            found = await self._whose.found(access.tenant, change.condition, where=where)
            if found is not None:
                aimed.owner, aimed.key = found
                return aimed.owner
        if aimed.content is not None:
            aimed.owner = await self._of_content(aimed.content)
        elif change.type in ALONE:
            aimed.owner = ALONE[change.type]
        elif change.method == "PATCH":
            raise NotFound(f"The condition finds no {change.type}.", expression=["http.url"])
        return aimed.owner

    async def _of_content(self, content: Resource) -> str:
        """Return the owner of new content; what it refers to in the same Bundle is decided first."""

        def known(type_: str, id_: str) -> str | None:
            other = self._by_identity.get((type_, id_))
            if other is not None and other.owner is None and other.change.index not in self._deciding:
                raise _DecideFirst(other)
            return None if other is None else other.owner

        while True:
            try:
                return await self._whose.of_new(self._context.access, content, known)
            except _DecideFirst as needed:
                await self._decide(needed.aimed)

    def _across_owners(self) -> FhirError:
        issues = [
            Issue(
                f"{aimed.change.type} of entry {index} belongs to {aimed.owner}.",
                code="business-rule",
                expression=(f"Bundle.entry[{index}]",),
            )
            for index, aimed in sorted(self._aimed.items())
            if aimed.owner is not None
        ]
        said = (
            "The entries belong to several services of this clinic, and a transaction is all or nothing within one. "
            "Nothing was changed. Send one transaction for each, what is referred to first; or a batch."
        )
        return Unprocessable([Issue(said, code="not-supported", expression=("Bundle",)), *issues])

    def _bundle(self, sent: Sequence[int], targets: Targets) -> bytes:
        def resolved(kind: LinkKind, text: str) -> str:
            target = targets.get(text) if kind == "reference" else None
            return target if isinstance(target, str) else text

        entries = []
        for index in sent:
            request = self._requests[index]
            entry: Resource = {} if request.full_url is None else {"fullUrl": request.full_url}
            if request.resource is not None:
                entry["resource"] = relinked(request.resource, resolved)
            entry["request"] = {**request.said, "url": request.url}
            entries.append(entry)
        return dump({"resourceType": "Bundle", "type": "transaction", "entry": entries})


def in_place(error: FhirError, sent: Sequence[int]) -> FhirError:
    """Return an owner's refusal with the places that its entries have in the Bundle that came."""

    def moved(match: re.Match[str]) -> str:
        return f"Bundle.entry[{sent[int(match[1])]}]" if int(match[1]) < len(sent) else "Bundle"

    error.issues = tuple(
        replace(issue, expression=tuple(_ENTRY.sub(moved, place) for place in issue.expression))
        for issue in error.issues
    )
    return error


class _Response(msgspec.Struct):
    status: str
    location: str | None = None
    etag: str | None = None
    lastModified: str | None = None  # noqa: N815 - FHIR's name


class _Entry(msgspec.Struct):
    response: _Response
    resource: msgspec.Raw = msgspec.Raw(b"")


class _Answer(msgspec.Struct):
    entry: list[_Entry] = []


def done_of(answer: Answered, routed: Routed) -> tuple[dict[int, Done], list[Left]]:
    """Return what became of each change that was sent, and the versions to put into the copy."""
    said = msgspec.json.decode(answer.body, type=_Answer)
    done: dict[int, Done] = {}
    left: list[Left] = []
    for index, entry in zip(routed.sent, said.entry, strict=True):
        response = entry.response
        version = _version(response, routed, index, bytes(entry.resource))
        done[index] = Done(None if version is None else version.stored, created=response.status.startswith("201"))
        if version is not None:
            left.append(version)
    return done, left


def _version(response: _Response, routed: Routed, index: int, body: bytes) -> Left | None:
    owner: Any = routed.owner
    if body:
        return left_of(body, owner)
    if response.location is None or response.etag is None or response.lastModified is None:
        return None
    type_, id_ = response.location.split("/")[-4:-2]
    when = datetime.fromisoformat(response.lastModified)
    key = routed.key_of.get(index, f"{type_}/{id_}")
    return deletion_of(type_, id_, version_of_etag(response.etag), when, owner, key)
