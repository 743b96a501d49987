"""How the issuer's endpoints read what they are asked, and how they refuse: RFC 6749, section 5.2."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.identity.rules.refusal import OAuthRefusal
from shared.fhir.json import parse
from shared.fhir.outcome import BadRequest

LONGEST_BODY: Final = 64 * 1024
NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}
_MOST_FIELDS: Final = 200

Answers: TypeAlias = Callable[[Request], Awaitable[Response]]


async def pairs(request: Request) -> list[tuple[str, str]]:
    """Return the fields of a form as they came.

    Raises:
        OAuthRefusal: it is none, or too long.

    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/x-www-form-urlencoded":
        raise OAuthRefusal("invalid_request", "Send application/x-www-form-urlencoded.")
    body = await _body(request)
    try:
        return parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise OAuthRefusal("invalid_request", "The form cannot be read.") from None


async def form(request: Request) -> dict[str, str]:
    """Return a form in which nothing is there twice.

    Raises:
        OAuthRefusal: it is none.

    """
    return once(await pairs(request))


def once(fields: list[tuple[str, str]]) -> dict[str, str]:
    """Return fields by name.

    Raises:
        OAuthRefusal: one is there twice (RFC 6749, section 3.1).

    """
    if len({name for name, _ in fields}) != len(fields):
        raise OAuthRefusal("invalid_request", "A parameter is there twice.")
    if any("\0" in value for _, value in fields):
        raise OAuthRefusal("invalid_request", "A parameter has a character that no text has.")
    return dict(fields)


async def json_object(request: Request, error: str = "invalid_client_metadata") -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        OAuthRefusal: it is none.

    """
    try:
        value = parse(await _body(request))
    except BadRequest:
        value = None
    if not isinstance(value, dict):
        raise OAuthRefusal(error, "Send a JSON object.")
    return value


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LONGEST_BODY:
            raise OAuthRefusal("invalid_request", f"More than {LONGEST_BODY} bytes.", status=413)
    return body


def refusing(answer: Answers) -> Answers:
    """Return the endpoint with its refusals as RFC 6749, section 5.2, has them."""

    async def refusing(request: Request) -> Response:
        try:
            return await answer(request)
        except OAuthRefusal as error:
            headers = dict(NO_STORE)
            if error.status == httpx.codes.UNAUTHORIZED:
                basic = request.headers.get("authorization", "")[:6].lower() == "basic "
                headers["WWW-Authenticate"] = (
                    'Basic realm="kap"' if basic else f'Bearer realm="kap", error="{error.error}"'
                )
            told = {"error": error.error, "error_description": error.why}
            return JSONResponse(told, status_code=error.status, headers=headers)

    return refusing


def with_query(url: str, said: Mapping[str, str]) -> str:
    """Return a URL with more in its query; what was there stays."""
    parts = urlsplit(url)
    query = "&".join(part for part in (parts.query, urlencode(said)) if part)
    return urlunsplit(parts._replace(query=query))


def is_here(host: str | None) -> bool:
    """Tell whether a host is this machine itself."""
    return host in {"127.0.0.1", "localhost", "::1"}


def redirectable(url: str) -> bool:
    """Tell whether a person may be sent back to a URL with a code.

    https; http on this machine; an app's own scheme that is a domain name turned round (RFC 8252, section 7.1), which
    ``javascript:`` and ``data:`` are not. No fragment (RFC 6749, section 3.1.2), nobody's name or password, no space.
    """
    if not url.isascii() or not url.isprintable() or " " in url or "#" in url or "\\" in url or "*" in url:
        return False
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    if parts.scheme in ("http", "https"):
        return bool(host) and "@" not in parts.netloc and (parts.scheme == "https" or is_here(host))
    return "." in parts.scheme and bool(parts.path)
