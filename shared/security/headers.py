"""Headers that every answer carries, for the browsers that may meet it. Plain ASGI.

Answers are data: they are not to be guessed at, framed, run, or kept by a cache in between. What has headers of its own
(a page for people, a calendar) keeps them. Where clients come by TLS, they are told to come by nothing else (RFC 6797).

Source: https://cheatsheetseries.owasp.org/cheatsheets/REST_Security_Cheat_Sheet.html#security-headers
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.datastructures import MutableHeaders

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

ALWAYS: Final = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
OF_DATA: Final = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "private, no-store",
}
BY_TLS: Final = {"Strict-Transport-Security": "max-age=31536000"}
DATA: Final = ("/fhir", "/ops", "/auth")
"""Below these is data."""


class SafeHeaders:
    """Adds the headers to whatever the application answers."""

    def __init__(self, app: ASGIApp, *, tls: bool = False) -> None:
        self._app = app
        self._always = {**ALWAYS, **(BY_TLS if tls else {})}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope.get("path", "")
        added = {**self._always, **(OF_DATA if any(path == one or path.startswith(f"{one}/") for one in DATA) else {})}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in added.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)
