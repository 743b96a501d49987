"""The one owner of an aiokafka producer's life: it is made, given up when it is stuck, and made anew here.

It publishes batches: all records are handed over, then all acknowledgements awaited (acks=all, idempotent). What may go
wrong in aiokafka and is healed by a new producer: an OutOfOrderSequenceNumber that never ends, a sender task that died,
a batch that no broker ever answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from shared.events import metrics, watermark
from shared.events.admin import ensure_topics
from shared.events.claims import records_in, records_of
from shared.events.codec import Record
from shared.events.envelope import Event
from shared.events.kafka import MAX_REQUEST_BYTES, KafkaConnection
from shared.events.topics import PARTITIONS, topic_of
from shared.events.watermark import Watermark

log = structlog.get_logger(__name__)

_BATCH_BYTES = 256 * 1024
_CLOSE_SECONDS = 5.0
_CANCELS = 10


class PublishError(Exception):
    """Not all events were acknowledged.

    `acknowledged` holds those that were and have no unacknowledged one before them in their shard: they may be marked
    as published. All others must be sent again.
    """

    def __init__(self, message: str, acknowledged: list[Event]) -> None:
        super().__init__(message)
        self.acknowledged = acknowledged


class EventProducer:
    """Publishes events of one service.

    Args:
        connection: where Kafka is.
        service: the events' source; names the topic.
        partitions: of the topic, where it has to be made.
        stuck_after: seconds without any acknowledgement after which the producer is given up.

    """

    def __init__(
        self, connection: KafkaConnection, *, service: str, partitions: int = PARTITIONS, stuck_after: float = 20.0
    ) -> None:
        self.connection = connection
        self.service = service
        self.topic = topic_of(service)
        self.partitions = partitions
        self.stuck_after = stuck_after
        self._producer: AIOKafkaProducer | None = None

    async def publish(self, events: Sequence[Event]) -> None:
        """Publish events, in this order within each shard, and return when Kafka has acknowledged all of them.

        Raises:
            PublishError: some were not acknowledged; the producer has been given up, the next call makes another.

        """
        acknowledgements: list[asyncio.Future[object]] = []
        try:
            records = ((event.shard, record) for event in events for record in records_of(event))
            await self._send(records, acknowledgements)
        except (KafkaError, OSError, TimeoutError) as error:
            acknowledged = self._count(events, acknowledgements)
            await self._give_up()
            raise PublishError(str(error) or type(error).__name__, acknowledged) from error
        except asyncio.CancelledError:
            _forget(acknowledgements)
            raise
        self._count(events, acknowledgements)

    async def publish_watermarks(self, watermarks: Sequence[Watermark]) -> None:
        """Publish watermarks, behind all that was published before, and return when Kafka has acknowledged them.

        Raises:
            PublishError: some were not acknowledged; the producer has been given up, the next call makes another.

        """
        acknowledgements: list[asyncio.Future[object]] = []
        try:
            await self._send(((one.shard, watermark.encode(one)) for one in watermarks), acknowledgements)
        except (KafkaError, OSError, TimeoutError) as error:
            await self._give_up()
            raise PublishError(str(error) or type(error).__name__, []) from error
        finally:
            _forget(acknowledgements)

    async def _send(
        self, records: Iterable[tuple[int, Record]], acknowledgements: list[asyncio.Future[object]]
    ) -> None:
        """Send records, each with its shard, in this order, and return when all are acknowledged."""
        producer = await self._running()
        async with asyncio.timeout(self.stuck_after):
            partitions = len(await producer.partitions_for(self.topic))
            for shard, record in records:
                sent = await producer.send(
                    self.topic,
                    key=record.key,
                    value=record.value,
                    headers=record.headers,
                    partition=shard % partitions,
                )
                acknowledgements.append(sent)
        await self._all_acknowledged(acknowledgements)

    async def stop(self) -> None:
        """Close the connection. What was not acknowledged is still unpublished in the outbox."""
        if self._producer is not None and await _close(self._producer):
            self._producer = None
        await self._give_up()

    async def _running(self) -> AIOKafkaProducer:
        if self._producer is not None:
            return self._producer
        await ensure_topics(self.connection, [self.topic], partitions=self.partitions, timeout=self.stuck_after)
        producer = AIOKafkaProducer(
            **self.connection.options(),
            acks="all",
            enable_idempotence=True,
            max_request_size=MAX_REQUEST_BYTES,
            max_batch_size=_BATCH_BYTES,
        )
        self._producer = producer  # from here on `_give_up` closes it, also when the start fails
        await asyncio.wait_for(producer.start(), self.stuck_after)
        return producer

    async def _all_acknowledged(self, acknowledgements: list[asyncio.Future[object]]) -> None:
        waiting: set[asyncio.Future[object]] = set(acknowledgements)
        while waiting:
            done, waiting = await asyncio.wait(waiting, timeout=self.stuck_after, return_when=asyncio.FIRST_EXCEPTION)
            if not done:
                raise TimeoutError(f"Kafka acknowledged nothing for {self.stuck_after:.0f} s")
            for one in done:
                one.result()

    def _count(self, events: Sequence[Event], acknowledgements: list[asyncio.Future[object]]) -> list[Event]:
        """Return the events acknowledged before the first that is not, in each shard."""
        broken: set[int] = set()
        acknowledged = []
        end = 0
        for event in events:
            begin, end = end, end + records_in(event)
            own = acknowledgements[begin:end]
            good = len(own) == end - begin and all(map(_is_acknowledged, own))
            if good and event.shard not in broken:
                acknowledged.append(event)
            else:
                broken.add(event.shard)
        _forget(acknowledgements)
        now = datetime.now(UTC)
        for event in acknowledged:
            metrics.PUBLISH_DELAY.labels(self.service).observe((now - event.time).total_seconds())
        metrics.PUBLISHED.labels(self.service).inc(len(acknowledged))
        metrics.CLAIMED.labels(self.service).inc(sum(records_in(event) > 1 for event in acknowledged))
        return acknowledged

    async def _give_up(self) -> None:
        producer, self._producer = self._producer, None
        if producer is None:
            return
        metrics.PRODUCER_REBUILDS.labels(self.service).inc()
        # aiokafka's own `stop` first delivers what is pending, and so never returns from a producer that is stuck.
        # Nothing pending is needed any more, and there is no public way to end it.
        sender = producer._sender.sender_task  # noqa: SLF001 - aiokafka offers no other way
        for _ in range(_CANCELS):
            if sender is None or sender.done():
                break
            sender.cancel()  # once ends its loop, once more each request that it still waits for
            await asyncio.wait([sender], timeout=0.2)
        producer._closed = True  # noqa: SLF001 - aiokafka offers no other way
        await producer.client.close()


async def _close(producer: AIOKafkaProducer) -> bool:
    """Close a producer in good order; return False where that takes too long."""
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await producer.stop()
    except (KafkaError, OSError, TimeoutError):
        return False
    return True


def _is_acknowledged(one: asyncio.Future[object]) -> bool:
    return one.done() and not one.cancelled() and one.exception() is None


def _forget(acknowledgements: list[asyncio.Future[object]]) -> None:
    """Read the results that nobody will ask for, so that none is reported as never retrieved."""
    for one in acknowledgements:
        one.add_done_callback(lambda done: done.cancelled() or done.exception())
