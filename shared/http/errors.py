"""Errors as answers: each is an OperationOutcome, and a fault of the program says no more than its request id.

Source: https://hl7.org/fhir/R4/http.html#Status-Codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from starlette.exceptions import HTTPException
from starlette.responses import Response

from shared.fhir.json import dump
from shared.fhir.outcome import FhirError, Issue, MethodNotAllowed, NotFound, operation_outcome
from shared.http.metrics import FAULTS
from shared.http.negotiation import FHIR_JSON
from shared.runtime.logging import fault

if TYPE_CHECKING:
    from collections.abc import Mapping

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def refusal(error: FhirError) -> Response:
    """Return the answer to an expected refusal."""
    return Response(dump(error.as_fhir()), error.status, error.headers, FHIR_JSON)


def routing_refusal(error: HTTPException) -> Response:
    """Return Starlette's own 404 and 405 as OperationOutcomes."""
    headers: Mapping[str, str] = error.headers or {}
    outcome: FhirError
    if error.status_code == MethodNotAllowed.status:
        outcome = MethodNotAllowed("This method is not offered here; see /fhir/metadata.")
    else:
        outcome = NotFound("There is nothing at this address. The FHIR API is below /fhir; see /fhir/metadata.")
    return Response(dump(outcome.as_fhir()), error.status_code, headers, FHIR_JSON)


def unexpected(error: Exception, *, service: str, route: str, request_id: str) -> Response:
    """Log and count a fault of the program; return 500 with the request id and nothing about the fault."""
    FAULTS.labels(service, route).inc()
    _log.error("fault", service=service, route=route, request_id=request_id, **fault(error))
    issue = Issue(
        f"The server met a fault. It is logged under the request id {request_id}; nothing was changed unless the "
        "resource says so. Try again, and tell the operator the id if it stays.",
        code="exception",
        severity="fatal",
    )
    return Response(dump(operation_outcome([issue])), 500, {}, FHIR_JSON)
