"""How often one caller may ask: a bucket of tokens for each client, and for each address of who is none. Plain ASGI.

A client is one in its role, for its user, however many tokens it has. Until its token was believed in answering a
request (and always at the issuer, which believes none before it looks), who asks counts by his address, so that nobody
gets a bucket of his own, or empties another's, by making a token up.

In this process's memory: with several processes of a service each has its own. What keeps the stack running (`/livez`,
`/readyz`, `/metrics`) is not counted. Off unless `KAP_REQUESTS_PER_SECOND` is set.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers

from shared.fhir.outcome import FhirError
from shared.http.errors import refusal
from shared.http.observe import QUIET_ROUTES
from shared.security.caller import BELIEVED

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

BURST: Final = 10
"""Seconds' worth of requests that may come at once."""

MOST_CALLERS: Final = 10_000
"""Callers that are remembered; beyond, who was not heard of for longest begins anew."""


UNAUTHORIZED: Final = 401


class TooManyRequests(FhirError):
    """429: the caller asks more often than he may."""

    status = 429
    default_code = "throttled"

    def __init__(self, what: str, *, retry_after: int) -> None:
        super().__init__(what)
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """`Retry-After`."""
        return {"Retry-After": str(self.retry_after)}


class RateLimit:
    """Lets each caller ask `per_second` times a second in the long run, and `BURST` seconds' worth at once."""

    def __init__(self, app: ASGIApp, per_second: float, clock: Callable[[], float] = monotonic) -> None:
        self._app = app
        self._per_second = per_second
        self._room = max(per_second * BURST, 1.0)
        self._clock = clock
        self._left: OrderedDict[bytes, tuple[float, float]] = OrderedDict()
        self._let_in: OrderedDict[bytes, bytes] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] == "http" and scope.get("path") not in QUIET_ROUTES:
            bearer = _bearer(scope)
            client = None if bearer is None else self._let_in.get(bearer)
            wait = self._take(_address(scope) if client is None else client)
            if wait > 0:
                error = TooManyRequests(
                    f"More than {self._per_second:g} requests a second. Wait, and try again.",
                    retry_after=math.ceil(wait),
                )
                await refusal(error)(scope, receive, send)
                return
            if bearer is not None:
                whose: list[str] = []
                counting = BELIEVED.set(whose)
                try:
                    await self._app(scope, receive, self._watched(bearer, _address(scope), whose, send))
                finally:
                    BELIEVED.reset(counting)
                return
        await self._app(scope, receive, send)

    def _watched(self, bearer: bytes, address: bytes, whose: Sequence[str], send: Send) -> Send:
        """Return `send`, and note by the answer whether a bearer was believed: then it is the client's own request."""

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] == UNAUTHORIZED:
                    self._let_in.pop(bearer, None)
                elif whose:
                    client = whose[0].encode()
                    if bearer not in self._let_in and self._take(client) == 0:  # else the address has paid for it
                        left, at = self._left.get(address, (self._room, self._clock()))
                        self._left[address] = (left + 1.0, at)
                    self._let_in[bearer] = client
                    self._let_in.move_to_end(bearer)
                    if len(self._let_in) > MOST_CALLERS:
                        self._let_in.popitem(last=False)
            await send(message)

        return watched

    def _take(self, caller: bytes) -> float:
        """Return 0, or for how many seconds a caller has to wait."""
        now = self._clock()
        left, at = self._left.pop(caller, (self._room, now))
        left = min(self._room, left + (now - at) * self._per_second)
        allowed = left >= 1.0
        self._left[caller] = (left - 1.0 if allowed else left, now)
        if len(self._left) > MOST_CALLERS:
            self._left.popitem(last=False)
        return 0.0 if allowed else (1.0 - left) / self._per_second


def _bearer(scope: Scope) -> bytes | None:
    authorization = Headers(scope=scope).get("authorization")
    if authorization is None:
        return None
    scheme, _, token = authorization.partition(" ")  # as `shared.security.bearer` reads it: one token is one bearer
    return hashlib.sha256(f"{scheme.lower()} {token.strip()}".encode("latin-1", "replace")).digest()


def _address(scope: Scope) -> bytes:
    client = scope.get("client")
    return b"" if client is None else str(client[0]).encode()
