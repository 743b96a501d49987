"""The whole way on real parts: a committed write, its outbox, Kafka, another service's inbox, its copy."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
from aiokafka import AIOKafkaProducer

from shared.events.admin import ensure_topics
from shared.events.consumer import EventConsumer, Limits
from shared.events.envelope import Event
from shared.events.handler import Outcome, Position
from shared.events.producer import EventProducer
from shared.events.relay import Relay
from shared.events.topics import topic_of
from shared.fhir.json import Resource
from shared.runtime.consume import ServiceEvents
from shared.runtime.record import Record
from shared.runtime.service import Service
from shared.store.access import Access
from shared.store.outbox import Outbox, open_outbox
from shared.store.store import Store
from shared.testing.brokers import new_service
from shared.testing.events import eventually, running
from shared.testing.writes import write_of

ALL = Access.unrestricted()
PATIENTS = [f"p{number}" for number in range(10)]


@pytest.fixture
async def copies(make_database):
    opened = await Store.connect(make_database("gateway"), service="gateway")
    yield opened
    await opened.close()


class Counting(ServiceEvents):
    """A service's own handler that also notes what became of each event."""

    __slots__ = ("outcomes",)

    def __init__(self, service: Service, store: Store) -> None:
        super().__init__(service, store)
        object.__setattr__(self, "outcomes", [])

    async def handle(self, event: Event, position: Position) -> Outcome:
        outcome = await super().handle(event, position)
        self.outcomes.append((event.id, outcome))
        return outcome

    async def handle_many(self, events: Sequence[Event], positions: Sequence[Position]) -> list[Outcome]:
        outcomes = await super().handle_many(events, positions)
        self.outcomes.extend((event.id, outcome) for event, outcome in zip(events, outcomes, strict=True))
        return outcomes

    async def has_parked(self) -> bool:
        return bool(await self.parked())

    def applied(self) -> list[str]:
        return [id_ for id_, outcome in self.outcomes if outcome is Outcome.APPLIED]


def handler_of(source: str, store: Store) -> Counting:
    holds = frozenset(("Patient",))
    return Counting(Service("gateway", "Gateway", types=holds, consumes=(source,), holds=holds), store)


def consumer_of(kafka, handler, source: str) -> EventConsumer:
    return EventConsumer(kafka, handler, service=new_service("gateway"), sources=[source], limits=Limits(attempts=2))


async def write_versions(store: Store, count: int) -> None:
    """Write so many versions of each patient, patients at the same time."""

    async def of(patient: str) -> None:
        for number in range(count):
            body = {"resourceType": "Patient", "id": patient, "multipleBirthInteger": number}
            await store.write(ALL, write_of(body, "create" if number == 0 else "update"))

    await asyncio.gather(*(of(patient) for patient in PATIENTS))


async def assert_equal_copies(store: Store, copies: Store, versions: int) -> None:
    for patient in PATIENTS:
        for version in range(1, versions + 1):
            own = await store.read_version(ALL, "Patient", patient, version)
            assert (await copies.read_version(ALL, "Patient", patient, version)).body == own.body
        assert (await copies.read(ALL, "Patient", patient)).version == versions


async def test_every_committed_version_arrives_byte_for_byte(kafka, database, store, copies):
    source = new_service("intake")
    handler = handler_of(source, copies)
    relay = Relay(lambda: open_outbox(database, service=source), EventProducer(kafka, service=source), service=source)
    async with running(relay, consumer_of(kafka, handler, source)):
        await write_versions(store, 12)
        await eventually(lambda: len(handler.applied()) == 120)
    await assert_equal_copies(store, copies, 12)


async def test_crashes_between_acknowledgement_and_mark_repeat_and_lose_nothing(kafka, database, store, copies):
    source = new_service("intake")
    handler, crashes = handler_of(source, copies), iter(range(4))

    class Crashing(EventProducer):
        async def publish(self, events: Sequence[Event]) -> None:
            await super().publish(events)
            if next(crashes, None) is not None:
                raise RuntimeError("killed after the acknowledgement")

    relay = Relay(
        lambda: open_outbox(database, service=source),
        Crashing(kafka, service=source),
        service=source,
        batch=20,
        longest_pause=0.05,
    )
    await write_versions(store, 8)
    async with running(relay, consumer_of(kafka, handler, source)):
        await eventually(lambda: len(handler.applied()) == 80)
        await eventually(lambda: len(handler.outcomes) >= 160)
    await assert_equal_copies(store, copies, 8)


async def test_two_relays_share_the_shards_and_publish_each_event_once(kafka, database, store, copies):
    source = new_service("intake")
    handler = handler_of(source, copies)
    opened: list[Outbox] = []

    async def open_one() -> Outbox:
        opened.append(await open_outbox(database, service=source))
        return opened[-1]

    async with AsyncExitStack() as stack:
        for _ in range(2):
            relay = Relay(open_one, EventProducer(kafka, service=source), service=source, max_shards=8)
            await stack.enter_async_context(running(relay))
        await eventually(lambda: [len(outbox.held()) for outbox in opened] == [8, 8])
        await stack.enter_async_context(running(consumer_of(kafka, handler, source)))
        await write_versions(store, 10)
        await eventually(lambda: len(handler.outcomes) >= 100)
        await asyncio.sleep(0.3)
    assert sorted(id_ for id_, _ in handler.outcomes) == sorted(set(handler.applied()))
    await assert_equal_copies(store, copies, 10)


async def test_a_record_that_cannot_be_read_is_parked_in_postgresql(kafka, copies):
    source = new_service("intake")
    handler = handler_of(source, copies)
    topic = topic_of(source)
    await ensure_topics(kafka, [topic], timeout=20)
    async with AIOKafkaProducer(**kafka.options()) as producer:
        await producer.send_and_wait(topic, key=b"Patient/p1", value=b"\xff not ours", partition=2)
    async with running(consumer_of(kafka, handler, source)):
        await eventually(handler.has_parked)
    assert await handler.parked() == {(topic, 2): 1}


async def test_poison_is_parked_in_postgresql_and_its_key_waits(kafka, database, store, copies):
    source = new_service("intake")

    async def poisoned(event: Event, resource: Resource, record: Record) -> None:
        if event.id == "Patient/p3/2":
            raise ValueError("poison")

    service = replace(handler_of(source, copies).service, reactions={"Patient": (poisoned,)})
    handler = Counting(service, copies)
    relay = Relay(lambda: open_outbox(database, service=source), EventProducer(kafka, service=source), service=source)
    await write_versions(store, 3)
    async with running(relay, consumer_of(kafka, handler, source)):
        await eventually(lambda: len(handler.applied()) == 28)
        await eventually(lambda: Outcome.WAITING in dict(handler.outcomes).values())
    assert sum((await handler.parked()).values()) == 2
    assert (await copies.read(ALL, "Patient", "p3")).version == 1
    assert (await copies.read(ALL, "Patient", "p4")).version == 3
