"""Claim check: a body that no record may hold goes ahead of its event in pieces, and the event carries the claim.

The pieces travel in the partition of the event, before it, so they share its order, its repeats and its replays. Each
consumer deposits them in its own PostgreSQL as they come, and has the body for the claim when the event follows: no
service asks another for it, and one that is away keeps nobody waiting (ADR 22).
https://www.enterpriseintegrationpatterns.com/patterns/messaging/StoreInLibrary.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from math import ceil
from typing import Final

from shared.events.codec import (
    REPLAY,
    SOURCE_PREFIX,
    SPEC_VERSION,
    Record,
    UnreadableEvent,
    dump_claim,
    encode,
    instant,
)
from shared.events.envelope import Claim, Event
from shared.events.topics import MAX_EVENT_BODY_BYTES, PIECE_BYTES

TYPE: Final = "org.kap-exchange.piece.v1"
CONTENT_TYPE: Final = "application/octet-stream"
REQUIRED_HEADERS: Final = (
    "content-type",
    "ce_specversion",
    "ce_id",
    "ce_source",
    "ce_type",
    "ce_time",
    "ce_subject",
    "ce_resourcetype",
    "ce_tenant",
    "ce_shard",
    "ce_piece",
)
OPTIONAL_HEADERS: Final = (REPLAY,)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a body that is ahead of its event.

    Attributes:
        source: the service whose event it is.
        event_id: of the event.
        type: the FHIR resource type.
        tenant: the clinic.
        number: its place in the body, from 1.
        body: so much of the body.

    """

    source: str
    event_id: str
    type: str
    tenant: str
    number: int
    body: bytes


def records_in(event: Event) -> int:
    """Return how many records an event travels in."""
    size = len(event.body)
    return 1 if size <= MAX_EVENT_BODY_BYTES else ceil(size / PIECE_BYTES) + 1


def records_of(event: Event) -> Iterator[Record]:
    """Yield the records of an event, in order: its own, and before it the pieces of a body too large for one."""
    if len(event.body) <= MAX_EVENT_BODY_BYTES:
        yield encode(event)
        return
    pieces = records_in(event) - 1
    for number in range(1, pieces + 1):
        yield _piece(event, number)
    claim = Claim(pieces, len(event.body), sha256(event.body).hexdigest())
    yield encode(replace(event, body=dump_claim(claim), claim=claim))


def _piece(event: Event, number: int) -> Record:
    values = {
        "content-type": CONTENT_TYPE,
        "ce_specversion": SPEC_VERSION,
        "ce_id": f"{event.id}/piece/{number}",
        "ce_source": f"{SOURCE_PREFIX}{event.source}",
        "ce_type": TYPE,
        "ce_time": instant(event.time),
        "ce_subject": event.id,
        "ce_resourcetype": event.type,
        "ce_tenant": event.tenant,
        "ce_shard": str(event.shard),
        "ce_piece": str(number),
        REPLAY: event.replay,
    }
    headers = [(name, value.encode()) for name, value in values.items() if value is not None]
    return Record(event.key.encode(), event.body[(number - 1) * PIECE_BYTES : number * PIECE_BYTES], headers)


def piece_of(value: bytes | None, headers: Iterable[tuple[str, bytes | None]]) -> Piece | None:
    """Return the piece that a record is, None where the record is another.

    Raises:
        UnreadableEvent: it is a piece, and a header is missing or cannot be.

    """
    given = {name: text for name, text in headers if text is not None}
    if given.get("ce_type") != TYPE.encode():
        return None
    try:
        piece = Piece(
            source=given["ce_source"].decode().removeprefix(SOURCE_PREFIX),
            event_id=given["ce_subject"].decode(),
            type=given["ce_resourcetype"].decode(),
            tenant=given["ce_tenant"].decode(),
            number=int(given["ce_piece"]),
            body=value or b"",
        )
    except (KeyError, ValueError) as error:
        raise UnreadableEvent(
            "The piece lacks its source, event, type, tenant or number, or they cannot be."
        ) from error
    if piece.number < 1 or not piece.body:
        raise UnreadableEvent("The piece has no place in its body, or is empty.")
    return piece


def redeemed(claim: Claim, pieces: Iterable[bytes]) -> bytes | None:
    """Return the body for a claim, None where these are not all of its pieces."""
    body = b"".join(pieces)
    return body if len(body) == claim.bytes and sha256(body).hexdigest() == claim.sha256 else None
