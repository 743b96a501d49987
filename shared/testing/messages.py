"""A gateway for text messages that stands in for a real one: it takes what is signed, once, and answers a receipt.

``GET /messages`` tells how many it took, and nothing of what they say or to whom they went.
"""

from __future__ import annotations

import hmac
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shared.fhir.outcome import BadRequest
from shared.notify.webhook import signature

if TYPE_CHECKING:
    from starlette.requests import Request

SECONDS: Final = 300
"""How old a signature may be."""


class Message(msgspec.Struct):
    """A message, as posted (`shared.notify.webhook`)."""

    id: str
    channel: str
    to: str
    text: str


@dataclass(slots=True)
class Messages:
    """What was taken: each id once.

    Attributes:
        secret: shared with who sends.
        taken: the number of each message, by its id.
        by_channel: how many were taken.

    """

    secret: bytes
    taken: dict[str, int] = field(default_factory=dict)
    by_channel: Counter[str] = field(default_factory=Counter)

    def route(self) -> Route:
        """Return the route `/messages`."""
        return Route("/messages", self._answer, methods=["GET", "POST"])

    async def _answer(self, request: Request) -> Response:
        if request.method == "GET":
            return JSONResponse(dict(self.by_channel))
        body = await request.body()
        key, timestamp = (request.headers.get(f"webhook-{name}", "") for name in ("id", "timestamp"))
        signed = signature(self.secret, key, timestamp, body)
        if not hmac.compare_digest(signed, request.headers.get("webhook-signature", "")):
            return JSONResponse({"error": "The signature is wrong."}, 401)
        if not timestamp.isdecimal() or abs(time.time() - int(timestamp)) > SECONDS:
            return JSONResponse({"error": "The signature is too old."}, 401)
        try:
            message = msgspec.json.decode(body, type=Message)
        except msgspec.DecodeError as error:
            raise BadRequest(f"This is no message: {error}.") from None
        if key not in self.taken:
            self.taken[key] = len(self.taken) + 1
            self.by_channel[message.channel] += 1
        return JSONResponse({"accepted": self.taken[key]}, 202)
