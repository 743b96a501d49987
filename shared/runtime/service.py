"""What a service is: the types it owns, the rules that guard them, its operations, and the events it reacts to.

A service's `service.py` builds one `Service` value; everything that every FHIR service does alike is written once, in
`shared/`, and driven by it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from shared.events.envelope import Event, Interaction
from shared.fhir.json import Resource

if TYPE_CHECKING:
    from shared.runtime.record import Record
    from shared.runtime.timers import Timer
    from shared.security.labels import Labels


@dataclass(frozen=True, slots=True)
class Change:
    """A change about to be committed, as a guard sees it: before is None for a create, after is None for a delete."""

    interaction: Interaction
    type: str
    id: str
    before: Resource | None
    after: Resource | None


Guard: TypeAlias = Callable[[Change, "Record"], Awaitable[None]]
"""Called in the transaction of the write, before it, with the patient's record locked.

It raises `Unprocessable` to refuse what is about to happen. What has happened it never refuses: it writes what follows
from it (DetectedIssue, Task, ...) through the `Record`, in the same transaction. It gathers what the pure functions of
`rules.py` need, and leaves the judgement to them.
"""

Completion: TypeAlias = Callable[[Change, "Record"], Awaitable[Resource | None]]
"""Called before the guards of a write: returns the resource with what the service itself knows of it (the history of
its status, minutes from the dose); None: there is nothing to add. It takes nothing away that the client said.
"""

Reaction: TypeAlias = Callable[[Event, Resource, "Record"], Awaitable[None]]
"""Called in the transaction that takes an event in, after its resource's copy was stored (of a delete: removed)."""

OperationHandler: TypeAlias = Callable[["OperationCall", "Record"], Awaitable[Resource]]
"""Called in one transaction; returns the resource to answer with."""


@dataclass(frozen=True, slots=True)
class OperationCall:
    """A call of a FHIR operation: `parameters` is the Parameters resource of the body, or one made of the query.

    `user` and `client` are whose token called it, ``Organization/1`` and the client's id; None: nobody's.
    """

    name: str
    type: str
    id: str | None
    parameters: Resource
    user: str | None = None
    client: str | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """A FHIR operation of an instance (``Encounter/1/$start``), a type (``Patient/$match``) or all (``$export``).

    `affects_state` is False for operations that only read; they may be called by GET. `definition` is the canonical of
    its OperationDefinition where it is not the project's own (HL7's ``Patient-everything``). At system level
    `type` is empty.
    """

    name: str
    type: str
    level: Literal["instance", "type", "system"]
    handler: OperationHandler
    affects_state: bool = True
    documentation: str = ""
    definition: str | None = None

    @property
    def canonical(self) -> str:
        """The canonical of its OperationDefinition."""
        return self.definition or f"https://kap-exchange.org/fhir/OperationDefinition/{self.type}-{self.name}"


@dataclass(frozen=True, slots=True)
class Service:
    """One service.

    Attributes:
        name: ``intake``; also its database's and topic's name.
        title: for people: the CapabilityStatement's and the owner sheet's.
        types: the FHIR types its endpoint offers.
        completes: by type, what the service adds to a resource before it is judged and written.
        guards: by type, called in order on every create, update and delete of it.
        operations: its FHIR operations.
        consumes: the services whose events it takes in.
        holds: of those events, the types it keeps a copy of and reacts to; others pass by.
        leaves: by type, which of what it would hold it keeps no copy of and does not react to, as long as it holds no
            version of it: an Observation that is no weight, to who asks for weights only.
        searches_copies: whether copies are searched here: where they are only read, no index rows are made of them.
        reactions: by type, called in order on every event of it.
        timers: what it does because time has passed.
        judges_on_news: the types whose guards may refuse on the ground of what events told; a write of one waits until
            the service has heard all that its caller has seen. Writes of other types never wait for Kafka.
        fixed_ids: whether a client may choose the id of a new resource by PUT (update as create): `KAP_CLIENT_IDS`.
        publishes: whether what it commits becomes events; the stand-in hospital does not.
        topics: by canonical, what may be subscribed to; `metadata` says so of Subscription.
        labels: what resources are labelled with when it writes them; None: with nothing. The `App` of a service of the
            clinic has the policy's.

    """

    name: str
    title: str
    types: frozenset[str]
    completes: Mapping[str, Completion] = field(default_factory=dict)
    guards: Mapping[str, Sequence[Guard]] = field(default_factory=dict)
    operations: Sequence[Operation] = ()
    consumes: tuple[str, ...] = ()
    holds: frozenset[str] = frozenset()
    leaves: Mapping[str, Callable[[Resource], bool]] = field(default_factory=dict)
    searches_copies: bool = True
    reactions: Mapping[str, Sequence[Reaction]] = field(default_factory=dict)
    timers: Sequence[Timer] = ()
    judges_on_news: frozenset[str] = frozenset()
    fixed_ids: bool = False
    publishes: bool = True
    topics: Mapping[str, str] = field(default_factory=dict)
    labels: Labels | None = None
