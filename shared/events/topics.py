"""The topics: their names, their size, what they hold."""

from __future__ import annotations

from shared.events.kafka import MAX_REQUEST_BYTES

SOURCES = ("intake", "scheduling", "sessions", "outcomes", "delivery", "gateway")
"""The services that publish, each in a topic of its own."""

PARTITIONS = 16
"""Of a topic; an event's partition is its shard modulo this."""

RETENTION_MS = 7 * 24 * 3600 * 1000
"""Kafka keeps events seven days; older ones are replayed from PostgreSQL's history."""

MAX_EVENT_BODY_BYTES = MAX_REQUEST_BYTES - 256 * 1024
"""The largest resource that travels in its event's own record: what is left of one beside its headers."""

PIECE_BYTES = 1024 * 1024
"""What is larger travels ahead of its event, in pieces of so many bytes."""


def topic_of(source: str) -> str:
    """Return the topic of a service's events: ``kap.intake.v1``."""
    return f"kap.{source}.v1"


TOPICS = tuple(topic_of(source) for source in SOURCES)
