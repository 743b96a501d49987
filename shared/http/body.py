"""Reading a request's body: counted while it streams, so that a body above the limit is never held."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

from shared.fhir.json import Json, parse
from shared.fhir.outcome import BadRequest, TooLarge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Receive

MAX_DEPTH = 100
"""Objects and arrays within each other."""

LARGE = 64 * 1024
"""Bytes from which on parsing and validating are done in a thread.

A blocked event loop misses Kafka's heartbeats and every other request waits; a thread gives the processor back every
5 ms (`sys.getswitchinterval`).
"""


async def read_body(receive: Receive, headers: Mapping[str, str], limit: int) -> bytes:
    """Return the whole body.

    Raises:
        TooLarge: it is announced, or found, to be above `limit` bytes; nothing more of it is kept.
        ClientDisconnect: the caller went away.

    """
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise _too_large(limit)
    chunks: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        length += len(chunk)
        if length > limit:
            chunks.clear()
            raise _too_large(limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"The body is larger than {limit} bytes, the most this server takes. Send large attachments in parts, "
        "or many resources in several requests.",
        expression=["http.body"],
    )


async def parse_body(raw: bytes) -> Json:
    """Return the JSON value of a body; a large one is parsed off the event loop.

    Raises:
        BadRequest: not JSON, a doubled key, or objects nested deeper than `MAX_DEPTH`.

    """
    if len(raw) < LARGE:
        return _parse(raw)
    return await asyncio.to_thread(_parse, raw)


def _parse(raw: bytes) -> Json:
    if not raw.strip():
        raise BadRequest("The body is empty; a resource is expected.", expression=["http.body"])
    try:
        value = parse(raw)
    except BadRequest as error:
        raise BadRequest(str(error), code=error.issues[0].code, expression=["http.body"]) from None
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _deeper_than(value, MAX_DEPTH):
        raise BadRequest(
            f"The JSON is nested deeper than {MAX_DEPTH} levels.", code="too-costly", expression=["http.body"]
        )
    return value


def _deeper_than(value: Json, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        inner: list[Json] = []
        for outer in level:
            members = outer.values() if isinstance(outer, dict) else outer
            inner.extend(member for member in members if isinstance(member, dict | list))
        if not inner:
            return False
        level = inner
    return True
