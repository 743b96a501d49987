"""How large the head of a request may be, and how slowly it may come: uvicorn bounds neither with httptools.

The head is the request line and the headers; what trails a body in chunks counts with it. More than `MOST_BYTES` is
431, or 414 where it is the target; one that is not whole after `SECONDS` is 408; the connection is closed after each.
What is no HTTP at all is 400. All are OperationOutcomes.

Source: RFC 6585, section 5; RFC 9110, sections 15.5.9 and 15.5.15
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from shared.fhir.outcome import BadRequest, FhirError
from shared.http.errors import refusal
from shared.security.headers import ALWAYS, OF_DATA

MOST_BYTES: Final = 64 * 1024
"""A token of 8 KiB and a search by hundreds of ids are well within it; POST [type]/_search takes longer ones."""

SECONDS: Final = 20.0

_PIECE: Final = 16 * 1024
"""Bytes that are read at once: the parser tells of a header when it has all of it; what it keeps is told by these."""

_LINGER: Final = 2.0
"""Seconds for which what still comes after a refusal is thrown away."""


class HeadTooLarge(FhirError):
    """431: the headers are larger than this server takes."""

    status = 431
    default_code = "too-long"


class TargetTooLong(FhirError):
    """414: the address is longer than this server takes."""

    status = 414
    default_code = "too-long"


class HeadTooSlow(FhirError):
    """408: the headers did not come in time."""

    status = 408
    default_code = "timeout"


class BoundedHeads(HttpToolsProtocol):
    """Uvicorn's protocol with the bounds above."""

    most_bytes = MOST_BYTES
    seconds = SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head = 0
        self._unread = 0
        self._refused: FhirError | None = None
        self._closing = False
        self._waiting: asyncio.TimerHandle | None = None
        self.url = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first head."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._wait_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what came; what no callback told of by then is part of a header that has no end yet."""
        if self._ended():
            return
        for at in range(0, len(data), _PIECE):
            piece = data[at : at + _PIECE] if len(data) > _PIECE else data
            self._unread += len(piece)
            super().data_received(piece)
            if self._ended():
                return
            if self._head + self._unread > self.most_bytes:
                self._refused = self._too_large()
                self.send_400_response("")
                return

    def _ended(self) -> bool:
        return self._closing or self.transport.is_closing()

    # What the parser tells

    def on_message_begin(self) -> None:
        """Begin to count."""
        super().on_message_begin()
        self._head = self._unread = 0
        self._wait()

    def on_url(self, url: bytes) -> None:
        """Count the target."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header; those that trail a body count, too."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._unread = 0
        self._wait_no_more()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A body's bytes are counted where it is read."""
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._unread = 0
        super().on_message_complete()

    def _count(self, size: int) -> None:
        self._unread = 0
        self._head += size
        if self._head > self.most_bytes:
            self._refused = self._too_large()
            raise self._refused  # the parser gives up, and `send_400_response` tells why

    def _too_large(self) -> FhirError:
        if len(self.url) > self.most_bytes // 2:
            return TargetTooLong(
                f"The address is longer than this server takes ({self.most_bytes} bytes with the headers). Send the "
                "search as a form: POST [type]/_search.",
                expression=["http.url"],
            )
        return HeadTooLarge(
            f"The headers are larger than {self.most_bytes} bytes, the most this server takes.",
            expression=["http.headers"],
        )

    # How long is waited

    def _wait(self) -> None:
        self._wait_no_more()
        self._waiting = self.loop.call_later(self.seconds, self._too_slow)

    def _wait_no_more(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _too_slow(self) -> None:
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is not None and not cycle.response_complete:  # an answer is under way on this connection
            self._wait()
            return
        self._refused = HeadTooSlow(f"The headers were not whole after {self.seconds:g} seconds.")
        self.send_400_response("")

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, or not one that is taken, and close the connection."""
        error = self._refused or BadRequest("This is no HTTP request, or one whose end cannot be told.")
        answer = refusal(error)
        headers = {**dict(answer.headers), **ALWAYS, **OF_DATA, "connection": "close"}
        lines = [f"HTTP/1.1 {answer.status_code} {HTTPStatus(answer.status_code).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._closing = True
        self._wait_no_more()
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + bytes(answer.body))
        if self.transport.can_write_eof():  # closed at once, what still comes would reset it, and the answer be lost
            self.transport.write_eof()
            self._waiting = self.loop.call_later(_LINGER, self.transport.close)
        else:
            self.transport.close()
