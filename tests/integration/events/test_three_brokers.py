"""Three Kafka servers in KRaft mode, each record at all of them: one may die, and nothing waits or is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError as ClientError

from shared.events.consumer import EventConsumer, Limits
from shared.events.kafka import KafkaConnection
from shared.events.producer import EventProducer
from shared.events.relay import Relay
from shared.events.topics import topic_of
from shared.local.kafka import ApacheKafka, Quorum, new_cluster_id
from shared.testing.brokers import free_ports, new_service
from shared.testing.events import MemoryInbox, MemoryOutbox, events_of, eventually, running

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(400)]

NODES = (1, 2, 3)


class Cluster:
    """Three servers."""

    def __init__(self, folder: Path) -> None:
        ports = free_ports(2 * len(NODES))
        voters = dict(zip(NODES, ports[len(NODES) :], strict=True))
        cluster = new_cluster_id()
        self.servers = {
            node: ApacheKafka(
                folder / f"kafka-{node}",
                port,
                controller_port=voters[node],
                heap_mb=256,
                quorum=Quorum(node, voters, cluster),
            )
            for node, port in zip(NODES, ports, strict=False)
        }
        self.connection = KafkaConnection(
            ",".join(server.bootstrap for server in self.servers.values()), "kap-test", request_seconds=4
        )

    def start(self) -> None:
        """Start those that do not run, at once: alone none has a quorum."""
        with ThreadPoolExecutor(len(NODES)) as pool:
            list(pool.map(lambda server: server.start(timeout=180), self.servers.values()))

    def stop(self) -> None:
        with ThreadPoolExecutor(len(NODES)) as pool:
            list(pool.map(ApacheKafka.stop, self.servers.values()))

    async def partitions(self, topic: str) -> list[dict[str, Any]]:
        admin = AIOKafkaAdminClient(**self.connection.options())
        await admin.start()
        try:
            return (await admin.describe_topics([topic]))[0]["partitions"]
        finally:
            await admin.close()

    async def in_sync(self, topic: str, count: int) -> bool:
        """Return whether each partition is kept, up to date, by so many servers."""
        try:
            return {len(one["isr"]) for one in await self.partitions(topic)} == {count}
        except (ClientError, OSError, TimeoutError):
            return False


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, apache_kafka: ApacheKafka) -> Iterator[Cluster]:
    """Made where there is an Apache Kafka at all, which `apache_kafka` says."""
    made = Cluster(tmp_path_factory.mktemp("three-brokers"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


async def test_events_go_on_while_a_broker_is_dead_and_wait_unharmed_while_two_are(cluster):
    source, inbox, outbox = new_service("source"), MemoryInbox(), MemoryOutbox()
    topic, events = topic_of(source), events_of(1000, source=source, patients=40)
    limits = Limits(attempts=2, first_wait=0.01, longest_wait=0.05)
    consumer = EventConsumer(cluster.connection, inbox, service=new_service(), sources=[source], limits=limits)
    producer = EventProducer(cluster.connection, service=source, stuck_after=6)
    relay = Relay(outbox.open, producer, service=source, batch=50, idle_seconds=0.1, longest_pause=0.5)

    async with running(consumer, relay):
        outbox.write(*events[:200])
        await eventually(lambda: len(inbox.applied) >= 200, seconds=60)
        partitions = await cluster.partitions(topic)
        assert {len(one["replicas"]) for one in partitions} == {3}
        await eventually(lambda: cluster.in_sync(topic, 3), seconds=30)

        # One dies, the leader of some partitions: others take over, the rest of the replicas are enough.
        dead = partitions[0]["leader"]
        assert dead in cluster.servers
        await asyncio.to_thread(cluster.servers[dead].kill)
        outbox.write(*events[200:600])
        await eventually(lambda: len(inbox.applied) >= 600, seconds=90)
        await eventually(lambda: cluster.in_sync(topic, 2), seconds=60)
        assert dead not in {one["leader"] for one in await cluster.partitions(topic)}

        # A second one: no record would be at two, so none is acknowledged; what is committed waits in the outbox.
        second = next(node for node in NODES if node != dead)
        await asyncio.to_thread(cluster.servers[second].kill)
        outbox.write(*events[600:800])
        await asyncio.sleep(8)
        assert len(outbox.pending) == 200
        assert relay.progress_age_seconds() < 10  # it waits, and is well
        await asyncio.to_thread(cluster.start)
        outbox.write(*events[800:])
        await eventually(lambda: len(inbox.applied) >= 1000, seconds=120)
        await eventually(lambda: cluster.in_sync(topic, 3), seconds=90)
        await eventually(lambda: not outbox.pending, seconds=30)
    assert sorted(event.sequence for event in inbox.applied) == [event.sequence for event in events]
    for key in {event.key for event in events}:
        assert inbox.applied_of(key) == [event.sequence for event in events if event.key == key]
