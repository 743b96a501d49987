"""The outermost layer: request ids, one log line and one count per request, and a fault as an OperationOutcome.

Plain ASGI. The log line holds method, route template, status, duration, request id and trace id; nothing else of the
request.
"""

from __future__ import annotations

import re
from time import perf_counter
from typing import TYPE_CHECKING

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect

from shared.fhir.ids import new_id
from shared.http.errors import unexpected
from shared.http.metrics import IN_FLIGHT, count_request
from shared.runtime.logging import fault
from shared.runtime.tracing import continued, trace_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_UNROUTED = "unrouted"
CLIENT_CLOSED_REQUEST = 499
"""Not sent: what is logged and counted where the caller went away before the answer."""

QUIET_ROUTES = frozenset(("/livez", "/readyz", "/metrics"))


class Observe:
    """Wraps one service's whole ASGI application, inside the framework's own last resort and around everything else.

    The request id is put in ``scope["state"]["request_id"]``, the trace context in ``scope["state"]["traceparent"]``. A
    route tells its template in ``scope["state"]["route"]``; one that does not is known as ``unrouted``.
    """

    def __init__(self, app: ASGIApp, service: str) -> None:
        self._app = app
        self._service = service
        self._in_flight = IN_FLIGHT.labels(service)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = perf_counter()
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else new_id()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["traceparent"] = traceparent = continued(headers.get("traceparent"))
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        self._in_flight.inc()
        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = CLIENT_CLOSED_REQUEST
        except Exception as error:  # noqa: BLE001 - the last line of defence: every fault becomes an OperationOutcome
            route = state.get("route", _UNROUTED)
            if status:  # the answer has begun and cannot be taken back
                _log.error(
                    "fault while answering", service=self._service, route=route, request_id=request_id, **fault(error)
                )
                raise _AnswerCutOff from None
            response = unexpected(error, service=self._service, route=route, request_id=request_id)
            await response(scope, receive, send_with_id)
        finally:
            self._in_flight.dec()
            seconds = perf_counter() - began
            route = state.get("route", _UNROUTED)
            count_request(self._service, scope["method"], route, status, seconds)
            if route not in QUIET_ROUTES:
                _log.info(
                    "request",
                    service=self._service,
                    method=scope["method"],
                    route=route,
                    status=status,
                    ms=round(seconds * 1000, 2),
                    request_id=request_id,
                    trace=trace_of(traceparent),
                )


class _AnswerCutOff(Exception):  # never leaves the server: it makes uvicorn close the connection
    """Raised so that the connection is closed instead of a cut answer being taken for a whole one."""
