"""What a service committed, told again out of PostgreSQL: who lacked it gets it, for who had it nothing changes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from shared.events.consumer import EventConsumer
from shared.events.envelope import Event
from shared.events.handler import Outcome, Position
from shared.events.producer import EventProducer, PublishError
from shared.events.relay import Relay
from shared.fhir.json import Resource
from shared.runtime.consume import ServiceEvents
from shared.runtime.record import Record
from shared.runtime.replaying import Replaying
from shared.runtime.service import Service
from shared.store.access import Access
from shared.store.outbox import open_outbox
from shared.store.store import Store
from shared.testing.brokers import new_service
from shared.testing.events import eventually, running
from shared.testing.writes import write_of

ALL = Access.unrestricted()
PATIENTS = [f"p{number}" for number in range(6)]


class Counting(ServiceEvents):
    """A service's own handler that counts what became of what."""

    __slots__ = ("outcomes", "reacted")

    def __init__(self, name: str, source: str, store: Store) -> None:
        held = frozenset(("Patient",))
        service = Service(name, name, types=held, consumes=(source,), holds=held, reactions={"Patient": (self._react,)})
        super().__init__(service, store)
        object.__setattr__(self, "outcomes", [])
        object.__setattr__(self, "reacted", [])

    async def _react(self, event: Event, resource: Resource, record: Record) -> None:
        self.reacted.append(event.id)

    async def handle(self, event: Event, position: Position) -> Outcome:
        outcome = await super().handle(event, position)
        self.outcomes.append((event.id, outcome))
        return outcome

    async def handle_many(self, events, positions):
        outcomes = await super().handle_many(events, positions)
        self.outcomes.extend((event.id, outcome) for event, outcome in zip(events, outcomes, strict=True))
        return outcomes


@pytest.fixture
def source() -> str:
    return new_service("intake")


@pytest.fixture
async def intake(database, source) -> AsyncIterator[Store]:
    opened = await Store.connect(database, service=source)
    for number in range(3):
        for name in PATIENTS:
            body = {"resourceType": "Patient", "id": name, "multipleBirthInteger": number}
            await opened.write(ALL, write_of(body, "create" if number == 0 else "update"))
    yield opened
    await opened.close()


@pytest.fixture
async def open_holder(make_database, source) -> AsyncIterator:
    stores: list[Store] = []

    async def open_one(kind: str) -> Counting:
        stores.append(await Store.connect(make_database("holder"), service=kind))
        return Counting(kind, source, stores[-1])

    yield open_one
    for store in stores:
        await store.close()


async def tell_again(kafka, intake: Store, source: str, **what) -> int:
    number = await intake.replay.ask(**what)
    replaying = Replaying(source, intake.replay, EventProducer(kafka, service=source))
    while await replaying.once():
        pass
    await replaying.publisher.stop()
    asked = await intake.replay.state(number)
    assert asked.ended
    return asked.told


async def test_a_dropped_event_comes_again_and_what_was_applied_is_a_repeat(
    kafka, database, intake, open_holder, source
):
    gateway, delivery = await open_holder(new_service("gateway")), await open_holder(new_service("delivery"))
    consumers = [
        EventConsumer(kafka, handler, service=handler.service.name, sources=[source]) for handler in (gateway, delivery)
    ]
    relay = Relay(lambda: open_outbox(database, service=source), EventProducer(kafka, service=source), service=source)
    async with running(relay, *consumers):
        await eventually(lambda: len(gateway.outcomes) == len(delivery.outcomes) == 18, seconds=60)
        # As an event that a person has dropped: it is neither in the inbox nor among the copies.
        async with gateway.store.transaction(keys=("Patient/p3",), tenant="default") as transaction:
            await transaction.connection.execute("DELETE FROM inbox WHERE event_id = 'Patient/p3/2'")
            await transaction.connection.execute("DELETE FROM history WHERE version = 2 AND key = 'Patient/p3'")
        told = await tell_again(kafka, intake, source, consumer=gateway.service.name, key="Patient/p3")
        assert told == 3
        await eventually(lambda: len(gateway.outcomes) == 21, seconds=60)
    assert gateway.outcomes[18:] == [
        ("Patient/p3/1", Outcome.DUPLICATE),
        ("Patient/p3/2", Outcome.APPLIED),
        ("Patient/p3/3", Outcome.DUPLICATE),
    ]
    held = await gateway.store.read_version(ALL, "Patient", "p3", 2)
    assert held.body == (await intake.read_version(ALL, "Patient", "p3", 2)).body
    assert (await gateway.store.read(ALL, "Patient", "p3")).version == 3
    assert len(delivery.outcomes) == 18  # it was for the gateway alone


async def test_what_the_inbox_has_forgotten_is_not_reacted_to_once_more(kafka, database, intake, open_holder, source):
    holder = await open_holder(new_service("gateway"))
    relay = Relay(lambda: open_outbox(database, service=source), EventProducer(kafka, service=source), service=source)
    async with running(relay, EventConsumer(kafka, holder, service=holder.service.name, sources=[source])):
        await eventually(lambda: len(holder.reacted) == 18, seconds=60)
        async with holder.store.transaction(keys=(), tenant="default") as transaction:
            await transaction.connection.execute("DELETE FROM inbox")
        assert await tell_again(kafka, intake, source) == 18
        await eventually(lambda: len(holder.outcomes) == 36, seconds=60)
    assert len(holder.reacted) == 18


async def test_a_new_consumer_is_filled_from_history_in_order_although_kafka_holds_nothing(
    kafka, intake, open_holder, source
):
    holder = await open_holder(new_service("gateway"))
    async with running(EventConsumer(kafka, holder, service=holder.service.name, sources=[source])):
        assert await tell_again(kafka, intake, source, consumer=holder.service.name) == 18
        await eventually(lambda: len(holder.reacted) == 18, seconds=60)
    for name in PATIENTS:
        assert [one for one in holder.reacted if one.startswith(f"Patient/{name}/")] == [
            f"Patient/{name}/{version}" for version in (1, 2, 3)
        ]
        assert (await holder.store.read(ALL, "Patient", name)).body == (await intake.read(ALL, "Patient", name)).body


async def test_a_replay_may_begin_at_a_time_or_a_place_of_the_outbox(intake):
    events = [event async for event in intake.replay.events_since()]

    async def asked(**what) -> list[str]:
        await intake.replay.ask(**what)
        async with intake.replay.batch() as batch:
            return [event.id for event in batch]

    assert await asked(sequence=events[10].sequence) == [event.id for event in events[11:]]
    assert await asked(time=events[12].time) == [event.id for event in events if event.time >= events[12].time]
    assert await asked(time=datetime.now(UTC) + timedelta(hours=1)) == []
    assert await asked(key="Patient/p1") == ["Patient/p1/1", "Patient/p1/2", "Patient/p1/3"]
    async with intake.replay.batch() as batch:
        assert batch is None


async def test_a_batch_that_was_not_acknowledged_is_told_again(intake, source):
    sent: list[list[str]] = []

    class Failing:
        async def publish(self, events):
            sent.append([event.id for event in events])
            if len(sent) == 1:
                raise PublishError("Kafka is away", [])

        async def stop(self):
            pass

    number = await intake.replay.ask(key="Patient/p2")
    replaying = Replaying(source, intake.replay, Failing())
    with pytest.raises(PublishError):
        await replaying.once()
    assert not (await intake.replay.state(number)).ended
    assert await replaying.once()
    assert sent[0] == sent[1] == ["Patient/p2/1", "Patient/p2/2", "Patient/p2/3"]
    assert (await intake.replay.state(number)).ended
    assert not await replaying.once()
