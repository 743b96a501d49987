"""What operators ask a service (``/ops``) is for those whose token says so. Plain ASGI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from starlette.datastructures import Headers

from shared.fhir.outcome import FhirError, Forbidden
from shared.http.errors import refusal
from shared.security.audit import known, record, sent
from shared.security.scopes import OPERATE
from shared.security.tokens import TokenRefused

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from shared.security.audit import Auditing
    from shared.security.caller import Authenticate

PLACE: Final = "/ops"


class OperatorsOnly:
    """Refuses requests below ``/ops`` whose token does not have the scope ``kap/operate``.

    What is refused there, and what is to change something, is in the audit before it is answered or done.
    """

    def __init__(self, app: ASGIApp, authenticate: Authenticate, auditing: Auditing | None = None) -> None:
        self._app = app
        self._authenticate = authenticate
        self._auditing = auditing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        path = scope.get("path", "")
        if scope["type"] == "http" and (path == PLACE or path.startswith(f"{PLACE}/")):

            async def let_in() -> None:
                caller = await self._authenticate(Headers(scope=scope))
                known(caller)
                if not caller.known:
                    raise TokenRefused("Send a token: 'Authorization: Bearer ...'.", error=None)
                if not caller.has(OPERATE):
                    raise Forbidden(f"What operators ask is for tokens with the scope {OPERATE}.")
                if scope["method"] not in {"GET", "HEAD"}:
                    pairs = parse_qsl(scope.get("query_string", b"").decode("utf-8", "replace"))
                    record("operate", path, "E", query=sent(path, pairs))

            try:
                await (let_in() if self._auditing is None else self._auditing.request(scope, let_in))
            except FhirError as error:
                await refusal(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)
