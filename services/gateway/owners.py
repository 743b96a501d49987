"""The owners behind the gateway, over HTTP: a change is sent on, and its answer comes back, or why it did not."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import httpx

from services.gateway.rules import OutcomeUnknown, refusal
from shared.fhir.json import Json, parse
from shared.fhir.outcome import BadRequest, Issue, Unavailable
from shared.http.backend import Position, RequestContext, parse_positions
from shared.http.negotiation import FHIR_JSON
from shared.runtime.settings import Settings, SettingsError

ANSWER_SECONDS: Final = 20.0
"""How long an owner's answer is waited for; it may itself wait 2 s for what it is to have seen."""

CONNECT_SECONDS: Final = 2.0
RETRY_AFTER: Final = 2


@dataclass(frozen=True, slots=True)
class Answered:
    """An owner's answer of the 200s: the status, the body as it came, and what was committed where."""

    status: int
    body: bytes
    positions: tuple[Position, ...]
    headers: Mapping[str, str]


def addresses(settings: Settings) -> dict[str, str]:
    """Return the FHIR base URL of each owner.

    Raises:
        SettingsError: one is not set.

    """
    urls = {
        "intake": settings.intake_url,
        "scheduling": settings.scheduling_url,
        "sessions": settings.sessions_url,
        "outcomes": settings.outcomes_url,
        "delivery": settings.delivery_url,
    }
    missing = [f"KAP_{name.upper()}_URL" for name, url in urls.items() if not url]
    if missing:
        raise SettingsError(f"The gateway needs to know where the owners are: {', '.join(missing)} is not set.")
    return {name: str(url).rstrip("/") for name, url in urls.items()}


def open_client(tls: ssl.SSLContext | None = None) -> httpx.AsyncClient:
    """Return the HTTP client for the owners; `tls`: whom it believes and what it shows (None: public authorities)."""
    return httpx.AsyncClient(
        verify=tls or True,
        timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=200, max_keepalive_connections=100),
    )


class Owners:
    """Sends requests on to owners."""

    def __init__(self, client: httpx.AsyncClient, urls: Mapping[str, str]) -> None:
        """Reach each owner of `urls` (its FHIR base URL) by `client`."""
        self._client = client
        self._urls = urls

    def and_also(self, name: str, url: str) -> Owners:
        """Return these and one more, reached in the same way."""
        return Owners(self._client, {**self._urls, name: url})

    @property
    def names(self) -> tuple[str, ...]:
        """The owners that are reached."""
        return tuple(self._urls)

    async def send(
        self,
        owner: str,
        method: str,
        path: str,
        context: RequestContext,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = ANSWER_SECONDS,
    ) -> Answered:
        """Send a request on and return the owner's answer, for which at most `seconds` are waited.

        Raises:
            FhirError: the owner refused; with its status and its issues.
            Unavailable: the owner is not there; nothing was done.
            OutcomeUnknown: no answer came; the change may have been made.

        """
        sent = {
            "Accept": FHIR_JSON,
            "Accept-Encoding": "identity",
            "X-Request-Id": context.request_id,
            **(headers or {}),
        }
        if context.caller.authorization is not None:  # the owner judges for itself
            sent["Authorization"] = context.caller.authorization
        if context.traceparent is not None:
            sent["traceparent"] = context.traceparent
        if body is not None:
            sent.setdefault("Content-Type", FHIR_JSON)
        try:
            answer = await self._client.request(
                method,
                f"{self._urls[owner]}/{path}",
                content=body,
                headers=sent,
                timeout=httpx.Timeout(seconds, connect=CONNECT_SECONDS),
            )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise Unavailable(
                f"{owner}, which owns this, cannot be reached. Nothing was changed; try again.", retry_after=RETRY_AFTER
            ) from error
        except httpx.HTTPError as error:
            raise _lost(owner, method) from error
        if answer.is_success:
            positions = answer.headers.get("x-kap-position")
            return Answered(
                answer.status_code,
                answer.content,
                () if positions is None else parse_positions(positions),
                answer.headers,
            )
        wait = answer.headers.get("retry-after", "")
        raise refusal(
            owner, answer.status_code, _json(answer.content), retry_after=int(wait) if wait.isdecimal() else RETRY_AFTER
        )


def _lost(owner: str, method: str) -> Unavailable:
    if method == "GET":
        return Unavailable(f"{owner} did not answer. Try again.", retry_after=RETRY_AFTER)
    return OutcomeUnknown(
        [
            Issue(
                f"{owner}, which owns this, did not answer: whether the change was made is not known. Read the "
                "resource, or search by its identifier, before you send it again; or send it with If-None-Exist or "
                "If-Match.",
                code="timeout",
            )
        ],
        retry_after=RETRY_AFTER,
    )


def _json(raw: bytes) -> Json:
    try:
        return parse(raw) if raw else None
    except BadRequest:
        return None
