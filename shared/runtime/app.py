"""A service with everything that runs it: what `services.<name>.service.create(settings)` returns.

A plain clinical service is one line: ``return App(SERVICE, settings)``. The gateway, delivery and the stand-in hospital
give their own backend, routes, middleware or tasks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from shared.http.backend import Backend, TypeInteraction
from shared.runtime.labelling import labels_of_policy
from shared.runtime.service import Service
from shared.runtime.settings import Role, Settings

if TYPE_CHECKING:
    from starlette.middleware import Middleware
    from starlette.routing import BaseRoute

    from shared.events.consumer import EventHandler
    from shared.http.audits_beside import AuditsBeside
    from shared.security.bearer import Issuer
    from shared.security.caller import Authenticate
    from shared.store.store import Store


@dataclass(frozen=True, slots=True)
class Parts:
    """What the hooks of an `App` are given.

    Attributes:
        service, settings: as the App has them.
        store: the service's database, connected.
        authenticate: tells who sent a request.
        closing: what is entered or pushed here is closed when the service stops (an HTTP client, say).
        issuer: whose tokens are believed; None: no token is asked for.

    """

    service: Service
    settings: Settings
    store: Store
    authenticate: Authenticate
    closing: AsyncExitStack
    issuer: Issuer | None = None


Beat: TypeAlias = Callable[[], None]
"""Called by a task to say that it makes progress."""


@dataclass(frozen=True, slots=True)
class Background:
    """A task that runs as long as the process.

    Attributes:
        name: for logs, `/livez` and `/metrics`.
        run: runs until it is cancelled; when it raises, that is logged and counted, and it is started again.
        role: the task runs in processes of this role.
        stalled_after: seconds without a beat after which `/livez` fails.

    """

    name: str
    run: Callable[[Parts, Beat], Awaitable[None]]
    role: Role = "worker"
    stalled_after: float = 60.0


@dataclass(frozen=True, slots=True)
class App:
    """A service, its settings, and what it does otherwise than a plain one.

    Attributes:
        service: what it is; whether clients choose ids is the settings' to say.
        settings: of this process.
        backend: makes what answers the FHIR interactions; None: its own store.
        handler: makes what takes its events in; None: copies, reactions and parking as every service has them.
        background: tasks beside the relay and the consumer.
        routes: more routes, tried before the FHIR ones.
        middleware: ASGI middleware around the FHIR routes only, first is outermost; faults are injected here.
        interactions: by type, what is offered; a type that is not named offers all. `metadata` says the same.
        fhir: whether it has a FHIR endpoint (the issuer of tokens has none).
        databases: further databases: by address, the folder of their migrations.
        audits: makes what asks the audits of the services behind this one; None: it tells its own only.
        shows_copies: whether its FHIR endpoint shows copies of others' resources too (the gateway's does).

    """

    service: Service
    settings: Settings
    backend: Callable[[Parts], Backend] | None = None
    handler: Callable[[Parts], EventHandler] | None = None
    background: Sequence[Background] = ()
    routes: Callable[[Parts], Sequence[BaseRoute]] | None = None
    middleware: Sequence[Middleware] = ()
    interactions: Mapping[str, frozenset[TypeInteraction]] | None = None
    fhir: bool = True
    audits: Callable[[Parts], AuditsBeside] | None = None
    databases: Mapping[str, str] = field(default_factory=dict, repr=False)
    shows_copies: bool = False

    def __post_init__(self) -> None:
        if self.settings.client_ids:
            object.__setattr__(self, "service", replace(self.service, fixed_ids=True))
        if self.fhir and self.service.publishes:
            object.__setattr__(self, "service", replace(self.service, labels=labels_of_policy(self.settings.policy)))
