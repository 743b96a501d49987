"""What the HTTP layer asks of a server: the FHIR interactions as plain calls, with plain results.

`shared.http.local` answers them from the service's own store; the gateway answers reads from its copy and forwards
writes to the owner. Refusals are raised as `shared.fhir.outcome` errors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from shared.fhir.outcome import BadRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from shared.fhir.history import HistoryQuery
    from shared.fhir.json import Resource
    from shared.fhir.patch.apply import Patch
    from shared.fhir.search import SearchQuery
    from shared.http.entries import Answer, Change, Done, Request
    from shared.http.paging import PageLinks
    from shared.runtime.service import Operation, OperationCall
    from shared.security.caller import Caller
    from shared.store.access import Access
    from shared.store.behind import Behind
    from shared.store.terminology import Loaded
    from shared.store.types import Page, Stored, Written

TypeInteraction: TypeAlias = Literal[
    "read", "vread", "update", "patch", "delete", "history-instance", "history-type", "create", "search-type"
]
"""Codes of https://hl7.org/fhir/R4/valueset-type-restful-interaction.html that this server knows."""

ALL_INTERACTIONS: frozenset[TypeInteraction] = frozenset(
    ("read", "vread", "update", "patch", "delete", "history-instance", "history-type", "create", "search-type")
)

Returns: TypeAlias = Literal["representation", "minimal", "OperationOutcome"]


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a service's outbox along one key: what `X-Kap-Position` tells and `X-Kap-Await` asks for."""

    service: str
    tenant: str
    key: str
    sequence: int

    def __str__(self) -> str:
        return f"{self.service} {self.tenant} {self.key} {self.sequence}"


def positions_of(written: Iterable[Written], tenant: str) -> tuple[Position, ...]:
    """Return the highest position per service and key of what one transaction of `tenant` committed."""
    highest: dict[tuple[str, str], int] = {}
    for write in written:
        place = (write.stored.origin, write.key)
        highest[place] = max(write.sequence, highest.get(place, 0))
    return tuple(Position(service, tenant, key, sequence) for (service, key), sequence in highest.items())


def parse_positions(header: str) -> tuple[Position, ...]:
    """Return the positions of an `X-Kap-Position` header: ``<service> <tenant> <key> <sequence>[, ...]``."""
    found = []
    for part in header.split(","):
        match part.split():
            case [service, tenant, key, sequence] if _is_sequence(sequence):
                found.append(Position(service, tenant, key, int(sequence)))
            case _:
                raise BadRequest("A position is '<service> <tenant> <key> <sequence>'.", code="value")
    return tuple(found)


def _is_sequence(text: str) -> bool:
    """Tell whether it is a number that a sequence of PostgreSQL's may have come to."""
    return text.isdecimal() and len(text) <= 18


def parse_awaits(header: str, tenant: str) -> tuple[Position, ...]:
    """Return the positions of an `X-Kap-Await` header, ``<service> <key> <sequence>[, ...]``, of `tenant`."""
    found = []
    for part in header.split(","):
        match part.split():
            case [service, key, sequence] if _is_sequence(sequence):
                found.append(Position(service, tenant, key, int(sequence)))
            case _:
                raise BadRequest("X-Kap-Await is '<service> <key> <sequence>[, ...]'.", code="value")
    return tuple(found)


@dataclass(frozen=True, slots=True)
class RequestContext:
    """Who asks, and how.

    Attributes:
        caller: who asks.
        access: what the caller may see by what is asked for; required by every store call. `shared.security.gate` sets
            it; before, nothing may be seen.
        request_id: `X-Request-Id`, the caller's or made here.
        base_url: the public base of every link, without a slash at its end: ``http://127.0.0.1:8000/fhir``.
        links: seals and opens paging links.
        traceparent: W3C trace context of the request.
        returns: `Prefer: return=`.
        lenient: `Prefer: handling=lenient`.
        body_bytes: length of the request's body as it came; a large one is worked on off the event loop.
        awaits: `X-Kap-Await`: positions of other services that must have been taken in before the request is judged.
        provenance: `X-Provenance`: who made what the request writes; None: the caller does not say.
        glass: `X-Kap-Break-Glass`: by which Task the glass is broken for its reads (`shared.security.glass`).
        behalf: `X-Kap-On-Behalf-Of`: whom an intermediary reads for (`shared.security.intermediaries`).

    """

    caller: Caller
    access: Access
    request_id: str
    base_url: str
    links: PageLinks
    traceparent: str | None = None
    returns: Returns = "representation"
    lenient: bool = False
    awaits: tuple[Position, ...] = ()
    body_bytes: int = 0
    provenance: Resource | None = None
    glass: str | None = None
    behalf: str | None = None


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What a create, update or delete left: the version now current, whether the id is new, what was committed where.

    A conditional create that found its resource has `created` False and no positions. `provenance` names the
    Provenance that was kept with it: ``Provenance/<id>``.
    """

    stored: Stored
    created: bool
    positions: tuple[Position, ...] = ()
    provenance: str | None = None


@dataclass(frozen=True, slots=True)
class OperationResult:
    """The answer of an operation: a resource as JSON bytes, the status, and what was committed where.

    `behind` and `through` as of `Stored`, of all that it tells.
    """

    body: bytes
    status: int = 200
    positions: tuple[Position, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)
    provenance: str | None = None
    behind: tuple[str, ...] = ()
    through: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Transacted:
    """What a transaction left: by entry, what became of a change or what a GET answers; what was committed where.

    `provenance` names the Provenance of all that was written.
    """

    done: Mapping[int, Done]
    answers: Mapping[int, Answer]
    positions: tuple[Position, ...] = ()
    provenance: str | None = None


Read: TypeAlias = "Callable[[Backend, Request], Awaitable[Answer]]"
"""Answers a GET entry from a backend.

Raises:
    FhirError: there is no such thing, or the request cannot be understood.

"""


class Backend(Protocol):
    """A FHIR server without its HTTP."""

    async def read(self, context: RequestContext, type_: str, id_: str) -> Stored:
        """Return the current version.

        Raises:
            NotFound: never was, or not for this caller.
            Gone: deleted.

        """
        ...

    async def vread(self, context: RequestContext, type_: str, id_: str, version: int) -> Stored:
        """Return one version.

        Raises:
            NotFound: no such version.
            Gone: that version is the deletion.

        """
        ...

    async def history(self, context: RequestContext, query: HistoryQuery, *, cursor: str | None) -> Page:
        """Return versions of one resource, a type or everything, newest first, deletions included."""
        ...

    async def search(self, context: RequestContext, query: SearchQuery, *, cursor: str | None) -> Page:
        """Return a page of the current resources that match."""
        ...

    async def behind(
        self, context: RequestContext, places: Sequence[tuple[str, str]]
    ) -> Mapping[tuple[str, str], tuple[Behind, ...]]:
        """Return the Consents that let each of these resources (type, id) be told to the caller, who is outside."""
        ...

    async def loaded(self, context: RequestContext, type_: str) -> Sequence[Loaded]:
        """Return the code systems or value sets (``CodeSystem``, ``ValueSet``) that the clinic loaded; else nothing."""
        ...

    async def create(
        self, context: RequestContext, resource: Resource, *, if_none_exist: SearchQuery | None
    ) -> WriteResult:
        """Commit a new resource; the id is the server's. With a condition: only if nothing matches it.

        Raises:
            BadRequest: not valid FHIR.
            PreconditionFailed: the condition matches several.
            Unprocessable: against a rule.

        """
        ...

    async def update(self, context: RequestContext, resource: Resource, *, expected: int | None) -> WriteResult:
        """Commit a new version of the resource whose id it carries; only over version `expected` if given."""
        ...

    async def patch(
        self, context: RequestContext, type_: str, id_: str, patch: Patch, *, expected: int | None
    ) -> WriteResult:
        """Commit the current version as `patch` changes it, validated and guarded as an update is.

        Raises:
            NotFound, Gone: there is nothing to patch.
            BadRequest: not a patch, or one that leaves what is not valid FHIR.
            PreconditionFailed: `expected` is not the current version.
            Unprocessable: the patch does not fit the current version, or its outcome is against a rule.

        """
        ...

    async def delete(
        self, context: RequestContext, type_: str, id_: str, *, expected: int | None
    ) -> WriteResult | None:
        """Commit a deletion; None where it was deleted before."""
        ...

    async def change(self, context: RequestContext, change: Change) -> WriteResult | None:
        """Commit one update, patch or deletion of what a condition finds; None where there was nothing to delete.

        Raises:
            NotFound: the condition of a patch finds nothing.
            PreconditionFailed: it finds several.

        """
        ...

    async def transact(
        self, context: RequestContext, requests: Sequence[Request], changes: Sequence[Change], read: Read
    ) -> Transacted:
        """Commit all changes of a transaction Bundle, or none, and answer its GETs, which see what was changed.

        Args:
            context: who asks.
            requests: all entries of the Bundle.
            changes: those of them that change something.
            read: answers a GET from a backend.

        Raises:
            FhirError: refused; every issue has its place in the Bundle.

        """
        ...

    async def operation(self, context: RequestContext, operation: Operation, call: OperationCall) -> OperationResult:
        """Run an operation."""
        ...
