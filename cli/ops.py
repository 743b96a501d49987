"""What the services tell of themselves under ``/ops``: JSON for this command line, no FHIR."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Self

import httpx
import msgspec

from cli.compare import Delivery, Digest, Permission, Version
from cli.stack.ports import GATEWAY, OWNERS, Ports
from cli.stack.problem import StackProblem
from shared.fhir.json import Resource
from shared.store.access import DEFAULT_TENANT
from shared.store.audit_chain import Line

DELIVERY = "delivery"
SOURCES = (*OWNERS, DELIVERY)
"""The services whose events the gateway takes in."""

CONSUMERS = (*OWNERS, GATEWAY, DELIVERY)
"""The services that take events in."""

PENDING = frozenset(("queued", "sending", "waiting"))
"""States of a delivery that still moves by itself."""


class Silent(StackProblem):
    """A service does not answer."""


@dataclass(frozen=True, slots=True)
class Outbox:
    """Events of one service: ever written, acknowledged by the broker, still to be published."""

    written: int
    published: int
    pending: int
    oldest_seconds: float | None


@dataclass(frozen=True, slots=True)
class Inbox:
    """Events that one consumer applied of one source."""

    consumer: str
    source: str
    applied: int


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds from a commit to a hop (``published`` or ``applied``)."""

    hop: str
    source: str
    count: int
    median: float
    p95: float
    maximum: float


@dataclass(frozen=True, slots=True)
class Parked:
    """Events of one partition that could not be applied."""

    topic: str
    partition: int
    count: int


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """One event that a service could not apply: which, of whom, why, how often it was tried."""

    number: int
    source: str
    event_id: str
    tenant: str
    key: str
    topic: str
    partition: int
    offset: int
    error: str
    attempts: int
    parked_at: datetime


@dataclass(frozen=True, slots=True)
class SourceLag:
    """How far a service is behind one source.

    Attributes:
        source: whose events.
        state: ``taken in``; ``not assigned``: nobody takes any of its partitions in; ``partly assigned``.
        events: that wait in the partitions that are taken in; None: nobody takes any in, so nobody knows.
        seconds: how old what is known of the source is, at its oldest; None: never heard of all of it.
        partitions, of: how many are taken in now, and how many there are.
        measured_seconds: since somebody last counted; None: nobody ever did.

    """

    source: str
    state: str
    events: int | None
    seconds: float | None
    partitions: int
    of: int
    measured_seconds: float | None


@dataclass(frozen=True, slots=True)
class Flow:
    """How events flow through one service; `lag` None: a source is not taken in by anybody, so it is not known."""

    service: str
    outbox: Outbox
    inbox: list[Inbox]
    parked: list[Parked]
    lag: int | None
    latencies: list[Latency]
    sources: list[SourceLag] = field(default_factory=list)

    @property
    def to_take_in(self) -> int | None:
        """Events of others that wait; None: not known."""
        return None if self.lag is None else self.lag - self.outbox.pending


@dataclass(frozen=True, slots=True)
class _Digests:
    digest: list[Digest]


@dataclass(frozen=True, slots=True)
class _Version:
    id: str
    version: int
    origin: str
    content: str


@dataclass(frozen=True, slots=True)
class _ParkedEvents:
    parked: list[ParkedEvent]


@dataclass(frozen=True, slots=True)
class _Due:
    due: int


@dataclass(frozen=True, slots=True)
class _Dropped:
    dropped: ParkedEvent


@dataclass(frozen=True, slots=True)
class Replayed:
    """How far a replay is: how many events were told again, and whether that is all."""

    number: int
    told: int
    ended: bool


@dataclass(frozen=True, slots=True)
class _Versions:
    versions: list[_Version]


class _Resource(msgspec.Struct):
    id: str
    permitted: bool
    changed: datetime | None


class _Disclosable(msgspec.Struct):
    resources: list[_Resource]


@dataclass(frozen=True, slots=True)
class DeliveryLine:
    """One resource on its way to one destination, as delivery's ledger has it."""

    type: str
    id: str
    state: str
    wanted_version: int
    delivered_version: int | None
    server_id: str | None
    content_hash: str | None
    said: str
    committed_at: datetime | None
    accepted_at: datetime | None
    key: str = ""
    uncertain: bool = False

    def compared(self) -> Delivery:
        """Return the line as `cli.compare` wants it."""
        return Delivery(
            type=self.type,
            id=self.id,
            state=self.state,
            wanted_version=self.wanted_version,
            delivered_version=self.delivered_version,
            server_id=self.server_id,
            content_hash=self.content_hash,
            said=self.said[:200],
            key=self.key,
            uncertain=self.uncertain,
            accepted_at=self.accepted_at,
        )


@dataclass(frozen=True, slots=True)
class Destination:
    """Where resources are pushed to, and how far each is.

    Attributes:
        id: of the Endpoint.
        name, address: for people, and the FHIR base URL.
        active: whether anything is sent.
        problem: what is in the way of sending; None: nothing.
        not_accepted: types that it lets nobody create.
        by_type: number of lines by type and state.
        pending: of these, those that still move by themselves.
        deliveries: the lines; empty where they were not asked for.
        recipient, purpose, through: whom, what for, and by which intermediary it is to the patients' consents.
        tenant: of which clinic.

    """

    id: str
    name: str
    address: str
    active: bool
    problem: str | None
    not_accepted: list[str]
    by_type: dict[str, dict[str, int]]
    pending: int
    deliveries: list[DeliveryLine] = field(default_factory=list)
    recipient: str | None = None
    purpose: str = "TREAT"
    tenant: str = DEFAULT_TENANT
    through: str | None = None

    @property
    def total(self) -> int:
        """How many lines there are."""
        return sum(sum(states.values()) for states in self.by_type.values())


@dataclass(frozen=True, slots=True)
class AuditRows:
    """Rows of a service's audit as they are held; those up to `given_up` are gone, after their retention."""

    given_up: int
    given_up_hash: bytes
    rows: list[Line]
    more: bool = False


@dataclass(frozen=True, slots=True)
class Disclosures:
    """What of a patient a service told to somebody outside, as AuditEvents, newest first; whether that is all."""

    whole: bool
    disclosures: list[Resource]


@dataclass(frozen=True, slots=True)
class _Destinations:
    destinations: list[Destination]


class Ops:
    """Asks the services of one local stack."""

    def __init__(
        self, ports: Ports, *, auth: httpx.Auth | None = None, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.ports = ports
        self._http = httpx.AsyncClient(timeout=60.0, trust_env=False, auth=auth, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def digest(self, service: str, *, since: datetime | None = None) -> list[Digest]:
        """Return what a service holds, by type and owner; with `since`, of the versions committed from then on."""
        query = {} if since is None else {"since": since.isoformat()}
        return msgspec.json.decode(await self._get(service, "digest", **query), type=_Digests).digest

    async def versions(self, service: str, type_: str, origin: str, *, since: datetime | None = None) -> list[Version]:
        """Return every version of a type of one owner that a service holds; with `since`, of those since then."""
        query = {} if since is None else {"since": since.isoformat()}
        found = msgspec.json.decode(await self._get(service, "versions", type=type_, **query), type=_Versions)
        return [Version(type_, one.id, one.version, one.content) for one in found.versions if one.origin == origin]

    async def disclosable(self, service: str, type_: str, destination: Destination) -> dict[str, Permission]:
        """Return, by ``Type/id``, what the consents that a service holds say of telling a destination."""
        query = {"type": type_, "purpose": destination.purpose, "clinic": destination.tenant}
        if destination.recipient is not None:
            query["recipient"] = destination.recipient
        if destination.through is not None:
            query["through"] = destination.through
        found = msgspec.json.decode(await self._get(service, "disclosable", **query), type=_Disclosable)
        return {f"{type_}/{one.id}": Permission(one.permitted, one.changed) for one in found.resources}

    async def flow(self, service: str) -> Flow:
        """Return how events flow through a service."""
        return msgspec.json.decode(await self._get(service, "flow"), type=Flow)

    async def parked(self, service: str) -> list[ParkedEvent]:
        """Return what a service could not apply, in the order it was parked in."""
        return msgspec.json.decode(await self._get(service, "parked"), type=_ParkedEvents).parked

    async def retry(self, service: str, number: int) -> int:
        """Have a parked event and those behind it applied again; return how many."""
        return msgspec.json.decode(await self._post(service, f"parked/{number}/retry"), type=_Due).due

    async def drop(self, service: str, number: int) -> ParkedEvent:
        """Have a parked event given up; return it."""
        return msgspec.json.decode(await self._post(service, f"parked/{number}/drop"), type=_Dropped).dropped

    async def replay(self, service: str, **what: str) -> Replayed:
        """Have a service tell again what it committed (`from`, `patient`, `to`, each optional)."""
        return msgspec.json.decode(await self._post(service, "replay", **what), type=Replayed)

    async def replayed(self, service: str, number: int) -> Replayed:
        """Return how far a replay is."""
        return msgspec.json.decode(await self._get(service, f"replay/{number}"), type=Replayed)

    async def deliveries(self, *, lines: bool) -> list[Destination]:
        """Return where delivery pushes to and how far that is, with every line of its ledger or without."""
        query = {} if lines else {"digest": "only"}
        return msgspec.json.decode(await self._get(DELIVERY, "deliveries", **query), type=_Destinations).destinations

    async def audit(self, service: str, after: int = 0) -> AuditRows:
        """Return rows of a service's audit, from a sequence on."""
        return msgspec.json.decode(await self._get(service, "audit", after=str(after)), type=AuditRows)

    async def disclosures(self, service: str, patient: str, clinic: str) -> Disclosures:
        """Return what of a clinic's patient (logical id) a service told to somebody outside of the clinic."""
        found = await self._get(service, "audit/disclosures", patient=patient, clinic=clinic)
        return msgspec.json.decode(found, type=Disclosures)

    async def _get(self, service: str, what: str, **query: str) -> bytes:
        return await self._ask("GET", service, what, query)

    async def _post(self, service: str, what: str, **query: str) -> bytes:
        return await self._ask("POST", service, what, query)

    async def _ask(self, method: str, service: str, what: str, query: Mapping[str, str]) -> bytes:
        url = f"{self.ports.url(service)}/ops/{what}"
        try:
            answer = await self._http.request(method, url, params=query)
        except httpx.TransportError:
            raise Silent(f"{service} does not answer at {url}. ./kap status tells how everything is.") from None
        if answer.status_code == httpx.codes.BAD_REQUEST:
            raise StackProblem(" ".join(issue["diagnostics"] for issue in answer.json()["issue"]))
        if answer.status_code == httpx.codes.NOT_FOUND and method == "POST":
            raise StackProblem(f"{service} has no such parked event. ./kap parked list tells what is parked.")
        if answer.status_code != httpx.codes.OK:
            raise Silent(f"{service} answers {url} with {answer.status_code}: {answer.text[:200]}")
        return answer.content


def versions_of(digests: Iterable[Digest], origin: str | None = None) -> int:
    """Return how many versions are held, of one owner or of all."""
    return sum(digest.versions for digest in digests if origin in (None, digest.origin))
