"""A copy is built anew from nothing while it serves: no read fails, nothing that was written meanwhile is missing."""

from __future__ import annotations

import asyncio

import pytest

from shared.events.consumer import EventConsumer
from shared.events.kafka import KafkaConnection
from shared.events.producer import EventProducer
from shared.events.relay import Relay
from shared.fhir.outcome import Conflict
from shared.fhir.query import parse_search
from shared.local.kafka import ApacheKafka
from shared.runtime.consume import ServiceEvents
from shared.runtime.rebuilding import CannotRebuild, rebuild
from shared.runtime.replaying import Replaying
from shared.runtime.service import Service
from shared.store.access import Access
from shared.store.outbox import open_outbox
from shared.store.store import Store
from shared.testing.brokers import new_service
from shared.testing.events import eventually, running
from shared.testing.writes import write_of

pytestmark = pytest.mark.kafka

ALL = Access.unrestricted()


@pytest.fixture
def kafka(apache_kafka: ApacheKafka) -> KafkaConnection:
    apache_kafka.start()  # where a test before this one failed while it had stopped it
    return KafkaConnection(apache_kafka.bootstrap, "kap-test", request_seconds=5)


def patient(number: int, version: int = 1):
    body = {"resourceType": "Patient", "id": f"p{number}", "active": True, "multipleBirthInteger": version}
    return write_of(body, "create" if version == 1 else "update")


def gateway_service(name: str, source: str) -> Service:
    held = frozenset(("Patient",))
    return Service(name, "Gateway", types=held, consumes=(source,), holds=held)


async def digest(store: Store) -> list:
    return [(one.type, one.versions, one.current, one.content) for one in await store.verify.digest()]


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(600, marks=pytest.mark.timeout(300)),
        pytest.param(200_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
async def test_a_gateway_is_built_anew_while_it_is_read_and_written(kafka, make_database, count):
    source, name = new_service("intake"), new_service("gateway")
    intake_dsn, gateway_dsn = make_database("intake"), make_database("gateway")
    intake, gateway = await Store.connect(intake_dsn, service=source), await Store.connect(gateway_dsn, service=name)
    service = gateway_service(name, source)
    for start in range(1, count + 1, 500):
        async with intake.transaction(keys=("load",), tenant="default") as transaction:
            for number in range(start, min(start + 500, count + 1)):
                await transaction.write(ALL, patient(number))
    relay = Relay(lambda: open_outbox(intake_dsn, service=source), EventProducer(kafka, service=source), service=source)
    consumer = EventConsumer(kafka, ServiceEvents(service, gateway), service=name, sources=[source])
    replaying = Replaying(source, intake.replay, EventProducer(kafka, service=source))
    stopping = asyncio.Event()
    reads, wrote = [0], [0]

    async def equal() -> bool:
        return await digest(gateway) == await digest(intake)

    async def read() -> None:
        query = parse_search("Patient", [("active", "true"), ("_count", "20")], strict=True)
        while not stopping.is_set():
            page = await gateway.search(ALL, query)
            assert len(page.entries) == 20
            assert (await gateway.read(ALL, "Patient", f"p{reads[0] % 100 + 1}")).type == "Patient"
            reads[0] += 1

    async def write() -> None:
        version = 1
        while not stopping.is_set():
            version += 1
            await intake.write(ALL, patient(wrote[0] % 40 + 1, version))
            wrote[0] += 1
            await asyncio.sleep(0.02)

    async def replay_forever() -> None:
        while True:
            if not await replaying.once():
                await asyncio.sleep(0.1)

    async def replay(_source: str, consumer: str) -> None:
        await intake.replay.ask(consumer=consumer)

    async def committed():
        return await intake.verify.held()

    async with running(relay, consumer):
        await eventually(equal, seconds=60 + count / 100)
        async with gateway.transaction(keys=(), tenant="default") as transaction:  # what is to be mended
            await transaction.connection.execute("DELETE FROM history WHERE key = 'Patient/p150'")
            await transaction.connection.execute("DELETE FROM idx_token WHERE rid % 7 = 0")
        assert not await equal()
        telling = asyncio.create_task(replay_forever())
        busy = [asyncio.create_task(read()), asyncio.create_task(read()), asyncio.create_task(write())]
        held = await rebuild(
            service,
            gateway_dsn,
            kafka,
            partitions=16,
            replay=replay,
            committed=committed,
            report=lambda _: None,
        )
        assert held >= count
        before = reads[0]
        await eventually(lambda: reads[0] > before + 20)
        stopping.set()
        await asyncio.gather(*busy)  # no read has failed
        await eventually(equal, seconds=60)
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
    assert wrote[0] > 0
    counted = parse_search("Patient", [("active", "true"), ("_total", "accurate")], strict=True)
    assert (await gateway.search(ALL, counted)).total == count
    assert (await gateway.read(ALL, "Patient", "p150")).body == (await intake.read(ALL, "Patient", "p150")).body
    async with gateway.transaction(keys=(), tenant="default") as transaction:
        schemas = await transaction.connection.fetch("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'kap_%'")
    assert list(schemas) == []
    await replaying.publisher.stop()
    await intake.close()
    await gateway.close()


async def test_what_has_resources_of_its_own_or_reacts_is_not_rebuilt(kafka, make_database):
    name = new_service("gateway")
    dsn = make_database("gateway")
    store = await Store.connect(dsn, service=name)
    await store.write(ALL, patient(1))

    async def never(*_):
        raise AssertionError("nothing is asked for")

    async def attempt(service: Service) -> None:
        await rebuild(service, dsn, kafka, partitions=16, replay=never, committed=never, report=lambda _: None)

    with pytest.raises(Conflict, match="of its own"):
        await attempt(gateway_service(name, "intake"))
    reacting = Service(name, "Reacting", types=frozenset(), consumes=("intake",), reactions={"Patient": ()})
    with pytest.raises(CannotRebuild, match="reacts"):
        await attempt(reacting)
    assert (await store.read(ALL, "Patient", "p1")).version == 1
    await store.close()
