"""What is larger than a record of Kafka may be travels ahead of its event, and nobody who takes it in notices."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from shared.events.consumer import EventConsumer, Limits
from shared.events.kafka import KafkaConnection
from shared.events.producer import EventProducer
from shared.events.relay import Relay
from shared.events.topics import MAX_EVENT_BODY_BYTES
from shared.local.kafka import ApacheKafka
from shared.runtime.consume import ServiceEvents
from shared.runtime.rebuilding import rebuild
from shared.runtime.replaying import Replaying
from shared.runtime.service import Service
from shared.store.access import Access
from shared.store.outbox import open_outbox
from shared.store.store import Store
from shared.testing.brokers import new_service
from shared.testing.events import eventually, running
from shared.testing.writes import write_of

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

ALL = Access.unrestricted()
SCAN = base64.b64encode(os.urandom(15 * 1024 * 1024)).decode()
"""20 MB of a scanned letter."""


@pytest.fixture
def kafka(apache_kafka: ApacheKafka) -> KafkaConnection:
    apache_kafka.start()  # where a test before this one failed while it had stopped it
    return KafkaConnection(apache_kafka.bootstrap, "kap-test", request_seconds=5)


@dataclass
class Clinic:
    """An owner, a consumer, and what lies between them."""

    kafka: KafkaConnection
    intake: Store
    intake_dsn: str
    gateway: Store
    gateway_dsn: str
    service: Service

    @property
    def source(self) -> str:
        return self.intake.service

    def consumer(self, events: ServiceEvents | None = None) -> EventConsumer:
        return EventConsumer(
            self.kafka,
            events or ServiceEvents(self.service, self.gateway),
            service=self.service.name,
            sources=[self.source],
            limits=Limits(attempts=2, first_wait=0.01, longest_wait=0.05),
        )

    def relay(self) -> Relay:
        producer = EventProducer(self.kafka, service=self.source)
        return Relay(lambda: open_outbox(self.intake_dsn, service=self.source), producer, service=self.source)

    async def write(self, patient: str, number: int, *, scan: str = "") -> None:
        body = {"resourceType": "Patient", "id": patient, "multipleBirthInteger": number}
        if scan:
            body["photo"] = [{"contentType": "image/png", "data": scan}]
        await self.intake.write(ALL, write_of(body, "create" if number == 1 else "update"))

    async def equal(self) -> bool:
        """Return whether `./kap verify` finds the copy to be what the owner committed."""
        found = [
            [(one.type, one.versions, one.current, one.content) for one in await store.verify.digest()]
            for store in (self.intake, self.gateway)
        ]
        return found[0] == found[1]

    async def pieces(self) -> int:
        async with self.gateway.transaction(keys=(), tenant="default") as transaction:
            return await transaction.connection.fetchval("SELECT count(*) FROM claim_piece")

    async def tell_again(self, **what: object) -> None:
        await self.intake.replay.ask(**what)
        replaying = Replaying(self.source, self.intake.replay, EventProducer(self.kafka, service=self.source))
        while await replaying.once():
            pass
        await replaying.publisher.stop()


@pytest.fixture
async def clinic(kafka, make_database) -> AsyncIterator[Clinic]:
    source, name, held = new_service("intake"), new_service("gateway"), frozenset(("Patient",))
    dsns = make_database("intake"), make_database("gateway")
    intake, gateway = await Store.connect(dsns[0], service=source), await Store.connect(dsns[1], service=name)
    service = Service(name, "Gateway", types=held, consumes=(source,), holds=held)
    yield Clinic(kafka, intake, dsns[0], gateway, dsns[1], service)
    await intake.close()
    await gateway.close()


async def test_a_resource_above_the_brokers_limit_arrives_to_the_byte_in_its_turn(clinic):
    await clinic.write("a", 1)
    await clinic.write("a", 2, scan=SCAN)
    await clinic.write("a", 3)
    await clinic.write("b", 1, scan=SCAN)
    async with running(clinic.relay(), clinic.consumer()):
        await eventually(clinic.equal, seconds=90)
        await eventually(lambda: no_pieces(clinic))
    large = await clinic.gateway.read_version(ALL, "Patient", "a", 2)
    assert len(large.body) > 2 * MAX_EVENT_BODY_BYTES
    assert large.body == (await clinic.intake.read_version(ALL, "Patient", "a", 2)).body
    assert (await clinic.gateway.read(ALL, "Patient", "a")).version == 3


async def no_pieces(clinic: Clinic) -> bool:
    return await clinic.pieces() == 0


async def test_a_relay_that_dies_before_its_mark_repeats_a_large_event_and_nothing_is_doubled(clinic):
    await clinic.write("a", 1, scan=SCAN)
    outbox = await open_outbox(clinic.intake_dsn, service=clinic.source)
    await outbox.acquire(16)
    producer = EventProducer(clinic.kafka, service=clinic.source)
    await producer.publish(await outbox.unpublished(10))
    await producer.stop()
    await outbox.close()  # not marked: the next relay publishes it once more
    outcomes = []

    class Counting(ServiceEvents):
        async def handle(self, event, position):
            outcomes.append(await super().handle(event, position))
            return outcomes[-1]

    async with running(clinic.relay(), clinic.consumer(Counting(clinic.service, clinic.gateway))):
        await eventually(lambda: len(outcomes) == 2, seconds=60)
    assert [outcome.value for outcome in outcomes] == ["applied", "duplicate"]
    assert await clinic.equal()
    assert await clinic.pieces() == 0


async def test_a_consumer_that_dies_between_the_pieces_and_the_claim_goes_on_with_what_it_has(clinic):
    dies = asyncio.Event()

    class Dying(ServiceEvents):
        async def handle(self, event, position):
            dies.set()
            await asyncio.sleep(3600)
            raise AssertionError

    await clinic.write("a", 1, scan=SCAN)
    async with running(clinic.relay()):
        async with running(clinic.consumer(Dying(clinic.service, clinic.gateway))):
            await asyncio.wait_for(dies.wait(), 60)
            await asyncio.sleep(1)  # the offsets behind the pieces are committed
        assert await clinic.pieces() > 10
        async with running(clinic.consumer()):
            await eventually(clinic.equal, seconds=60)
    assert await clinic.pieces() == 0


async def test_a_claim_whose_pieces_are_gone_waits_with_its_record_until_it_is_told_again(clinic):
    class Losing(ServiceEvents):
        async def deposit(self, piece):
            if piece.number != 3:
                await super().deposit(piece)

    await clinic.write("a", 1, scan=SCAN)
    await clinic.write("a", 2)
    await clinic.write("b", 1)
    async with running(clinic.relay(), clinic.consumer(Losing(clinic.service, clinic.gateway))):
        await eventually(lambda: has_parked(clinic, 2), seconds=60)
        await eventually(lambda: holds(clinic, "b"))
    parked = await clinic.gateway.parking.list()
    assert [one.event_id for one in parked] == ["Patient/a/1", "Patient/a/2"]
    assert "./kap replay" in parked[0].error
    handler = ServiceEvents(clinic.service, clinic.gateway)
    await clinic.gateway.parking.retry(parked[0].number)
    assert await handler.take_up() == 0  # it still lacks a piece, and nothing passes it
    async with running(clinic.consumer(handler)):
        await clinic.tell_again(consumer=clinic.service.name, key="Patient/a")
        await eventually(lambda: has_body(clinic, "Patient/a/1"), seconds=60)
        await clinic.gateway.parking.retry(parked[0].number)
        assert await handler.take_up() == 2
    assert await clinic.equal()
    assert await clinic.pieces() == 0


async def has_parked(clinic: Clinic, count: int) -> bool:
    return len(await clinic.gateway.parking.list()) == count


async def holds(clinic: Clinic, patient: str) -> bool:
    return await clinic.gateway.find(ALL, "Patient", patient) is not None


async def has_body(clinic: Clinic, event: str) -> bool:
    async with clinic.gateway.transaction(keys=(), tenant="default") as transaction:
        return await transaction.connection.fetchval("SELECT NOT claimed FROM parked WHERE event_id = $1", event)


async def test_who_keeps_no_copy_of_it_stores_no_piece_and_moves_on(clinic):
    service = Service(clinic.service.name, "Other", types=frozenset(), consumes=(clinic.source,), holds=frozenset())
    await clinic.write("a", 1, scan=SCAN)
    await clinic.write("a", 2)
    consumer = clinic.consumer(ServiceEvents(service, clinic.gateway))
    async with running(clinic.relay(), consumer):
        await eventually(lambda: is_at(clinic, 2), seconds=60)
    assert await clinic.pieces() == 0
    assert not await clinic.gateway.parking.list()


async def is_at(clinic: Clinic, sequence: int) -> bool:
    at = await clinic.gateway.inbox.position(clinic.service.name, clinic.source, "default", "Patient/a")
    return at >= sequence


async def test_a_dropped_large_event_is_told_again_and_a_gateway_is_built_anew_with_it(clinic):
    for number in range(1, 30):
        await clinic.write(f"p{number}", 1, scan=SCAN if number % 10 == 0 else "")
    replaying = Replaying(clinic.source, clinic.intake.replay, EventProducer(clinic.kafka, service=clinic.source))
    async with running(clinic.relay(), clinic.consumer()):
        await eventually(clinic.equal, seconds=120)
        async with clinic.gateway.transaction(keys=(), tenant="default") as transaction:  # as if it had been dropped
            await transaction.connection.execute("DELETE FROM inbox WHERE event_id = 'Patient/p20/1'")
            await transaction.connection.execute("DELETE FROM history WHERE key = 'Patient/p20'")
        assert not await clinic.equal()
        await clinic.tell_again(consumer=clinic.service.name, key="Patient/p20")
        await eventually(clinic.equal, seconds=60)
        async with clinic.gateway.transaction(keys=(), tenant="default") as transaction:
            await transaction.connection.execute("DELETE FROM history WHERE key = 'Patient/p10'")

        async def replay(_: str, consumer: str) -> None:
            await clinic.intake.replay.ask(consumer=consumer)

        telling = asyncio.create_task(replaying.run(lambda: None))
        try:
            held = await rebuild(
                clinic.service,
                clinic.gateway_dsn,
                clinic.kafka,
                partitions=16,
                replay=replay,
                committed=clinic.intake.verify.held,
                report=lambda _: None,
            )
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
        assert held == 29
        assert await clinic.equal()
        await clinic.write("p20", 2, scan=SCAN)  # the one that serves now takes in what comes
        await eventually(clinic.equal, seconds=60)


async def test_pieces_whose_event_never_came_are_forgotten_with_the_inbox(clinic):
    async with clinic.gateway.transaction(keys=(), tenant="default") as transaction:
        await transaction.connection.execute(
            "INSERT INTO claim_piece SELECT 'g', 'intake', 'Patient/x/1', 'default', n, 'x',"
            " now() - n * interval '10 days' FROM generate_series(1, 5) AS n"
        )
    assert await clinic.gateway.pruning.pieces(datetime.now(UTC).replace(year=2000)) == 0
    assert await clinic.gateway.pruning.pieces(datetime.now(UTC) - timedelta(days=25)) == 3
    assert await clinic.pieces() == 2
