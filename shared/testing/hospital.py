"""A hospital's FHIR server to deliver to: the same kernel, holding what it is sent, and failing on demand.

    python -m services.run hospital       # KAP_HOSPITAL_PROFILE=open|epic|oracle

The profiles offer what the public CapabilityStatements of these EHRs offered in 2026, nothing more: what is not offered
is answered 405. `open` offers everything.

Faults are injected by ``POST /faults`` and counted down by the FHIR requests that follow; ``GET /faults`` tells what is
left, ``DELETE /faults`` clears it:

    {"status": 503, "times": 3}               the next three requests are answered 503, and nothing is done
    {"status": 429, "times": 1, "retry_after": 2}
    {"drop_response": 2}                      the next two changes are committed, but their answers are lost
    {"drop_request": 1}                       the connection is closed before anything is done
    {"latency_ms": 200, "times": 10}          the next ten requests take that much longer

Each may name the methods it is for: ``{"status": 500, "methods": ["POST"]}``; `drop_response` is for POST, PUT and
DELETE unless it does.

Where a secret for messages is set (``KAP_MESSAGE_SECRET``), it stands in for a gateway for text messages, too
(`shared.testing.messages`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shared.fhir.definitions import TYPES
from shared.fhir.json import dump
from shared.fhir.outcome import BadRequest, Issue, operation_outcome
from shared.http.backend import ALL_INTERACTIONS, TypeInteraction
from shared.runtime.app import App
from shared.runtime.ownership import UNSTORED
from shared.runtime.service import Service
from shared.runtime.settings import Settings, SettingsError
from shared.testing.messages import Messages

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HELD: Final = TYPES - UNSTORED

READ_ONLY: Final[frozenset[TypeInteraction]] = frozenset(("read", "vread", "history-instance", "search-type"))

_CHANGES: Final[Mapping[str, tuple[frozenset[str], frozenset[str]]]] = {
    # https://fhir.epic.com, May 2026: creates, updates
    "epic": (
        frozenset(
            (
                "AllergyIntolerance",
                "Communication",
                "Condition",
                "DocumentReference",
                "Observation",
                "Patient",
                "Procedure",
                "QuestionnaireResponse",
                "ServiceRequest",
            )
        ),
        frozenset(("DiagnosticReport", "DocumentReference", "Observation", "Procedure", "ServiceRequest", "Task")),
    ),
    # https://docs.oracle.com, Millennium Platform APIs, August 2026: creates, updates (its patches are not spoken here)
    "oracle": (
        frozenset(
            (
                "AllergyIntolerance",
                "Appointment",
                "Communication",
                "Condition",
                "Coverage",
                "DiagnosticReport",
                "DocumentReference",
                "Encounter",
                "Immunization",
                "MedicationRequest",
                "Observation",
                "Organization",
                "Patient",
                "Practitioner",
                "Procedure",
                "Provenance",
                "RelatedPerson",
            )
        ),
        frozenset(("AllergyIntolerance", "Condition", "DocumentReference", "Observation", "QuestionnaireResponse")),
    ),
}

PROFILES: Final = ("open", *_CHANGES)


def interactions_of(profile: str) -> Mapping[str, frozenset[TypeInteraction]]:
    """Return, by type, what a hospital of this profile offers.

    Raises:
        SettingsError: there is no such profile.

    """
    if profile == "open":
        return dict.fromkeys(HELD, ALL_INTERACTIONS)
    if profile not in _CHANGES:
        raise SettingsError(f"There is no hospital profile '{profile}'. There are: {', '.join(PROFILES)}.")
    creates, updates = _CHANGES[profile]
    create: frozenset[TypeInteraction] = frozenset(("create",))
    update: frozenset[TypeInteraction] = frozenset(("update",))
    nothing: frozenset[TypeInteraction] = frozenset()
    return {
        type_: READ_ONLY | (create if type_ in creates else nothing) | (update if type_ in updates else nothing)
        for type_ in HELD
    }


class Fault(msgspec.Struct, forbid_unknown_fields=True):
    """One fault, as posted; `times` counts down."""

    status: int | None = None
    times: int = 1
    retry_after: int | None = None
    drop_response: int = 0
    drop_request: int = 0
    latency_ms: int = 0
    methods: list[str] | None = None

    def is_for(self, method: str) -> bool:
        """Return whether the next request of this method meets it."""
        left = self.drop_response or self.drop_request or (self.times if self.status or self.latency_ms else 0)
        if left <= 0:
            return False
        if self.methods is not None:
            return method in self.methods
        return method in {"POST", "PUT", "DELETE"} if self.drop_response else True

    def count_down(self) -> None:
        """One request met it."""
        if self.drop_response:
            self.drop_response -= 1
        elif self.drop_request:
            self.drop_request -= 1
        else:
            self.times -= 1

    @property
    def spent(self) -> bool:
        """Whether no more requests meet it."""
        return not any(self.is_for(method) for method in (self.methods or ("POST",)))


@dataclass(slots=True)
class Faults:
    """The faults that wait for requests, oldest first."""

    waiting: list[Fault] = field(default_factory=list)

    def take(self, method: str) -> Fault | None:
        """Return the fault that a request of this method meets, counted down, or None."""
        for fault in self.waiting:
            if fault.is_for(method):
                met = msgspec.structs.replace(fault)
                fault.count_down()
                self.waiting = [one for one in self.waiting if not one.spent]
                return met
        return None

    def route(self) -> Route:
        """Return the route `/faults`."""
        return Route("/faults", self._answer, methods=["GET", "POST", "DELETE"])

    async def _answer(self, request: Request) -> Response:
        if request.method == "POST":
            try:
                fault = msgspec.json.decode(await request.body(), type=Fault)
            except msgspec.DecodeError as error:
                raise BadRequest(f"This is not a fault: {error}.") from None
            if fault.spent:
                raise BadRequest("A fault has a status, a drop_response, a drop_request or a latency_ms.")
            self.waiting.append(fault)
        elif request.method == "DELETE":
            self.waiting = []
        return JSONResponse([msgspec.to_builtins(fault) for fault in self.waiting])


class ConnectionCut(Exception):
    """Raised after an answer has begun, so that the server closes the connection in the middle of it."""


class InjectFaults:
    """Around the FHIR routes: lets requests meet the faults that wait for them."""

    def __init__(self, app: ASGIApp, faults: Faults) -> None:
        self._app = app
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        fault = self._faults.take(scope["method"]) if scope["type"] == "http" else None
        if fault is None:
            await self._app(scope, receive, send)
        elif fault.drop_response:
            await self._app(scope, receive, _nowhere)
            await _cut(send)
        elif fault.drop_request:
            await _cut(send)
        elif fault.status is not None:
            await _refusal(fault)(scope, receive, send)
        else:
            await asyncio.sleep(fault.latency_ms / 1000)
            await self._app(scope, receive, send)


async def _nowhere(_message: Message) -> None:
    """Take an answer that nobody gets."""


async def _cut(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
    await send({"type": "http.response.body", "body": b"{", "more_body": True})  # what packs keeps the start till then
    raise ConnectionCut


def _refusal(fault: Fault) -> Response:
    status = fault.status or HTTPStatus.SERVICE_UNAVAILABLE
    headers: dict[str, Any] = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    outcome = operation_outcome([Issue(f"A fault was asked for: {status}.", code="transient")])
    return Response(dump(outcome), status, headers, "application/fhir+json")


def create(settings: Settings) -> App:
    """Return the hospital.

    Raises:
        SettingsError: there is no such profile.

    """
    faults = Faults()
    secret = settings.message_secret
    messages = [] if secret is None else [Messages(secret.get_secret_value().encode()).route()]
    service = Service(
        name="hospital",
        title=f"Stand-in hospital ({settings.hospital_profile})",
        types=HELD,
        publishes=False,
    )
    return App(
        service,
        settings,
        routes=lambda _parts: [faults.route(), *messages],
        middleware=(Middleware(InjectFaults, faults=faults),),
        interactions=interactions_of(settings.hospital_profile),
    )
