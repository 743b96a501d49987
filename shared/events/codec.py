"""An `Event` as a Kafka record and back: CloudEvents 1.0, binary content mode of the Kafka protocol binding.

Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import get_args
from urllib.parse import quote, unquote

from shared.events.envelope import EVERYBODY, Claim, Event, Interaction

CONTENT_TYPE = "application/fhir+json; fhirVersion=4.0"
CLAIM_CONTENT_TYPE = "application/json"
SPEC_VERSION = "1.0"

REQUIRED_HEADERS = (
    "content-type",
    "ce_specversion",
    "ce_id",
    "ce_source",
    "ce_type",
    "ce_time",
    "ce_subject",
    "ce_resourcetype",
    "ce_resourceversion",
    "ce_tenant",
    "ce_sequence",
    "ce_shard",
)
REPLAY = "ce_replay"
DATAREF = "ce_dataref"
"""Of a claim: which body it is for. CloudEvents' extension for the Claim Check pattern:
https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/dataref.md"""
OPTIONAL_HEADERS = ("ce_labels", "traceparent", "x-request-id", REPLAY)

SOURCE_PREFIX = "/kap/"
_TOPICS = "kap."
NOBODYS = "unreadable"
"""The clinic of a record that does not say its own: it may be any clinic's."""
_TYPE = re.compile(r"org\.kap-exchange\.fhir\.(\w+)\.v([12])")
"""The second version has a claim for a value: a program that knows the first only must not take that for a resource."""
_CLAIMED = "2"
_INTERACTIONS: tuple[str, ...] = get_args(Interaction)

Headers = list[tuple[str, bytes]]


class UnreadableEvent(ValueError):
    """A record that is not an event of this project; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a Kafka record holds of an event."""

    key: bytes
    value: bytes
    headers: Headers


def encode(event: Event) -> Record:
    """Return the record of an event; of one with a claim, the record that comes behind the pieces of its body."""
    claimed = event.claim is not None
    values = {
        "content-type": CLAIM_CONTENT_TYPE if claimed else CONTENT_TYPE,
        "ce_specversion": SPEC_VERSION,
        "ce_id": event.id,
        "ce_source": f"{SOURCE_PREFIX}{event.source}",
        "ce_type": f"org.kap-exchange.fhir.{event.interaction}.{'v2' if claimed else 'v1'}",
        "ce_time": instant(event.time),
        "ce_subject": f"{event.type}/{event.resource_id}",
        "ce_resourcetype": event.type,
        "ce_resourceversion": str(event.version),
        "ce_tenant": event.tenant,
        "ce_sequence": str(event.sequence),
        "ce_shard": str(event.shard),
        "ce_labels": ",".join(quote(label, safe="") for label in event.labels) or None,
        "traceparent": event.traceparent,
        "x-request-id": event.request_id,
        REPLAY: event.replay,
        DATAREF: f"{SOURCE_PREFIX}{event.source}/{event.id}" if claimed else None,
    }
    headers = [(name, value.encode()) for name, value in values.items() if value is not None]
    return Record(event.key.encode(), event.body, headers)


def decode(key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes | None]]) -> Event:
    """Return the event of a record. Headers it does not know are ignored.

    Raises:
        UnreadableEvent: a header is missing or cannot be, or there is no key or body.

    """
    try:
        given = {name: text.decode() for name, text in headers if text is not None}
        if not key or not value:
            raise UnreadableEvent("The record has no key or no body.")
        return _decode(key.decode(), value, given)
    except KeyError as error:
        raise UnreadableEvent(f"The record has no header {error.args[0]}.") from error
    except UnicodeDecodeError as error:
        raise UnreadableEvent("A header or the key is not UTF-8.") from error
    except ValueError as error:
        raise UnreadableEvent(str(error)) from error


def _decode(key: str, body: bytes, given: dict[str, str]) -> Event:
    if given["ce_specversion"] != SPEC_VERSION:
        raise UnreadableEvent(f"CloudEvents {given['ce_specversion']} is not read, only {SPEC_VERSION}.")
    matched = _TYPE.fullmatch(given["ce_type"])
    if matched is None or matched.group(1) not in _INTERACTIONS:
        raise UnreadableEvent(f"The event type {given['ce_type']} is not known.")
    interaction: Interaction = matched.group(1)  # type: ignore[assignment] # checked in the line above
    if not given["ce_source"].startswith(SOURCE_PREFIX):
        raise UnreadableEvent(f"The source {given['ce_source']} is not one of this project.")
    type_, version = given["ce_resourcetype"], int(given["ce_resourceversion"])
    if given["ce_id"] != f"{given['ce_subject']}/{version}" or not given["ce_subject"].startswith(f"{type_}/"):
        raise UnreadableEvent(f"The id {given['ce_id']} does not agree with subject, type and version.")
    claim = None
    if matched.group(2) == _CLAIMED:
        if given[DATAREF] != f"{given['ce_source']}/{given['ce_id']}":
            raise UnreadableEvent(f"The claim is for {given[DATAREF]}, which is not the body of {given['ce_id']}.")
        claim = read_claim(body)
    return Event(
        id=given["ce_id"],
        source=given["ce_source"].removeprefix(SOURCE_PREFIX),
        interaction=interaction,
        type=type_,
        resource_id=given["ce_subject"].removeprefix(f"{type_}/"),
        version=version,
        time=datetime.fromisoformat(given["ce_time"]).astimezone(UTC),
        tenant=given["ce_tenant"],
        key=key,
        shard=int(given["ce_shard"]),
        sequence=int(given["ce_sequence"]),
        body=body,
        labels=tuple(unquote(label) for label in given["ce_labels"].split(",")) if "ce_labels" in given else (),
        request_id=given.get("x-request-id"),
        traceparent=given.get("traceparent"),
        replay=given.get(REPLAY),
        claim=claim,
    )


def dump_claim(claim: Claim) -> bytes:
    """Return the value of a claim's record: ``{"bytes":20971520,"pieces":20,"sha256":"..."}``."""
    return json.dumps(asdict(claim), separators=(",", ":"), sort_keys=True).encode()


def read_claim(value: bytes) -> Claim:
    """Return the claim that is the value of a record.

    Raises:
        UnreadableEvent: it is none.

    """
    try:
        members = json.loads(value)
        return Claim(int(members["pieces"]), int(members["bytes"]), str(members["sha256"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableEvent("The value is no claim: it lacks pieces, bytes or sha256, or they cannot be.") from error


def is_for(headers: Iterable[tuple[str, bytes | None]], consumer: str) -> bool:
    """Return whether a record is for this consumer: all are, but what was replayed for another alone."""
    told = next((text for name, text in headers if name == REPLAY and text is not None), None)
    return told is None or told in (EVERYBODY.encode(), consumer.encode())


def unreadable(
    key: bytes | None,
    value: bytes | None,
    headers: Iterable[tuple[str, bytes | None]],
    *,
    topic: str,
    partition: int,
    offset: int,
) -> Event:
    """Return an event to park in place of a record that cannot be read, so that it is not lost and its key waits.

    Its type is `Basic`, its version 0, its sequence 0: nothing that could be taken for a resource's event. Its id
    names the place of the record. It keeps the headers, for `read_again`.
    """
    where = f"{topic}-{partition}-{offset}"
    given = tuple((name, text) for name, text in headers if text is not None)
    tenant = dict(given).get("ce_tenant", b"").decode(errors="replace")
    return Event(
        id=f"Basic/{where}/0",
        source=topic,
        interaction="update",
        type="Basic",
        resource_id=where,
        version=0,
        time=datetime.fromtimestamp(0, UTC),
        tenant=tenant or NOBODYS,
        key=(key or b"").decode(errors="replace") or f"Basic/{where}",
        shard=partition,
        sequence=0,
        body=value or b"{}",
        unread=given,
    )


def read_again(event: Event) -> Event:
    """Return the event that an unreadable record is to this program; any other as it is.

    Raises:
        UnreadableEvent: it still cannot be read.

    """
    return decode(event.key.encode(), event.body, event.unread) if event.source.startswith(_TOPICS) else event


def instant(time: datetime) -> str:
    """Return a FHIR instant in UTC with milliseconds: ``2026-11-22T09:30:00.123Z``."""
    return f"{time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"
