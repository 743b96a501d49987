"""The ASGI application of one service: FHIR routes, health, metrics, operators' routes, in a FastAPI application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Route

from shared.fhir.json import Resource, dump
from shared.fhir.outcome import BadRequest, FhirError, Issue
from shared.http.capability import capability_statement
from shared.http.errors import refusal, routing_refusal
from shared.http.interactions import FhirRoutes, offered_by
from shared.http.observe import Observe
from shared.http.openapi import openapi_of
from shared.http.operations.standard import standard_operations
from shared.runtime.everywhere import operations_for
from shared.security.audit import Audited, Auditing
from shared.security.caller import everybody
from shared.security.gate import Gate, Known
from shared.security.headers import SafeHeaders
from shared.security.limits import RateLimit
from shared.security.operators import OperatorsOnly
from shared.version import VERSION

if TYPE_CHECKING:
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Receive, Scope, Send

    from shared.http.backend import Backend
    from shared.http.capability import Offered
    from shared.runtime.service import Service
    from shared.runtime.settings import Settings
    from shared.security.caller import Authenticate

ASKED_BY_BROWSERS: Final = (
    "Authorization", "Content-Type", "If-Match", "If-None-Match", "If-None-Exist", "If-Modified-Since", "Prefer",
    "X-Request-Id", "X-Provenance", "X-Kap-Break-Glass", "X-Kap-On-Behalf-Of",
)  # fmt: skip
TOLD_TO_BROWSERS: Final = (
    "ETag", "Location", "Content-Location", "Last-Modified", "Retry-After", "WWW-Authenticate", "X-Request-Id",
    "X-Progress",
)  # fmt: skip
"""Of an answer, the headers that an app in a browser may read. No cookie is let through either way."""

PACKED_FROM: Final = 1024
"""Bytes of an answer from which on it is packed, for callers that accept gzip."""


def create_fhir_app(  # noqa: PLR0913 - the one place where an application is put together; all by name
    service: Service,
    backend: Backend | None,
    settings: Settings,
    *,
    authenticate: Authenticate | None = None,
    interactions: Offered | None = None,
    before: Sequence[BaseRoute] = (),
    routes: Sequence[BaseRoute] = (),
    middleware: Sequence[Middleware] = (),
    consents_known: Known | None = None,
    auditing: Auditing | None = None,
    security: Callable[[], Awaitable[Sequence[Resource]]] | None = None,
) -> FastAPI:
    """Return the application.

    Args:
        service: what it serves.
        backend: what answers the FHIR interactions; None: no FHIR routes (a process that only relays and consumes).
        settings: public base, limits, the key of the links.
        authenticate: tells who sent a request; None: everybody may do everything with what the service owns.
        interactions: by type, what is offered; a type that is not named offers all.
        before: routes that are tried before the FHIR ones; each costs every request a little.
        routes: more routes (health, operators'), tried after them.
        middleware: around the FHIR routes only, first is outermost.
        consents_known: passes where what is known of patients' consents is new enough to tell somebody outside; None:
            it always is.
        auditing: how requests are audited; None: they are not (tests).
        security: tells where tokens are to be had, as extensions of the CapabilityStatement.

    """
    fhir_routes: list[BaseRoute] = []
    authenticate = authenticate or everybody(origin=service.name)
    service = replace(service, operations=(*service.operations, *operations_for(service.types)))
    offered = offered_by(service, interactions, audited=auditing is not None)
    service = replace(service, operations=(*service.operations, *standard_operations(service.types, offered)))
    if backend is not None:
        since = datetime.now(UTC)

        tokens = settings.issuer is not None and not settings.no_auth
        told: dict[bytes, bytes] = {}

        async def metadata() -> bytes:
            uris = [] if security is None else list(await security())
            key = dump({"uris": uris})
            if key not in told:  # the same for as long as the issuer says the same
                said = capability_statement(
                    service, offered, settings.base_url, since=since, tokens=tokens, security=uris
                )
                told.clear()
                told[key] = dump(said)
            return told[key]

        fhir = FhirRoutes(
            service,
            Audited(Gate(service, backend, consents_known)),
            settings,
            authenticate=authenticate,
            offered=offered,
            metadata=metadata,
            auditing=auditing,
        )
        fhir_routes = [*fhir.routes()]
        if middleware:
            around = _wrapped(_answer_by_route, middleware)
            fhir_routes = [Route(route.path, _Around(around, route.app), methods=None) for route in fhir.routes()]
    app = FastAPI(
        title=service.title,
        version=VERSION,
        routes=[*before, *fhir_routes, *routes],
        exception_handlers={
            FhirError: _on_refusal,
            HTTPException: _on_routing,
            RequestValidationError: _on_invalid,
        },
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
        },  # its spans and logs carry paths, and so patients
    )
    app.add_middleware(GZipMiddleware, minimum_size=PACKED_FROM, compresslevel=5)
    app.add_middleware(OperatorsOnly, authenticate=authenticate, auditing=auditing)
    if settings.requests_per_second is not None:
        app.add_middleware(RateLimit, per_second=settings.requests_per_second)
    app.add_middleware(SafeHeaders, tls=settings.base_url.startswith("https://"))
    origins = settings.origins
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=ASKED_BY_BROWSERS,
            expose_headers=TOLD_TO_BROWSERS,
            max_age=600,
        )
    app.add_middleware(Observe, service=service.name)
    if backend is not None:
        app.openapi = lambda: openapi_of(service, offered, settings.base_url)  # type: ignore[method-assign]
    return app


_ROUTE = "kap.route"


class _Around:
    """A route behind the middleware that all FHIR routes share: one of each layer, which may count."""

    def __init__(self, around: ASGIApp, route: ASGIApp) -> None:
        self._around = around
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_ROUTE] = self._route
        await self._around(scope, receive, send)


async def _answer_by_route(scope: Scope, receive: Receive, send: Send) -> None:
    await scope[_ROUTE](scope, receive, send)


def _wrapped(app: ASGIApp, middleware: Sequence[Middleware]) -> ASGIApp:
    for layer, args, kwargs in reversed(list(middleware)):
        app = layer(app, *args, **kwargs)
    return app


async def _on_refusal(request: Request, error: Exception) -> Response:
    if not isinstance(error, FhirError):
        raise error
    return refusal(error)


async def _on_routing(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return routing_refusal(error)


async def _on_invalid(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    return refusal(
        BadRequest(
            [
                Issue(str(one["msg"]), code="value", expression=(f"http.{'.'.join(str(part) for part in one['loc'])}",))
                for one in error.errors()
            ]
        )
    )
