"""What the issuer gave, took back or refused is in the audit before it is answered: tokens, logins, clients, keys.

A row names the client, the user, the role and the id of the token (`jti`); never a token, an assertion or a password.
What the answer does not tell is said where it is known (`shared.security.audit.say`): whose account a login was tried
at, of which clinic a client is.

GET /auth/audit/AuditEvent[?...]   the rows as AuditEvents, for the gateway, which asks in the caller's name
GET /auth/audit/AuditEvent/{id}    one
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared.fhir.json import parse
from shared.fhir.outcome import BadRequest, FhirError
from shared.http.audit_events import TYPE, AuditEvents, reach
from shared.http.audits_beside import BEFORE
from shared.http.bundle import searchset
from shared.http.errors import refusal
from shared.http.negotiation import FHIR_JSON
from shared.security.audit import DONE, REFUSED, Auditing, known, record, sent
from shared.security.bearer import caller_of
from shared.security.tokens import TokenRefused, unverified

if TYPE_CHECKING:
    from services.identity.context import Context
    from shared.security.caller import Caller
    from shared.store.audit import Kind

PLACE: Final = "/auth/audit"
_TELLS_ONLY: Final = frozenset(("/auth/introspect", "/auth/ended"))
_LOGINS: Final = frozenset(("/auth/login", "/auth/logout", "/auth/account"))
_TOKENS: Final = frozenset(("/auth/token", "/auth/revoke", "/auth/consent", "/auth/apps"))


def audited(routes: Iterable[Route], auditing: Auditing, context: Context) -> list[Route]:
    """Return the routes; those that change something, or are refused to, are audited; and those that tell the audit."""
    return [*(_audited(route, auditing) for route in routes), *AuditRoutes(context, auditing).routes()]


@dataclass(frozen=True, slots=True)
class AuditRoutes:
    """Tells the issuer's own audit: to auditors of their clinic, and to patients what is about them."""

    context: Context
    auditing: Auditing

    def routes(self) -> Sequence[Route]:
        """Return the routes."""
        return [
            Route(f"{PLACE}/{TYPE}", self._answering(self._found), methods=["GET"]),
            Route(f"{PLACE}/{TYPE}/{{id}}", self._answering(self._one), methods=["GET"]),
        ]

    def _answering(
        self, work: Callable[[Request, Caller], Awaitable[bytes]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            async def told() -> Response:
                return Response(await work(request, await self._caller(request)), media_type=FHIR_JSON)

            request.scope.setdefault("state", {}).setdefault("request_id", None)
            try:
                return await self.auditing.request(request.scope, told)
            except FhirError as error:
                return refusal(error)

        return answer

    async def _caller(self, request: Request) -> Caller:
        """Return who asks.

        Raises:
            TokenRefused: he sends no token that is believed.

        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise TokenRefused("Send a token: 'Authorization: Bearer ...'.", error=None)
        caller = caller_of(await self.context.believed(token.strip()), origin=None, roles=self.context.roles)
        known(caller)
        return caller

    async def _found(self, request: Request, caller: Caller) -> bytes:
        patients = reach(caller, "s")
        given = list(request.query_params.multi_items())
        record("audit", "search-type", "E", query=sent(TYPE, given), patients=patients or ())
        page = await self._events().search(caller.tenant, given, request.headers.get(BEFORE), patients, strict=False)
        here = f"{self._base}/{sent(TYPE, given)}"  # the next page is asked for in the same way, with `BEFORE`
        links = [("self", here), *([] if page.next is None else [("next", here)])]
        return searchset(self._base, page.entries, links=links, total=page.total)

    async def _one(self, request: Request, caller: Caller) -> bytes:
        patients, id_ = reach(caller, "r"), str(request.path_params["id"])
        record("audit", "read", "R", what=(f"{TYPE}/{id_}",), patients=patients or ())
        return (await self._events().read(caller.tenant, id_, patients)).body

    def _events(self) -> AuditEvents:
        return AuditEvents(self.auditing.kept, self._base)

    @property
    def _base(self) -> str:
        return f"{self.context.issuer}{PLACE}"


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
    return "token" if path in _TOKENS else "login" if path in _LOGINS else "operate"


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
