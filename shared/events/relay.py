"""Outbox to Kafka: what was committed is published, in order, and marked when Kafka has acknowledged it.

A crash between the acknowledgement and the mark repeats events and never loses one. Kafka or the database being away
is no fault: the relay waits and goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime
from typing import Final, Protocol

import structlog

from shared.events import metrics
from shared.events.envelope import Event
from shared.events.producer import PublishError
from shared.events.shards import SHARDS
from shared.events.watermark import Watermark

log = structlog.get_logger(__name__)

_ACQUIRE_AGAIN_SECONDS = 5.0

BATCH_BYTES: Final = 16 * 1024 * 1024
"""Bytes of bodies at which a batch is enough; the event that reaches it is the last, however large."""

WATERMARK_SECONDS: Final = 5.0
"""How often a relay says of each shard it holds up to when all has been told."""


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

    async def now(self) -> datetime:
        """Return the present by the database's clock: a later call of `unpublished` sees all committed before it."""
        ...

    async def unpublished(self, limit: int, most_bytes: int) -> list[Event]:
        """Return unpublished events of the held shards, in order of sequence within each shard.

        At most `limit`, and none more once their bodies come to `most_bytes`.
        """
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

    async def publish_watermarks(self, watermarks: Sequence[Watermark]) -> None:
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
        watermark_seconds: between two watermarks of a shard.

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
        watermark_seconds: float = WATERMARK_SECONDS,
    ) -> None:
        self.open_outbox = open_outbox
        self.publisher = publisher
        self.service = service
        self.batch = batch
        self.max_shards = max_shards
        self.idle_seconds = idle_seconds
        self.longest_pause = longest_pause
        self.watermark_seconds = watermark_seconds
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
        acquired = told = float("-inf")
        while True:
            if len(outbox.held()) < self.max_shards and time.monotonic() - acquired > _ACQUIRE_AGAIN_SECONDS:
                held = await outbox.acquire(self.max_shards)
                metrics.HELD_SHARDS.labels(self.service).set(len(held))
                acquired = time.monotonic()
            held, until = outbox.held(), None
            if time.monotonic() - told >= self.watermark_seconds:
                until = await outbox.now()
            events = await outbox.unpublished(self.batch, BATCH_BYTES)
            published = not events or await self._publish(outbox, events)
            all_read = len(events) < self.batch and sum(len(event.body) for event in events) < BATCH_BYTES
            if until is not None and published and all_read:
                told = time.monotonic()
                await self._tell(held, until)
            if not events:
                await outbox.wait(self.idle_seconds)
            self._turned = time.monotonic()

    async def _tell(self, shards: Collection[int], until: datetime) -> None:
        """Say of shards that all that was committed before `until` is in the topic.

        It was: what was read after that time, with the shard held, was all that was not acknowledged yet, and has been
        since. That stays true, so a relay that has lost a shard meanwhile says nothing wrong.
        """
        try:
            await self.publisher.publish_watermarks([Watermark(self.service, one, until) for one in sorted(shards)])
        except PublishError as error:
            await self._pause(error)
        else:
            self._failures = 0

    async def _publish(self, outbox: Outbox, events: list[Event]) -> bool:
        """Publish and mark events; return whether all were acknowledged."""
        try:
            await self.publisher.publish(events)
        except PublishError as error:
            if error.acknowledged:
                await outbox.mark_published(error.acknowledged)
            await self._pause(error)
            return False
        await outbox.mark_published(events)
        self._failures = 0
        return True

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
