"""What the events promise on the in-memory broker and on Apache Kafka alike."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from shared.events.admin import ensure_topics, is_reachable
from shared.events.consumer import EventConsumer, Limits
from shared.events.envelope import Event
from shared.events.handler import Outcome
from shared.events.kafka import KafkaConnection
from shared.events.producer import EventProducer
from shared.events.relay import Relay
from shared.events.topics import topic_of
from shared.testing.brokers import free_ports, new_service
from shared.testing.events import MemoryInbox, MemoryOutbox, event_of, events_of, eventually

QUICK = Limits(attempts=2, first_wait=0.01, longest_wait=0.05)


@asynccontextmanager
async def running(task_of: EventConsumer | Relay) -> AsyncIterator[None]:
    task = asyncio.create_task(task_of.run())
    try:
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@asynccontextmanager
async def consuming(
    kafka: KafkaConnection, inbox: MemoryInbox, source: str, service: str, **options
) -> AsyncIterator[EventConsumer]:
    consumer = EventConsumer(
        kafka, inbox, service=service, sources=[source], limits=options.pop("limits", QUICK), **options
    )
    async with running(consumer):
        yield consumer


async def publish(kafka: KafkaConnection, source: str, events: list[Event]) -> None:
    producer = EventProducer(kafka, service=source)
    try:
        await producer.publish(events)
    finally:
        await producer.stop()


async def test_an_event_arrives_as_it_was_sent(kafka):
    source, inbox = new_service("source"), MemoryInbox()
    event = replace(
        event_of(1, source=source, tenant="Klinik Süd", body='{"valueDecimal":1.00,"ü":"€"}'.encode()),
        labels=("R", "a,b"),
        request_id="req-1",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    event = replace(event, time=event.time.replace(microsecond=123000))
    await publish(kafka, source, [event])
    async with consuming(kafka, inbox, source, new_service()):
        await eventually(lambda: bool(inbox.applied))
    assert inbox.applied == [event]


async def test_every_event_arrives_once_and_in_order_along_its_key(kafka):
    source, inbox, events = new_service("source"), MemoryInbox(), []
    events = events_of(1000, source=source, patients=30)
    async with consuming(kafka, inbox, source, new_service()):
        await publish(kafka, source, events)
        await eventually(lambda: len(inbox.applied) >= len(events))
    assert Counter(event.sequence for event in inbox.applied) == Counter(range(1, 1001))
    for key in {event.key for event in events}:
        assert inbox.applied_of(key) == [event.sequence for event in events if event.key == key]


async def test_events_that_are_published_again_are_known_as_repeats(kafka):
    source, inbox = new_service("source"), MemoryInbox()
    events = events_of(50, source=source)
    await publish(kafka, source, events)
    await publish(kafka, source, events)
    async with consuming(kafka, inbox, source, new_service()):
        await eventually(lambda: inbox.outcomes.total() == 100)
    assert len(inbox.applied) == 50
    assert inbox.outcomes[Outcome.DUPLICATE] == 50


async def test_poison_parks_its_key_and_no_other(kafka):
    source, inbox = new_service("source"), MemoryInbox(poison=lambda event: event.sequence == 7)
    events = events_of(100, source=source, patients=10)
    await publish(kafka, source, events)
    async with consuming(kafka, inbox, source, new_service()):
        await eventually(lambda: len(inbox.applied) + len(inbox.waiting) == 100)
    assert {event.key for event, _, _ in inbox.waiting} == {"Patient/p7"}
    assert [event.sequence for event, _, _ in inbox.waiting] == list(range(7, 101, 10))
    inbox.cure()
    assert inbox.applied_of("Patient/p7") == list(range(7, 101, 10))


async def test_an_outage_of_the_database_delays_and_loses_nothing(kafka):
    source, inbox = new_service("source"), MemoryInbox()
    inbox.available = False
    await publish(kafka, source, events_of(100, source=source))
    async with consuming(kafka, inbox, source, new_service()) as consumer:
        await eventually(lambda: bool(consumer.assigned()))
        await asyncio.sleep(0.3)
        assert consumer.progress_age_seconds() < 1
        inbox.available = True
        await eventually(lambda: len(inbox.applied) == 100)
    assert not inbox.waiting


async def test_events_flow_from_outbox_to_inbox_while_they_are_written(kafka):
    source, inbox, outbox = new_service("source"), MemoryInbox(), MemoryOutbox()
    relay = Relay(outbox.open, EventProducer(kafka, service=source), service=source, idle_seconds=0.1)
    events = events_of(300, source=source)
    async with consuming(kafka, inbox, source, new_service()), running(relay):
        for start in range(0, 300, 30):
            outbox.write(*events[start : start + 30])
            await asyncio.sleep(0.01)
        await eventually(lambda: len(inbox.applied) == 300)
        await eventually(lambda: not outbox.pending)
    assert inbox.outcomes == Counter({Outcome.APPLIED: 300})


async def test_more_than_memory_should_hold_is_read_as_room_comes(kafka):
    source, inbox = new_service("source"), MemoryInbox()
    await publish(kafka, source, events_of(400, source=source, patients=2))
    limits = Limits(queue=20)
    async with consuming(kafka, inbox, source, new_service(), limits=limits):
        await eventually(lambda: len(inbox.applied) == 400)
    assert inbox.outcomes == Counter({Outcome.APPLIED: 400})


async def test_an_idle_consumer_is_well(kafka):
    source = new_service("source")
    async with consuming(kafka, MemoryInbox(), source, new_service(), stall_after=3) as consumer:
        await eventually(lambda: bool(consumer.assigned()))
        await asyncio.sleep(2.5)
        assert consumer.progress_age_seconds() < 2


async def test_topics_are_made_once_by_however_many_ask(kafka):
    topics = [topic_of(new_service("source")) for _ in range(2)]
    await asyncio.gather(*(ensure_topics(kafka, topics, timeout=20) for _ in range(5)))
    await ensure_topics(kafka, topics, timeout=20)


async def test_kafka_is_known_to_be_there_or_not(kafka):
    assert await is_reachable(kafka)
    assert not await is_reachable(KafkaConnection(f"127.0.0.1:{free_ports(1)[0]}", "kap-test"), timeout=2)
