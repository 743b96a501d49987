"""What a service knows of another, and how old that is: on PostgreSQL and a broker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from shared.events.consumer import EventConsumer, Limits
from shared.events.handler import Position
from shared.events.producer import EventProducer
from shared.events.relay import Relay
from shared.events.shards import SHARDS, shard_of
from shared.events.watermark import Watermark
from shared.runtime.consume import ServiceEvents
from shared.runtime.record import open_record
from shared.runtime.service import Service
from shared.store.access import Access
from shared.store.outbox import open_outbox
from shared.store.store import Store
from shared.testing.brokers import new_service
from shared.testing.events import event_of, eventually, running
from shared.testing.writes import write_of

ALL = Access.unrestricted()


@pytest.fixture
async def gateway(make_database):
    opened = await Store.connect(make_database("gateway"), service="gateway")
    yield opened
    await opened.close()


def service_of(source: str) -> Service:
    holds = frozenset(("Patient",))
    return Service("gateway", "Gateway", types=holds, consumes=(source,), holds=holds)


class Listening(ServiceEvents):
    """A service's own handler that also notes, with each watermark, what it held when it heard it."""

    __slots__ = ("heard",)

    def __init__(self, service: Service, store: Store) -> None:
        super().__init__(service, store)
        object.__setattr__(self, "heard", [])

    async def hear(self, watermarks: Sequence[Watermark]) -> None:
        [digest] = await self.store.verify.digest() or [None]
        self.heard.extend((one, 0 if digest is None else digest.versions) for one in watermarks)
        await super().hear(watermarks)


def relay_of(kafka, database: str, source: str, **options) -> Relay:
    return Relay(
        lambda: open_outbox(database, service=source),
        EventProducer(kafka, service=source),
        service=source,
        longest_pause=0.5,
        **{"watermark_seconds": 0.1, **options},
    )


async def age(store: Store, source: str, key: str) -> timedelta | None:
    async with open_record(service_of(source), store, ALL, keys=()) as record:
        return await record.knowledge_age(source, key)


async def test_whoever_hears_a_watermark_holds_all_that_was_answered_before_it(kafka, database, store, gateway):
    """Four writers at once, each in the shard that its patient falls into; what each was answered is noted."""
    source = new_service("intake")
    handler = Listening(service_of(source), gateway)
    answered: list[datetime] = []
    relay = relay_of(kafka, database, source, batch=20)

    async def write(name: str) -> None:
        for number in range(40):
            body = {"resourceType": "Patient", "id": name, "multipleBirthInteger": number}
            await store.write(ALL, write_of(body, "create" if number == 0 else "update"))
            answered.append(datetime.now(UTC))

    shard = shard_of("default", "Patient/p0")
    names = [name for number in range(200) if shard_of("default", f"Patient/{(name := f'p{number}')}") == shard][:4]
    async with running(relay, EventConsumer(kafka, handler, service=new_service("gateway"), sources=[source])):
        await eventually(lambda: any(one.shard == shard for one, _ in handler.heard), seconds=60)
        await asyncio.gather(*(write(name) for name in names))
        last = max(answered)
        await eventually(lambda: any(one.shard == shard and one.until > last for one, _ in handler.heard), seconds=60)
    of_shard = [(one, held) for one, held in handler.heard if one.shard == shard]
    assert len(of_shard) > 1
    for one, held in of_shard:
        assert held >= sum(moment < one.until for moment in answered)
    assert of_shard[-1][1] == len(answered) == 160


async def test_knowledge_grows_old_in_silence_and_young_again_by_itself(kafka, database, gateway):
    source = new_service("intake")
    handler = ServiceEvents(service_of(source), gateway)
    assert await age(gateway, source, "Patient/p") is None

    async def is_young() -> bool:
        told = await gateway.knowledge.by_source("gateway", [source])
        return told[0].seconds is not None and told[0].seconds < 1.5

    async with running(EventConsumer(kafka, handler, service=new_service("gateway"), sources=[source])):
        async with running(relay_of(kafka, database, source)):
            await eventually(is_young)
        await asyncio.sleep(1.6)
        silent = await age(gateway, source, "Patient/p")
        assert silent is not None
        assert silent > timedelta(seconds=1.5)
        assert not await is_young()
        async with running(relay_of(kafka, database, source)):
            await eventually(is_young)


async def test_what_is_parked_is_not_known_however_late_the_watermark(gateway):
    source, event = "intake", replace(event_of(1, patient="p"), time=datetime.now(UTC) - timedelta(minutes=2))
    handler = ServiceEvents(service_of(source), gateway)
    now = datetime.now(UTC)
    await handler.hear([Watermark(source, shard, now + timedelta(minutes=1)) for shard in range(SHARDS)])
    young = await age(gateway, source, event.key)
    assert young is not None
    assert young < timedelta(seconds=5)  # heard from a source whose clock is ahead: not older than its hearing
    await handler.park(event, Position("kap.intake.v1", 0, 0), "a fault")
    parked = await age(gateway, source, event.key)
    assert parked is not None
    assert parked >= timedelta(minutes=2)
    another = await age(gateway, source, "Patient/another")
    assert another is not None
    assert another < parked


async def test_an_older_watermark_changes_nothing(gateway):
    source, now = "intake", datetime.now(UTC)
    for ago in (5, 50, 20):
        watermarks = [Watermark(source, shard, now - timedelta(seconds=ago)) for shard in range(SHARDS)]
        await gateway.knowledge.hear("gateway", [*watermarks, *watermarks])
    known = await age(gateway, source, "Patient/p")
    assert known is not None
    assert timedelta(seconds=5) <= known < timedelta(seconds=15)


async def test_one_shard_never_heard_of_makes_the_whole_unknown(gateway):
    now = datetime.now(UTC)
    silent = shard_of("default", "Patient/p")
    await gateway.knowledge.hear("gateway", [Watermark("intake", one, now) for one in range(SHARDS) if one != silent])
    [told] = await gateway.knowledge.by_source("gateway", ["intake"])
    assert (told.seconds, told.shards) == (None, SHARDS - 1)
    assert await age(gateway, "intake", "Patient/p") is None


async def test_a_worker_that_takes_nothing_in_knows_the_lag_of_those_that_do(kafka, database, store, gateway):
    """What is measured is in the database: a process without partitions, and one that only answers, tell the same."""
    source, group = new_service("intake"), new_service("gateway")
    stuck = asyncio.Event()

    class Stuck(ServiceEvents):
        __slots__ = ()

        async def handle(self, event, position):
            await stuck.wait()
            return await super().handle(event, position)

        async def handle_many(self, events, positions):
            await stuck.wait()
            return await super().handle_many(events, positions)

    for number in range(10):
        await store.write(ALL, write_of({"resourceType": "Patient", "id": f"p{number}"}))
    consumer = EventConsumer(
        kafka, Stuck(service_of(source), gateway), service=group, sources=[source], limits=Limits(), stall_after=9
    )

    async def lag() -> int:
        return sum(one.events for one in (await gateway.knowledge.lag("gateway")).values())

    async def waits() -> bool:
        return await lag() >= 10

    async def is_done() -> bool:
        return await lag() == 0

    async with running(relay_of(kafka, database, source, watermark_seconds=3600), consumer):
        await eventually(waits)
        stuck.set()
        await eventually(is_done)
