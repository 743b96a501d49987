from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from shared.events.envelope import Event
from shared.events.producer import PublishError
from shared.events.relay import BATCH_BYTES, Relay
from shared.events.shards import SHARDS
from shared.events.watermark import Watermark
from shared.fhir.outcome import Unavailable
from shared.testing.events import MemoryOutbox, event_of, events_of, eventually


class Topic:
    """What stands for Kafka: keeps what was published, and fails when told to."""

    def __init__(self) -> None:
        self.records: list[Event] = []
        self.batches: list[list[int]] = []
        self.watermarks: list[tuple[int, Watermark]] = []
        """Each with how many events stood before it."""
        self.fails: list[PublishError] = []
        self.stopped = False

    async def publish(self, events: Sequence[Event]) -> None:
        if self.fails:
            error = self.fails.pop(0)
            self.records.extend(error.acknowledged)
            raise error
        self.batches.append([event.sequence for event in events])
        self.records.extend(events)

    async def publish_watermarks(self, watermarks: Sequence[Watermark]) -> None:
        self.watermarks.extend((len(self.records), one) for one in watermarks)

    async def stop(self) -> None:
        self.stopped = True

    @property
    def sequences(self) -> list[int]:
        return [event.sequence for event in self.records]


@asynccontextmanager
async def relaying(outbox: MemoryOutbox, topic: Topic, **options) -> AsyncIterator[Relay]:
    relay = Relay(
        options.pop("open_outbox", outbox.open),
        topic,
        service="intake",
        idle_seconds=0.05,
        longest_pause=0.02,
        **options,
    )
    task = asyncio.create_task(relay.run())
    try:
        yield relay
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_what_is_committed_is_published_in_order_and_marked():
    outbox, topic = MemoryOutbox(events_of(50, source="intake")), Topic()
    async with relaying(outbox, topic, batch=7):
        await eventually(lambda: not outbox.pending)
        outbox.write(event_of(51))
        await eventually(lambda: not outbox.pending)
    assert topic.sequences == list(range(1, 52))
    assert topic.stopped
    assert outbox.closed == outbox.opened == 1


async def test_a_crash_between_acknowledgement_and_mark_repeats_and_loses_nothing():
    outbox, topic = MemoryOutbox(events_of(10, source="intake")), Topic()
    outbox.fails = [RuntimeError("killed here")]
    async with relaying(outbox, topic):
        await eventually(lambda: not outbox.pending)
    assert topic.sequences == [*range(1, 11), *range(1, 11)]


async def test_a_lost_shard_makes_the_relay_open_the_outbox_anew():
    outbox, topic = MemoryOutbox(events_of(3, source="intake")), Topic()
    outbox.fails = [Unavailable("The relay does not hold the shard any more.")]
    async with relaying(outbox, topic):
        await eventually(lambda: not outbox.pending)
        assert outbox.opened == 2
        assert outbox.closed == 1


async def test_only_what_was_acknowledged_is_marked_when_kafka_fails():
    outbox, topic = MemoryOutbox(events_of(10, source="intake")), Topic()
    topic.fails = [PublishError("broken", outbox.pending[:4]), PublishError("broken", [])]
    async with relaying(outbox, topic):
        await eventually(lambda: not outbox.pending)
    assert topic.sequences == list(range(1, 11))


async def test_a_database_that_is_away_ends_nothing():
    outbox, topic = MemoryOutbox(events_of(3, source="intake")), Topic()
    refusals = [Unavailable("no database"), OSError("refused"), RuntimeError("anything")]

    async def open_outbox() -> MemoryOutbox:
        if refusals:
            raise refusals.pop()
        return await outbox.open()

    async with relaying(outbox, topic, open_outbox=open_outbox) as relay:
        await eventually(lambda: not outbox.pending)
        assert relay.progress_age_seconds() < 1


async def test_large_events_are_published_in_their_turn_and_never_many_at_once():
    events = [event_of(n, body=b"x" * (BATCH_BYTES // 2 if n < 6 else 10)) for n in range(1, 10)]
    outbox, topic = MemoryOutbox(events), Topic()
    async with relaying(outbox, topic):
        await eventually(lambda: not outbox.pending)
    assert topic.sequences == list(range(1, 10))
    assert topic.batches[:2] == [[1, 2], [3, 4]]


async def test_an_idle_relay_makes_progress_too():
    async with relaying(MemoryOutbox(), Topic()) as relay:
        await asyncio.sleep(0.3)
        assert relay.progress_age_seconds() < 0.2


async def test_a_watermark_comes_behind_all_that_was_committed_before_it():
    outbox, topic = MemoryOutbox(events_of(50, source="intake")), Topic()
    async with relaying(outbox, topic, batch=7, watermark_seconds=0.001):
        await eventually(lambda: not outbox.pending)
        outbox.write(*events_of(70, source="intake")[50:])
        await eventually(lambda: not outbox.pending)
        count = len(topic.watermarks)
        await eventually(lambda: len(topic.watermarks) > count + SHARDS)
    assert {one.shard for _, one in topic.watermarks} == set(range(SHARDS))
    for before, one in topic.watermarks:
        told = {event.id for event in topic.records[:before]}
        assert {event.id for event in outbox.published if event.time < one.until and event.sequence <= 50} <= told


async def test_there_is_no_watermark_while_a_batch_was_cut_for_its_bytes():
    """Behind what was read there may be more, so nobody may believe that all was told."""
    outbox, topic = MemoryOutbox([event_of(n, body=b"x" * BATCH_BYTES) for n in range(1, 6)]), Topic()
    async with relaying(outbox, topic, watermark_seconds=0.001):
        await eventually(lambda: bool(topic.watermarks))
    assert min(before for before, _ in topic.watermarks) == 5


async def test_there_is_no_watermark_while_kafka_does_not_acknowledge():
    outbox, topic = MemoryOutbox(events_of(1, source="intake")), Topic()
    topic.fails = [PublishError("no broker", []) for _ in range(10_000)]
    async with relaying(outbox, topic, watermark_seconds=0.001):
        await asyncio.sleep(0.2)
        assert not topic.watermarks
        topic.fails = []
        await eventually(lambda: bool(topic.watermarks))
    assert {before for before, _ in topic.watermarks} == {1}
