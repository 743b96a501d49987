"""One committed change of one resource, as it travels: CloudEvents 1.0 in Kafka's binary content mode.

Headers are `ce_*` (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md),
the record's value is the FHIR resource exactly as stored, the record's key is `Event.key`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

Interaction = Literal["create", "update", "delete"]
EVERYBODY: Final = "*"
"""Whom a replayed event is for where it is for every consumer."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a body is asked for by that came ahead of its event, in so many pieces (`shared.events.claims`).

    Attributes:
        pieces: how many records the body was cut into.
        bytes: of the body.
        sha256: of the body, in hex.

    """

    pieces: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Event:
    """A committed change.

    Attributes:
        id: ``Observation/0198.../3`` (type, logical id, version); with `source` it names the event for ever, so a
            repeat is known as such.
        source: the service that owns the resource and committed the change: ``intake``.
        interaction: what was done to it.
        type: the FHIR resource type.
        resource_id: the logical id.
        version: `meta.versionId` as a number, from 1.
        time: `meta.lastUpdated`, UTC, milliseconds.
        tenant: the clinic.
        key: ``Patient/<id>`` of the patient's compartment, else the resource's own ``Type/<id>``. One key's events
            from one source are in order.
        shard: `shard_of(tenant, key)`, 0 to 15; the Kafka partition is shard modulo the topic's partitions.
        sequence: position in the source's outbox; grows along one key.
        labels: codes of `meta.security`, for routing only.
        body: the resource as stored, UTF-8 JSON; of a delete, what its history holds for the deletion. Never empty.
        request_id: `X-Request-Id` of the request that caused it.
        traceparent: W3C trace context.
        replay: None: told because it was committed. Else told again on an operator's word: for the consumer of this
            name, or for all where it is `EVERYBODY`.
        claim: None: `body` is the resource. Else `body` is the claim's own JSON, and the resource is to be had for it.
        unread: of a record that this program cannot read, and that is parked: its headers; a later one may read it.

    """

    id: str
    source: str
    interaction: Interaction
    type: str
    resource_id: str
    version: int
    time: datetime
    tenant: str
    key: str
    shard: int
    sequence: int
    body: bytes
    labels: tuple[str, ...] = ()
    request_id: str | None = None
    traceparent: str | None = None
    replay: str | None = None
    claim: Claim | None = None
    unread: tuple[tuple[str, bytes], ...] = ()

    @property
    def patient(self) -> str | None:
        """``Patient/<id>`` where the resource is in a patient's compartment."""
        return self.key if self.key.startswith("Patient/") else None
