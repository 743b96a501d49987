"""What operators ask a service (``/ops``) is for those whose token says so. Plain ASGI."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from starlette.datastructures import Headers

from shared.fhir.outcome import FhirError, Forbidden
from shared.http.errors import refusal
from shared.security.audit import known, record, sent
from shared.security.scopes import CLINIC_NAME, OPERATE
from shared.security.tokens import TokenRefused

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from shared.security.audit import Auditing
    from shared.security.caller import Authenticate

PLACE: Final = "/ops"

_OF_NOBODY: Final = frozenset((f"{PLACE}/digest", f"{PLACE}/flow"))
"""What tells of counts and times only; and ``?digest=only`` of others. ``./kap status`` asks for it all the time."""

_PATIENT: Final = re.compile(r"(?:Patient/)?([A-Za-z0-9\-.]{1,64})")


class OperatorsOnly:
    """Refuses requests below ``/ops`` whose token does not have the scope ``kap/operate``.

    What is refused there, what is to change something, and what shows the record or the audit is in the audit before it
    is answered or done: in that of the clinic that is asked about.
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
                reads = scope["method"] in {"GET", "HEAD"}
                pairs = parse_qsl(scope.get("query_string", b"").decode("utf-8", "replace"))
                if not reads or (path not in _OF_NOBODY and ("digest", "only") not in pairs):
                    record("operate", path, "R" if reads else "E", query=sent(path, pairs), **_about(pairs))

            try:
                await (let_in() if self._auditing is None else self._auditing.request(scope, let_in))
            except FhirError as error:
                await refusal(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _about(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the clinic and the patient that a request names."""
    said = dict(pairs)
    clinic, patient = CLINIC_NAME.fullmatch(said.get("clinic", "")), _PATIENT.fullmatch(said.get("patient", ""))
    found: dict[str, Any] = {} if clinic is None else {"tenant": clinic[0]}
    return found if patient is None else {**found, "patients": (patient[1],)}
