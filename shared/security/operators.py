"""What operators ask a service (``/ops``) is for those whose token says so. Plain ASGI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers

from shared.fhir.outcome import FhirError, Forbidden
from shared.http.errors import refusal
from shared.security.scopes import OPERATE
from shared.security.tokens import TokenRefused

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from shared.security.caller import Authenticate

PLACE: Final = "/ops"


class OperatorsOnly:
    """Refuses requests below ``/ops`` whose token does not have the scope ``kap/operate``."""

    def __init__(self, app: ASGIApp, authenticate: Authenticate) -> None:
        self._app = app
        self._authenticate = authenticate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        path = scope.get("path", "")
        if scope["type"] == "http" and (path == PLACE or path.startswith(f"{PLACE}/")):
            try:
                caller = await self._authenticate(Headers(scope=scope))
                if not caller.known:
                    raise TokenRefused("Send a token: 'Authorization: Bearer ...'.", error=None)
                if not caller.has(OPERATE):
                    raise Forbidden(f"What operators ask is for tokens with the scope {OPERATE}.")
            except FhirError as error:
                await refusal(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)
