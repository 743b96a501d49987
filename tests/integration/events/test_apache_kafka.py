"""What only a real Apache Kafka can prove: nothing is lost when processes die, members come and go, brokers restart."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from shared.events.admin import ensure_topics
from shared.events.consumer import EventConsumer, Limits
from shared.events.envelope import Event
from shared.events.handler import Outcome
from shared.events.kafka import KafkaConnection
from shared.events.producer import EventProducer, PublishError
from shared.events.relay import Relay
from shared.events.topics import MAX_EVENT_BODY_BYTES, topic_of
from shared.local.kafka import ApacheKafka
from shared.testing.brokers import new_service
from shared.testing.events import MemoryInbox, MemoryOutbox, event_of, events_of, eventually

pytestmark = pytest.mark.kafka

QUICK = Limits(attempts=2, first_wait=0.01, longest_wait=0.05)


@pytest.fixture
def kafka(apache_kafka: ApacheKafka) -> KafkaConnection:
    apache_kafka.start()  # where a test before this one failed while it had stopped it
    return KafkaConnection(apache_kafka.bootstrap, "kap-test", request_seconds=3)


@asynccontextmanager
async def running(one: EventConsumer | Relay) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(one.run())
    try:
        yield task
    finally:
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def consumer_of(kafka: KafkaConnection, inbox: MemoryInbox, source: str, service: str, **options) -> EventConsumer:
    return EventConsumer(kafka, inbox, service=service, sources=[source], limits=QUICK, **options)


def relay_of(kafka: KafkaConnection, outbox: MemoryOutbox, source: str) -> Relay:
    producer = EventProducer(kafka, service=source, stuck_after=4)
    return Relay(outbox.open, producer, service=source, batch=50, idle_seconds=0.1, longest_pause=0.5)


async def publish(kafka: KafkaConnection, source: str, events: list[Event]) -> None:
    producer = EventProducer(kafka, service=source)
    await producer.publish(events)
    await producer.stop()


def assert_each_once_and_in_order(inbox: MemoryInbox, events: list[Event]) -> None:
    assert sorted(event.sequence for event in inbox.applied) == [event.sequence for event in events]
    for key in {event.key for event in events}:
        assert inbox.applied_of(key) == [event.sequence for event in events if event.key == key]


async def test_a_broker_killed_in_the_middle_loses_nothing(kafka, apache_kafka):
    source, inbox, outbox = new_service("source"), MemoryInbox(), MemoryOutbox()
    events = events_of(600, source=source)
    consumer, relay = consumer_of(kafka, inbox, source, new_service()), relay_of(kafka, outbox, source)
    async with running(consumer), running(relay):
        outbox.write(*events[:200])
        await eventually(lambda: len(inbox.applied) > 50)
        apache_kafka.kill()
        outbox.write(*events[200:400])
        await asyncio.to_thread(apache_kafka.start)
        outbox.write(*events[400:])
        await eventually(lambda: len(inbox.applied) >= 600, seconds=60)
        await eventually(lambda: not outbox.pending)
    assert_each_once_and_in_order(inbox, events)


async def test_a_consumer_that_stopped_goes_on_where_it_was(kafka):
    source, service, inbox = new_service("source"), new_service(), MemoryInbox()
    events = events_of(200, source=source)
    for number in range(2):
        await publish(kafka, source, events[number * 100 : number * 100 + 100])
        async with running(consumer_of(kafka, inbox, source, service)):
            await eventually(lambda number=number: len(inbox.applied) == number * 100 + 100)
    assert inbox.outcomes == Counter({Outcome.APPLIED: 200})


async def test_a_consumer_that_is_stopped_in_the_middle_loses_nothing(kafka):
    async def before(_: Event) -> None:
        await asyncio.sleep(0.002)

    source, service, inbox = new_service("source"), new_service(), MemoryInbox(before=before)
    events = events_of(300, source=source)
    await publish(kafka, source, events)
    for done in (50, 150, 300):
        async with running(consumer_of(kafka, inbox, source, service)):
            await eventually(lambda done=done: len(inbox.applied) >= done)
    assert_each_once_and_in_order(inbox, events)


async def test_services_that_start_before_kafka_wait_for_it(kafka, apache_kafka):
    source, inbox = new_service("source"), MemoryInbox()
    events = events_of(50, source=source)
    outbox = MemoryOutbox(events)
    consumer, relay = consumer_of(kafka, inbox, source, new_service()), relay_of(kafka, outbox, source)
    apache_kafka.stop()
    async with running(consumer), running(relay):
        await asyncio.sleep(1)
        assert relay.progress_age_seconds() < 5
        await asyncio.to_thread(apache_kafka.start)
        await eventually(lambda: len(inbox.applied) == 50, seconds=40)
    assert_each_once_and_in_order(inbox, events)


async def test_members_that_come_and_go_lose_nothing_and_keep_the_order(kafka):
    async def before(_: Event) -> None:
        await asyncio.sleep(0.005)

    source, service, inbox = new_service("source"), new_service(), MemoryInbox(before=before)
    events = events_of(1500, source=source, patients=40)
    await publish(kafka, source, events[:1000])
    first, second = (consumer_of(kafka, inbox, source, service) for _ in range(2))
    async with running(first):
        await eventually(lambda: len(inbox.applied) > 50)
        async with running(second):
            await eventually(lambda: len(first.assigned()) == len(second.assigned()) == 8)
            assert not first.assigned() & second.assigned()
            await publish(kafka, source, events[1000:1400])
            await eventually(lambda: len(inbox.applied) >= 1100)
        await publish(kafka, source, events[1400:])
        await eventually(lambda: len(inbox.applied) >= 1500)
        assert len(first.assigned()) == 16
    assert_each_once_and_in_order(inbox, events)


async def test_a_named_member_that_restarts_takes_its_partitions_back(kafka):
    source, service, inbox = new_service("source"), new_service(), MemoryInbox()
    events = events_of(60, source=source)
    for number in range(3):
        await publish(kafka, source, events[number * 20 : number * 20 + 20])
        consumer = consumer_of(kafka, inbox, source, service, group_instance_id=f"{service}-0")
        async with running(consumer):
            await eventually(lambda number=number: len(inbox.applied) == number * 20 + 20, seconds=8)
    assert_each_once_and_in_order(inbox, events)


async def test_a_producer_that_is_stuck_is_given_up_and_the_next_one_delivers(kafka, apache_kafka):
    source, inbox = new_service("source"), MemoryInbox()
    events = events_of(20, source=source)
    producer = EventProducer(kafka, service=source, stuck_after=1)
    await producer.publish(events[:10])
    os.kill(apache_kafka.pid(), signal.SIGSTOP)
    try:
        with pytest.raises(PublishError) as raised:
            await producer.publish(events[10:])
        assert raised.value.acknowledged == []
    finally:
        os.kill(apache_kafka.pid(), signal.SIGCONT)
    producer.stuck_after = 10
    await producer.publish(events[10:])
    await producer.stop()
    async with running(consumer_of(kafka, inbox, source, new_service())):
        await eventually(lambda: len(inbox.applied) == 20)
    assert_each_once_and_in_order(inbox, events)


async def test_a_consumer_whose_broker_hangs_goes_on_when_it_wakes(kafka, apache_kafka):
    source, inbox, outbox = new_service("source"), MemoryInbox(), MemoryOutbox()
    events = events_of(40, source=source)
    consumer, relay = consumer_of(kafka, inbox, source, new_service(), stall_after=6), relay_of(kafka, outbox, source)
    async with running(consumer), running(relay):
        outbox.write(*events[:20])
        await eventually(lambda: len(inbox.applied) == 20)
        os.kill(apache_kafka.pid(), signal.SIGSTOP)
        outbox.write(*events[20:])
        await asyncio.sleep(2)
        os.kill(apache_kafka.pid(), signal.SIGCONT)
        await eventually(lambda: len(inbox.applied) == 40)
    assert_each_once_and_in_order(inbox, events)


async def test_a_consumer_that_does_not_move_is_made_anew(kafka):
    hangs = asyncio.Event()

    async def before(event: Event) -> None:
        if event.sequence == 5 and not hangs.is_set():
            hangs.set()
            await asyncio.sleep(3600)

    source, inbox = new_service("source"), MemoryInbox(before=before)
    events = events_of(20, source=source, patients=1)
    await publish(kafka, source, events)
    consumer = consumer_of(kafka, inbox, source, new_service(), stall_after=1.5)
    async with running(consumer):
        await hangs.wait()
        await eventually(lambda: consumer.progress_age_seconds() > 1)
        await eventually(lambda: len(inbox.applied) == 20)
    assert_each_once_and_in_order(inbox, events)


async def test_the_largest_event_travels(kafka):
    source, inbox = new_service("source"), MemoryInbox()
    large = event_of(1, source=source, body=os.urandom(MAX_EVENT_BODY_BYTES))
    await publish(kafka, source, [large])
    async with running(consumer_of(kafka, inbox, source, new_service())):
        await eventually(lambda: bool(inbox.applied))
    assert inbox.applied[0].body == large.body


async def test_a_topic_has_its_partitions_and_keeps_seven_days(kafka):
    topic = topic_of(new_service("source"))
    await ensure_topics(kafka, [topic], partitions=6, timeout=20)
    await ensure_topics(kafka, [topic], partitions=16, timeout=20)
    admin = AIOKafkaAdminClient(**kafka.options())
    await admin.start()
    try:
        described = await admin.describe_topics([topic])
        answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    finally:
        await admin.close()
    assert len(described[0]["partitions"]) == 6
    settings = {entry[0]: entry[1] for entry in answers[0].resources[0][4]}
    assert settings["retention.ms"] == str(7 * 24 * 3600 * 1000)
    assert settings["max.message.bytes"] == str(8 * 1024 * 1024)
    assert settings["cleanup.policy"] == "delete"


async def test_events_survive_a_restart_of_kafka(kafka, apache_kafka):
    source, inbox = new_service("source"), MemoryInbox()
    events = events_of(30, source=source)
    await publish(kafka, source, events)
    apache_kafka.stop()
    assert apache_kafka.pid() is None
    apache_kafka.start()
    async with running(consumer_of(kafka, inbox, source, new_service())):
        await eventually(lambda: len(inbox.applied) == 30)
    assert_each_once_and_in_order(inbox, events)
