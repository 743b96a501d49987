"""`/fhir/.well-known/smart-configuration`: where a client gets its tokens, from what the issuer says of itself.

Source: https://hl7.org/fhir/smart-app-launch/STU2.2/conformance.html#using-well-known
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shared.fhir.outcome import FhirError
from shared.http.errors import refusal

if TYPE_CHECKING:
    from starlette.requests import Request

    from shared.security.bearer import Issuer

PLACE: Final = "/fhir/.well-known/smart-configuration"

TAKEN: Final = (
    "issuer",
    "jwks_uri",
    "authorization_endpoint",
    "token_endpoint",
    "registration_endpoint",
    "introspection_endpoint",
    "revocation_endpoint",
    "grant_types_supported",
    "token_endpoint_auth_methods_supported",
    "token_endpoint_auth_signing_alg_values_supported",
    "response_types_supported",
    "code_challenge_methods_supported",
    "scopes_supported",
)
"""What is told as the issuer tells it."""

CAPABILITIES: Final = (
    "client-confidential-asymmetric",
    "permission-patient",
    "permission-user",
    "permission-v1",
    "permission-v2",
)


def smart_configuration(issuer: Issuer) -> Route:
    """Return the route; `Accept` does not matter, it is JSON."""

    async def answer(_request: Request) -> Response:
        try:
            told = await issuer.metadata()
        except FhirError as error:
            return refusal(error)
        document: dict[str, Any] = {name: told[name] for name in TAKEN if name in told}
        document["capabilities"] = list(CAPABILITIES)
        return JSONResponse(document, headers={"Cache-Control": "public, max-age=300"})

    return Route(PLACE, answer, methods=["GET"])
