"""The one owner of an aiokafka consumer's life: it joins the group, reads, commits, is watched, and is made anew here.

Each partition has a `Lane` that takes its events in, in order, while others go on. An offset is committed after its
event was; a commit that fails (a rebalance) is dropped, for the inbox knows what it has seen. An aiokafka consumer can
live on and not move; so the watch asks the broker for the end of each partition, and where something is left to do and
nothing is done for a while, the consumer is given up and another made.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from datetime import UTC, datetime

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from shared.events import metrics
from shared.events.admin import ensure_topics, is_reachable
from shared.events.handler import EventHandler
from shared.events.kafka import MAX_REQUEST_BYTES, KafkaConnection
from shared.events.lane import Lane, Limits
from shared.events.topics import PARTITIONS, topic_of
from shared.events.watermark import Watermark
from shared.fhir.outcome import Unavailable

__all__ = ["EventConsumer", "EventHandler", "Limits"]

log = structlog.get_logger(__name__)

_POLL_MS = 200
_POLL_RECORDS = 500
_COMMIT_SECONDS = 0.5
_WATCH_SECONDS = 5.0
_MOMENT_SECONDS = 0.3
_GRACE_SECONDS = 4.0
_REBALANCE_MS = 10_000
"""How long the group waits for a member to finish what it has at hand: longer than a release takes, at worst."""
_SESSION_MS = 10_000
_METADATA_MS = 5_000
"""How old the consumer's knowledge of topics may be: one that it did not know of when it joined is seen soon after."""
_ANSWER_SECONDS = 10.0
_LONGEST_PAUSE = 5.0


class Stalled(Exception):
    """There is something to take in and nothing is taken in."""


class EventConsumer:
    """Takes in the events of other services for as long as `run` is not cancelled.

    Args:
        connection: where Kafka is.
        handler: what an event does, in one transaction.
        service: who consumes; the group is ``kap.<service>``.
        sources: the services whose topics are read.
        partitions: of topics that have to be made.
        group_instance_id: a name for this process that outlives it (KIP-345): a restart within the session's timeout
            then takes its partitions back at once, without a rebalance. None: a member like any other.
        concurrency: events handled at once, of different partitions; not above the store's connections.
        limits: how much is tried and held.
        stall_after: seconds without progress after which the consumer is given up and made anew.

    """

    def __init__(
        self,
        connection: KafkaConnection,
        handler: EventHandler,
        *,
        service: str,
        sources: Iterable[str],
        partitions: int = PARTITIONS,
        group_instance_id: str | None = None,
        concurrency: int = 3,
        limits: Limits | None = None,
        stall_after: float = 30.0,
    ) -> None:
        self.connection = connection
        self.handler = handler
        self.service = service
        self.topics = [topic_of(source) for source in sources]
        self.partitions = partitions
        self.group_instance_id = group_instance_id
        self.limits = limits or Limits()
        self.stall_after = stall_after
        self._slots = asyncio.Semaphore(concurrency)
        self._lanes: dict[TopicPartition, Lane] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._heard: dict[tuple[str, int], Watermark] = {}
        self._progress = time.monotonic()

    @property
    def group(self) -> str:
        """The consumer group: ``kap.gateway``."""
        return f"kap.{self.service}"

    def progress_age_seconds(self) -> float:
        """Return the seconds since this consumer was last seen to be well.

        That is: an event was done, or there was nothing left to do, or it waits for the database or Kafka, or all that
        is left to do is in partitions that are paused because too much is parked.
        """
        return time.monotonic() - self._progress

    def assigned(self) -> frozenset[tuple[str, int]]:
        """Return the topics and partitions that are being taken in now."""
        return frozenset((one.topic, one.partition) for one in self._lanes)

    async def run(self) -> None:
        """Consume until cancelled; Kafka being away never ends it."""
        failures = 0
        while True:
            began = time.monotonic()
            try:
                await self._consume()
            except (KafkaError, OSError, TimeoutError, Stalled) as error:
                failures = 0 if time.monotonic() - began > self.stall_after else failures + 1
                delay = min(0.2 * 2 ** min(failures, 10), _LONGEST_PAUSE)
                if isinstance(error, Stalled) and self.group_instance_id is not None:
                    # Who comes back by his name within the session gets the partitions he had, be they none.
                    delay = max(delay, _SESSION_MS / 1000 + 1)
                words = str(error) or type(error).__name__
                log.warning("consumer_begins_again", service=self.service, error=words, seconds=delay)
                metrics.CONSUMER_REBUILDS.labels(self.service).inc()
                if not await is_reachable(self.connection):
                    self._beat()
                await asyncio.sleep(delay)

    def _beat(self) -> None:
        self._progress = time.monotonic()

    async def _consume(self) -> None:
        await ensure_topics(self.connection, self.topics, partitions=self.partitions, timeout=_ANSWER_SECONDS)
        options = self.connection.options()
        # A join is answered when all members have joined, or at the end of the rebalance's time: wait longer than that.
        options["request_timeout_ms"] = max(options["request_timeout_ms"], _REBALANCE_MS + 5_000)
        options["metadata_max_age_ms"] = _METADATA_MS
        consumer = AIOKafkaConsumer(
            **options,
            group_id=self.group,
            group_instance_id=self.group_instance_id,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=MAX_REQUEST_BYTES,
            fetch_max_bytes=2 * MAX_REQUEST_BYTES,
            session_timeout_ms=_SESSION_MS,
            heartbeat_interval_ms=2_000,
            rebalance_timeout_ms=_REBALANCE_MS,
        )
        self._lanes, self._committed = {}, {}
        try:
            async with asyncio.timeout(self.stall_after):
                await consumer.start()
            listener = _Rebalance(lambda gone: self._release(consumer, gone), self._take_over)
            consumer.subscribe(self.topics, listener=listener)
            await self._first_failure(self._poll(consumer), self._commit_often(consumer), self._watch(consumer))
        finally:
            await self._close(consumer)

    @staticmethod
    async def _first_failure(*work: Awaitable[None]) -> None:
        """Run loops that never end until one of them fails; then end all, and raise that failure."""
        tasks = [asyncio.ensure_future(one) for one in work]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _close(self, consumer: AIOKafkaConsumer) -> None:
        """Finish what is at hand, commit it, and leave the group."""
        try:
            await self._release(consumer, list(self._lanes))
        finally:
            try:
                async with asyncio.timeout(_GRACE_SECONDS):
                    await consumer.stop()
            except (KafkaError, OSError, TimeoutError) as error:
                log.warning("consumer_not_closed", service=self.service, error=str(error) or type(error).__name__)

    async def _take_over(self, assigned: Collection[TopicPartition]) -> None:
        for one in assigned:
            self._lanes[one] = Lane(
                one.topic,
                one.partition,
                self.handler,
                service=self.service,
                limits=self.limits,
                slots=self._slots,
                beat=self._beat,
                heard=self._hear,
            )
        metrics.REBALANCES.labels(self.service).inc()
        log.info("partitions_assigned", service=self.service, partitions=len(assigned))

    async def _release(self, consumer: AIOKafkaConsumer, gone: Collection[TopicPartition]) -> None:
        lanes = {one: self._lanes.pop(one) for one in gone if one in self._lanes}
        await asyncio.gather(*(lane.close(_GRACE_SECONDS) for lane in lanes.values()))
        await self._commit(consumer, lanes)
        for one in lanes:
            self._committed.pop(one, None)

    async def _poll(self, consumer: AIOKafkaConsumer) -> None:
        full: set[TopicPartition] = set()
        while True:
            batches = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
            for one, records in batches.items():
                if one not in self._lanes:
                    continue  # lost in a rebalance while it was being read; its next owner reads it
                self._lanes[one].add(records)
                if self._lanes[one].is_full():
                    full.add(one)
            full = {one for one in full if one in self._lanes and not self._lanes[one].has_room()}
            paused: set[TopicPartition] = consumer.paused()
            with suppress(IllegalStateError):  # taken away in this moment; its lane is closed in the next
                consumer.pause(*(full - paused))
                consumer.resume(*(paused - full))
            for lane in self._lanes.values():
                lane.check()

    async def _commit_often(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            await asyncio.sleep(_COMMIT_SECONDS)
            await self._note_heard()
            await self._commit(consumer, self._lanes)

    def _hear(self, watermark: Watermark) -> None:
        ahead = (watermark.until - datetime.now(UTC)).total_seconds()
        metrics.CLOCK_AHEAD.labels(self.service, watermark.source).set(max(ahead, 0))
        place = (watermark.source, watermark.shard)
        if place not in self._heard or self._heard[place].until < watermark.until:
            self._heard[place] = watermark

    async def _note_heard(self) -> None:
        """Note watermarks, many at once; one that is lost with the process is followed by another."""
        heard, self._heard = self._heard, {}
        if not heard:
            return
        try:
            await self.handler.hear(list(heard.values()))
        except (Unavailable, OSError, TimeoutError) as error:
            log.warning("watermarks_not_noted", service=self.service, error=type(error).__name__)
            for watermark in heard.values():
                self._hear(watermark)

    async def _commit(self, consumer: AIOKafkaConsumer, lanes: dict[TopicPartition, Lane]) -> None:
        offsets = {
            one: lane.done
            for one, lane in lanes.items()
            if lane.done is not None and lane.done != self._committed.get(one)
        }
        if not offsets:
            return
        try:
            async with asyncio.timeout(_GRACE_SECONDS):
                await consumer.commit(offsets)
        except (CommitFailedError, IllegalStateError) as error:
            log.info("commit_dropped", service=self.service, error=type(error).__name__)
        except (KafkaError, OSError, TimeoutError) as error:
            log.warning("commit_failed", service=self.service, error=str(error) or type(error).__name__)
        else:
            self._committed.update(offsets)

    async def _watch(self, consumer: AIOKafkaConsumer) -> None:
        rebuilt = time.monotonic()
        while True:
            await asyncio.sleep(min(_WATCH_SECONDS, self.stall_after / 3))
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await self._measure(consumer)
            except (KafkaError, OSError, TimeoutError):
                if not await is_reachable(self.connection):
                    self._beat()
            if time.monotonic() - max(self._progress, rebuilt) > self.stall_after:
                raise Stalled(f"nothing was taken in for {self.progress_age_seconds():.0f} s")

    async def _measure(self, consumer: AIOKafkaConsumer) -> None:
        """Count what is left to do and what is parked; nothing left is as good as something done.

        What came only a moment ago is not left: watermarks come all the time.
        """
        lanes = dict(self._lanes)
        if not lanes:
            return
        ends = await consumer.end_offsets(list(lanes))
        await asyncio.sleep(_MOMENT_SECONDS)
        left = 0
        lags: dict[tuple[str, int], int] = {}
        for one, lane in lanes.items():
            if one not in self._lanes:
                continue
            at = lane.done if lane.done is not None else await consumer.position(one) - lane.waiting
            lag = lags[one.topic, one.partition] = max(ends[one] - at, 0)
            metrics.LAG.labels(self.service, one.topic, str(one.partition)).set(lag)
            left += 0 if lane.paused else lag
        if left == 0:
            self._beat()
        try:
            await self.handler.measured(lags)
            counts = await self.handler.parked()
        except (Unavailable, OSError, TimeoutError) as error:
            log.warning("parked_not_counted", service=self.service, error=type(error).__name__)
            return
        for one, lane in lanes.items():
            lane.count_parked(counts.get((one.topic, one.partition), 0))


class _Rebalance(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka's class has no types
    """Hands the group's decisions on."""

    def __init__(
        self,
        release: Callable[[Collection[TopicPartition]], Awaitable[None]],
        take_over: Callable[[Collection[TopicPartition]], Awaitable[None]],
    ) -> None:
        self._release = release
        self._take_over = take_over

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Finish and commit before the partitions go to another member."""
        await self._release(revoked)

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Begin to take in."""
        await self._take_over(assigned)
