"""`/fhir/.well-known/smart-configuration`: where a client gets its tokens, from what the issuer says of itself.

Source: https://hl7.org/fhir/smart-app-launch/STU2.2/conformance.html#using-well-known
"""

from __future__ import annotations

from collections.abc import Mapping
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
    "authorization_response_iss_parameter_supported",
    "scopes_supported",
)
"""What is told as the issuer tells it."""

CAPABILITIES: Final = ("permission-patient", "permission-user", "permission-v1", "permission-v2")
"""Of SMART, what a FHIR server here does by itself, whoever the issuer is."""

OF_METHODS: Final = {
    "none": "client-public",
    "client_secret_basic": "client-confidential-symmetric",
    "private_key_jwt": "client-confidential-asymmetric",
}
"""What an issuer that does not tell its capabilities has, by how its clients show who they are."""

OAUTH_URIS: Final = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"
_URIS: Final = {
    "authorize": "authorization_endpoint",
    "token": "token_endpoint",
    "register": "registration_endpoint",
    "introspect": "introspection_endpoint",
    "revoke": "revocation_endpoint",
}


def capabilities(told: Mapping[str, Any]) -> list[str]:
    """Return the SMART capabilities of this server with an issuer of this metadata."""
    said = told.get("capabilities")
    if isinstance(said, list) and all(isinstance(one, str) for one in said):
        return sorted({*CAPABILITIES, *said})
    methods = told.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]  # RFC 8414's default
    return sorted({*CAPABILITIES, *(OF_METHODS[one] for one in methods if one in OF_METHODS)})


async def oauth_uris(issuer: Issuer) -> list[dict[str, Any]]:
    """Return the extension of `CapabilityStatement.rest.security` that tells older clients where to ask.

    None where the issuer does not answer, or is asked for tokens by programs only.

    Source: https://hl7.org/fhir/smart-app-launch/1.0.0/conformance/index.html
    """
    try:
        told = await issuer.metadata()
    except FhirError:
        return []
    uris = [{"url": name, "valueUri": told[at]} for name, at in _URIS.items() if isinstance(told.get(at), str)]
    return [{"url": OAUTH_URIS, "extension": uris}] if uris else []


def smart_configuration(issuer: Issuer) -> Route:
    """Return the route; `Accept` does not matter, it is JSON."""

    async def answer(_request: Request) -> Response:
        try:
            told = await issuer.metadata()
        except FhirError as error:
            return refusal(error)
        document: dict[str, Any] = {name: told[name] for name in TAKEN if name in told}
        if "S256" in document.get("code_challenge_methods_supported", ()):  # SMART: S256, and never plain
            document["code_challenge_methods_supported"] = ["S256"]
        document["capabilities"] = capabilities(told)
        return JSONResponse(document, headers={"Cache-Control": "public, max-age=300"})

    return Route(PLACE, answer, methods=["GET"])
