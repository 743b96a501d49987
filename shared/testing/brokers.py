"""Kafka for tests: an in-memory broker for speed and a real Apache Kafka for every promise, one each per session.

    from shared.testing.brokers import *   # in conftest.py: `memory_broker`, `apache_kafka`, `broker`, `kafka`

Tests share a broker, so each takes service names of its own (`new_service`): topics and groups are named after them.
"""

from __future__ import annotations

import itertools
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from shared.events.kafka import KafkaConnection
from shared.events.topics import TOPICS
from shared.local.jars import JarsUnavailable, resolve
from shared.local.kafka import ApacheKafka
from shared.local.kafka_jars import KAFKA
from shared.local.memory_broker import MemoryBroker

__all__ = ["Broker", "apache_kafka", "broker", "free_ports", "kafka", "memory_broker", "new_service"]

Broker: TypeAlias = ApacheKafka | MemoryBroker

_PORTS = range(12_000, 20_000)
_numbers = itertools.count(1)


def free_ports(count: int) -> list[int]:
    """Return TCP ports of 127.0.0.1 that nobody listens on now.

    They are not among those that the system gives to outgoing connections: one of these could take the port while its
    server restarts; even the connection of a client that looks for the server can.
    """
    found: list[int] = []
    while len(found) < count:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe:
            if port not in found and probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
    return found


def new_service(name: str = "service") -> str:
    """Return a service name nobody else uses on the shared brokers."""
    return f"{name}-{os.getpid()}-{next(_numbers)}"


@pytest.fixture(scope="session")
def memory_broker() -> Iterator[MemoryBroker]:
    """The in-memory broker of this test session."""
    with tempfile.TemporaryDirectory(prefix="kap-test-", ignore_cleanup_errors=True) as folder:
        broker = MemoryBroker(folder, topics=TOPICS)
        broker.start()
        try:
            yield broker
        finally:
            broker.stop()


@pytest.fixture(scope="session")
def apache_kafka() -> Iterator[ApacheKafka]:
    """The Apache Kafka of this test session. A test may kill it, and starts it again."""
    try:
        resolve(KAFKA)
    except JarsUnavailable as error:
        if os.environ.get("KAP_REQUIRE_KAFKA") or os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    with tempfile.TemporaryDirectory(prefix="kap-test-", ignore_cleanup_errors=True) as folder:
        port, controller_port = free_ports(2)
        broker = ApacheKafka(Path(folder) / "kafka", port, controller_port=controller_port)
        broker.start()
        try:
            yield broker
        finally:
            broker.stop()


@pytest.fixture(params=["memory", pytest.param("apache", marks=pytest.mark.kafka)])
def broker(request: pytest.FixtureRequest) -> Broker:
    """Each broker in turn: what is promised on both."""
    found: Broker = request.getfixturevalue("memory_broker" if request.param == "memory" else "apache_kafka")
    found.start()  # where a test before this one failed while it had stopped it
    return found


@pytest.fixture
def kafka(broker: Broker) -> KafkaConnection:
    """A connection to each broker in turn."""
    return KafkaConnection(broker.bootstrap, "kap-test", request_seconds=5)
