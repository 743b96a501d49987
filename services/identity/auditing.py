"""What the issuer gave, took back or refused is in the audit before it is answered: tokens, logins, clients, keys.

A row names the client, the user, the role and the id of the token (`jti`); never a token, an assertion or a password.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared.fhir.json import parse
from shared.fhir.outcome import BadRequest
from shared.security.audit import DONE, REFUSED, Auditing, record
from shared.security.tokens import TokenRefused, unverified

if TYPE_CHECKING:
    from shared.store.audit import Kind

_TELLS_ONLY: Final = frozenset(("/auth/introspect", "/auth/ended"))


def audited(routes: Iterable[Route], auditing: Auditing) -> list[Route]:
    """Return the routes; those that change something, or are refused to, are audited."""
    return [_audited(route, auditing) for route in routes]


def _audited(route: Route, auditing: Auditing) -> Route:
    methods = (route.methods or set()) - {"GET", "HEAD"}
    if not methods or route.path in _TELLS_ONLY:
        return route
    answer: Callable[[Request], Awaitable[Response]] = route.endpoint

    async def recorded(request: Request) -> Response:
        async def work() -> Response:
            response = await answer(request)
            record(_kind(route.path), route.path, "E", **_told(response))
            return response

        request.scope.setdefault("state", {}).setdefault("request_id", None)
        return await auditing.request(request.scope, work)

    return Route(route.path, recorded, methods=sorted(methods))


def _kind(path: str) -> Kind:
    if path in {"/auth/token", "/auth/revoke"}:
        return "token"
    return "login" if "login" in path or "authorize" in path else "operate"


def _told(response: Response) -> dict[str, Any]:
    status = response.status_code
    said: dict[str, Any] = {"status": status, "outcome": DONE if status < 400 else REFUSED}
    try:
        body = parse(bytes(response.body))
    except (BadRequest, AttributeError):
        return said
    if not isinstance(body, dict):
        return said
    if isinstance(body.get("error"), str):
        said["reason"] = body["error"]
    if isinstance(body.get("client_id"), str):
        said["what"] = (f"client {body['client_id']}",)
    token = body.get("access_token")
    if isinstance(token, str):
        try:
            claims = unverified(token)
        except TokenRefused:
            return said
        names = {"client": "client_id", "user": "fhirUser", "role": "kap_role", "tenant": "kap_tenant"}
        said |= {name: claims[claim] for name, claim in names.items() if isinstance(claims.get(claim), str)}
        said["what"] = (f"token {claims.get('jti')}", f"scope {claims.get('scope')}")
        if isinstance(claims.get("patient"), str):
            said["patients"] = (claims["patient"],)
    return said
