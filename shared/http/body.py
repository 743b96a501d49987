"""Reading a request's body: counted while it streams, so that a body above the limit is never held.

A body may come packed (``Content-Encoding: gzip``). It is unpacked piece by piece and counted as it is then: a few
bytes that would fill the memory are refused like a body that is too large.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

from shared.fhir.json import MAX_DEPTH, Json, parse, require_shallow
from shared.fhir.outcome import BadRequest, TooLarge, UnsupportedMediaType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Receive

LARGE = 64 * 1024
"""Bytes from which on parsing and validating are done in a thread.

A blocked event loop misses Kafka's heartbeats and every other request waits; a thread gives the processor back every
5 ms (`sys.getswitchinterval`).
"""


class PackedOtherwise(UnsupportedMediaType):
    """415 with the content codings that are read (RFC 9110, section 15.5.16)."""

    @property
    def headers(self) -> dict[str, str]:
        """`Accept-Encoding`."""
        return {"Accept-Encoding": "gzip, identity"}


async def read_body(receive: Receive, headers: Mapping[str, str], limit: int) -> bytes:
    """Return the whole body, unpacked.

    Raises:
        TooLarge: it is announced, or found, to be above `limit` bytes; nothing more of it is kept.
        PackedOtherwise: not by gzip.
        BadRequest: it is not what gzip made.
        ClientDisconnect: the caller went away.

    """
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise _too_large(limit)
    unpack = _unpacking(headers.get("content-encoding", "identity").strip().lower(), limit)
    chunks: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        last = not message.get("more_body", False)
        chunk = unpack(message.get("body", b""), last)
        length += len(chunk)
        if length > limit:
            chunks.clear()
            raise _too_large(limit)
        chunks.append(chunk)
        if last:
            return b"".join(chunks)


def _unpacking(coding: str, limit: int) -> Callable[[bytes, bool], bytes]:
    """Return what unpacks one piece of a body after the other, to one byte above the limit at most."""
    if coding in {"", "identity"}:
        return lambda piece, _last: piece
    if coding not in {"gzip", "x-gzip"}:
        raise PackedOtherwise(
            f"The body is packed by '{coding[:64]}'; this server reads gzip, or what is not packed.",
            expression=["http.content-encoding"],
        )
    gzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)

    def unpack(piece: bytes, last: bool) -> bytes:  # noqa: FBT001 - called by place, as the function above
        try:
            unpacked = gzip.decompress(piece, limit + 1)
        except zlib.error:
            raise _not_gzip() from None
        if gzip.unused_data or (last and not gzip.eof and len(unpacked) <= limit):
            raise _not_gzip()
        return unpacked

    return unpack


def _not_gzip() -> BadRequest:
    return BadRequest("The body is not what its Content-Encoding says: gzip.", expression=["http.content-encoding"])


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
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH:
        require_shallow(value)
    return value
