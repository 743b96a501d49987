"""The iCalendar feeds of scheduling at the gateway's address, to which their links point: passed on as they are."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

import httpx
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared.fhir.outcome import NotFound, Unavailable

PASSED_ON: Final = ("content-type", "cache-control")


def calendar_route(client: httpx.AsyncClient, scheduling: str) -> Route:
    """Return the route of the feeds; `scheduling` is the owner's FHIR base URL."""
    base = scheduling.removesuffix("/fhir")

    async def feed(request: Request) -> Response:
        request.scope["state"]["route"] = "/calendar/{secret}.ics"  # the secret is not logged
        try:
            place = f"{base}/calendar/{quote(request.path_params['secret'], safe='')}.ics"
            known = {
                "X-Request-Id": str(request.scope["state"]["request_id"])
            }  # scheduling's audit says who reads what
            answer = await client.get(place, headers=known)
        except httpx.HTTPError:
            raise Unavailable("The calendars cannot be reached just now. Try again.") from None
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise NotFound("There is no such calendar, or its link was revoked. Ask the clinic for a new one.")
        if answer.status_code != httpx.codes.OK:
            raise Unavailable("The calendars cannot be read just now. Try again.")
        headers = {name: answer.headers[name] for name in PASSED_ON if name in answer.headers}
        return Response(answer.content, headers=headers)

    return Route("/calendar/{secret}.ics", feed, methods=["GET"])
