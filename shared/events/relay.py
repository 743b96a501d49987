"""Outbox to Kafka: what was committed is published, in order, and marked when Kafka has acknowledged it.

A crash between the acknowledgement and the mark repeats events and never loses one. Kafka or the database being away
is no fault: the relay waits and goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import structlog

from shared.events import metrics
from shared.events.envelope import Event
from shared.events.producer import PublishError
from shared.events.shards import SHARDS
from shared.events.topics import MAX_EVENT_BODY_BYTES

log = structlog.get_logger(__name__)

_ACQUIRE_AGAIN_SECONDS = 5.0


class Outbox(Protocol):
    """Unpublished events, sharded; each shard has one holder at a time. `shared.store.outbox` is the real one.

    Any of its calls may raise when the connection is lost, and `mark_published` when a shard is no longer held: the
    relay then opens another.
    """

    async def acquire(self, max_shards: int) -> set[int]:
        """Try to hold up to so many shards, and return all that are held now."""
        ...

    def held(self) -> set[int]:
        """Return the shards that are held."""
        ...

    async def unpublished(self, limit: int) -> list[Event]:
        """Return unpublished events of the held shards, in order of sequence within each shard."""
        ...

    async def mark_published(self, events: Sequence[Event]) -> None:
        """Mark events as published, if their shards are still held."""
        ...

    async def wait(self, timeout: float) -> None:
        """Return when there may be something to publish, or after `timeout` seconds."""
        ...

    async def close(self) -> None:
        """Give up all shards."""
        ...


class Publisher(Protocol):
    """Publishes events; `EventProducer` is the real one."""

    async def publish(self, events: Sequence[Event]) -> None:
        """Return when all are acknowledged, else raise `PublishError`."""
        ...

    async def stop(self) -> None:
        """Close the connection."""
        ...


class Relay:
    """Publishes the outbox of one service for as long as `run` is not cancelled.

    Args:
        open_outbox: connects to the outbox, on a connection of its own.
        publisher: to Kafka.
        service: for logs and metrics.
        batch: events read and published at once.
        idle_seconds: the slow poll behind the outbox's own wake-up.
        longest_pause: seconds the relay waits at most after failures in a row.

    """

    def __init__(
        self,
        open_outbox: Callable[[], Awaitable[Outbox]],
        publisher: Publisher,
        *,
        service: str,
        batch: int = 500,
        max_shards: int = SHARDS,
        idle_seconds: float = 1.0,
        longest_pause: float = 5.0,
    ) -> None:
        self.open_outbox = open_outbox
        self.publisher = publisher
        self.service = service
        self.batch = batch
        self.max_shards = max_shards
        self.idle_seconds = idle_seconds
        self.longest_pause = longest_pause
        self._turned = time.monotonic()
        self._failures = 0

    def progress_age_seconds(self) -> float:
        """Return the seconds since the relay last ended a round, whether it published, idled or failed and waited."""
        return time.monotonic() - self._turned

    async def run(self) -> None:
        """Publish until cancelled; never ends by itself."""
        try:
            while True:
                try:
                    await self._with_outbox()
                except Exception as error:  # noqa: BLE001 - whatever happened, events are committed and must go out
                    await self._pause(error)
        finally:
            metrics.HELD_SHARDS.labels(self.service).set(0)
            await self.publisher.stop()

    async def _with_outbox(self) -> None:
        outbox = await self.open_outbox()
        try:
            await self._relay(outbox)
        finally:
            await outbox.close()

    async def _relay(self, outbox: Outbox) -> None:
        acquired = float("-inf")
        while True:
            if len(outbox.held()) < self.max_shards and time.monotonic() - acquired > _ACQUIRE_AGAIN_SECONDS:
                held = await outbox.acquire(self.max_shards)
                metrics.HELD_SHARDS.labels(self.service).set(len(held))
                acquired = time.monotonic()
            events = self._publishable(await outbox.unpublished(self.batch))
            if events:
                await self._publish(outbox, events)
            else:
                await outbox.wait(self.idle_seconds)
            self._turned = time.monotonic()

    async def _publish(self, outbox: Outbox, events: list[Event]) -> None:
        try:
            await self.publisher.publish(events)
        except PublishError as error:
            if error.acknowledged:
                await outbox.mark_published(error.acknowledged)
            await self._pause(error)
        else:
            await outbox.mark_published(events)
            self._failures = 0

    def _publishable(self, events: list[Event]) -> list[Event]:
        """Leave out what is too large for Kafka, and what comes after it along the same key."""
        held_back: set[tuple[str, str]] = set()
        publishable = []
        for event in events:
            along = (event.tenant, event.key)
            if along in held_back or len(event.body) > MAX_EVENT_BODY_BYTES:
                if along not in held_back:
                    log.error(
                        "event_too_large", event_type=event.type, bytes=len(event.body), limit=MAX_EVENT_BODY_BYTES
                    )
                held_back.add(along)
            else:
                publishable.append(event)
        metrics.UNPUBLISHABLE.labels(self.service).set(len(held_back))
        return publishable

    async def _pause(self, error: Exception) -> None:
        metrics.RELAY_FAILURES.labels(self.service).inc()
        delay = min(0.1 * 2 ** min(self._failures, 10), self.longest_pause)
        self._failures += 1
        # Of other errors only the class: PostgreSQL puts values of rows into its sentences.
        words = str(error) if isinstance(error, PublishError) else type(error).__name__
        log.warning("relay_waits", service=self.service, error=words, seconds=delay)
        self._turned = time.monotonic()
        await asyncio.sleep(delay)
        self._turned = time.monotonic()
