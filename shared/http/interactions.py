"""The FHIR interactions as thin Starlette routes: which URL and method is answered by which handler.

Source: https://hl7.org/fhir/R4/http.html. A request's way: route, who asks (`Access`) and how (`Call`), what is asked
(`Reading`, `Writing`, `Operating`), the `Backend`, and the answer from the bytes it holds (`answering`). No rule and no
SQL here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import Route

from shared.http import audit_events, conformance
from shared.http.backend import ALL_INTERACTIONS
from shared.http.batch import Bundles
from shared.http.call import Call, Handler, NotOffered, Served
from shared.http.conditional import Conditional
from shared.http.operating import Operating
from shared.http.reading import Reading
from shared.http.writing import Writing
from shared.security.audit import known

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from shared.http.backend import Backend, TypeInteraction
    from shared.http.capability import Offered
    from shared.runtime.service import Service
    from shared.runtime.settings import Settings
    from shared.security.audit import Auditing
    from shared.security.caller import Authenticate


class _Endpoint:
    """Plain ASGI: knows its route template and one handler per method. HEAD is answered as GET, without the body."""

    def __init__(self, served: Served, template: str, handlers: Mapping[str, Handler]) -> None:
        self._served = served
        self._template = template
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["route"] = self._template
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        handler = self._handlers.get(method)
        if handler is None:
            raise NotOffered(f"{method} is not offered at {self._template}.", frozenset(self._handlers))

        async def answer() -> Response:
            caller = await self._served.authenticate(Headers(scope=scope))
            known(caller)
            return await handler(Call(self._served, scope, receive, caller))

        auditing = self._served.auditing
        response = await (answer() if auditing is None else auditing.request(scope, answer))
        await response(scope, receive, send)


class FhirRoutes:
    """The FHIR routes of one service over one backend."""

    def __init__(
        self,
        service: Service,
        backend: Backend,
        settings: Settings,
        *,
        authenticate: Authenticate,
        offered: Offered,
        metadata: Callable[[], Awaitable[bytes]],
        auditing: Auditing | None = None,
    ) -> None:
        self.served = Served(service, backend, settings, authenticate=authenticate, offered=offered, auditing=auditing)
        self._metadata = metadata
        self._reading = Reading(self.served, metadata)
        self._writing = Writing(self.served)
        self._conditional = Conditional(self.served)
        self._operating = Operating(self.served)
        self._bundles = Bundles(self)

    def over(self, backend: Backend) -> FhirRoutes:
        """Return the same routes over another backend."""
        served = self.served
        return FhirRoutes(
            served.service,
            backend,
            served.settings,
            authenticate=served.authenticate,
            offered=served.offered,
            metadata=self._metadata,
            auditing=served.auditing,
        )

    def routes(self) -> list[Route]:
        """Return the routes, hottest first; what begins with ``_`` or ``$`` is told from an id here."""
        reading, writing, conditional, operating = self._reading, self._writing, self._conditional, self._operating
        instance: Mapping[str, Handler] = {
            "GET": self._get,
            "PUT": writing.update,
            "PATCH": writing.patch,
            "DELETE": writing.delete,
            "POST": self._post,
        }
        on_type: Mapping[str, Handler] = {
            "GET": reading.search,
            "POST": writing.create,
            "PUT": conditional.update,
            "PATCH": conditional.patch,
            "DELETE": conditional.delete,
        }
        on_instance: Mapping[str, Handler] = {"GET": operating.on_instance, "POST": operating.on_instance}
        table: list[tuple[str, Mapping[str, Handler]]] = [
            ("/fhir/{type}/{id}", instance),
            ("/fhir/metadata", {"GET": reading.capabilities}),
            ("/fhir/_search", {"POST": reading.search_by_form}),
            ("/fhir/_history", {"GET": reading.history_of_system}),
            ("/fhir/{type}", on_type),
            ("/fhir/{type}/{id}/_history", {"GET": reading.history_of_instance}),
            ("/fhir/{type}/{id}/_history/{version}", {"GET": reading.vread}),
            ("/fhir/{type}/{id}/{operation}", on_instance),
            ("/fhir", {"GET": reading.search_system, "POST": self._bundles.post}),
            ("/fhir/", {"GET": reading.search_system, "POST": self._bundles.post}),
        ]
        return [Route(path, _Endpoint(self.served, path, handlers), methods=None) for path, handlers in table]

    async def _get(self, call: Call) -> Response:
        id_ = call.place["id"]
        if id_.startswith("$"):
            return await self._operating.on_type(call)
        return await (self._reading.history_of_type(call) if id_ == "_history" else self._reading.read(call))

    async def _post(self, call: Call) -> Response:
        id_ = call.place["id"]
        if id_ == "_search":
            return await self._reading.search_by_form(call)
        if id_.startswith("$"):
            return await self._operating.on_type(call)
        self.served.type_of(call)
        raise NotOffered(
            "POST is not offered on a resource; create by POST on its type.",
            frozenset(("GET", "PUT", "PATCH", "DELETE")),
        )


def offered_by(
    service: Service, interactions: Offered | None, *, audited: bool = False
) -> dict[str, frozenset[TypeInteraction]]:
    """Return what a service offers: every type of it with all interactions, unless `interactions` says otherwise.

    The types of `shared.http.conformance` can be read and searched everywhere, AuditEvents where there is an audit.
    """
    restricted = interactions or {}
    held = {type_: restricted.get(type_, ALL_INTERACTIONS) for type_ in service.types}
    made = dict.fromkeys(conformance.TYPES_OF, conformance.INTERACTIONS)
    return {**made, **held, **({audit_events.TYPE: audit_events.INTERACTIONS} if audited else {})}
