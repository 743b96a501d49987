"""Where the events go: Apache Kafka of the stack's own, the in-memory stand-in, or a Kafka that is given by address."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from cli.stack.ports import Ports, require_free
from cli.stack.problem import StackProblem
from cli.stack.state import APACHE, MEMORY
from shared.local.jars import JarsUnavailable
from shared.local.kafka import ApacheKafka, KafkaError
from shared.local.memory_broker import LIMITS, MemoryBroker, MemoryBrokerError


class Broker(Protocol):
    """A Kafka; `own`: the stack runs it."""

    title: str
    own: bool

    def start(self) -> str:
        """Have it running; return its ``host:port``."""
        ...

    def stop(self) -> None:
        """Stop it, where it is the stack's own."""
        ...

    def pid(self) -> int | None:
        """Return its process id; None where it does not run, or is not the stack's own."""
        ...


def broker(which: str, data: Path, ports: Ports, *, report: Callable[[str], None]) -> Broker:
    """Return the Kafka that `--kafka` names.

    Raises:
        StackProblem: it names none.

    """
    if which == APACHE:
        return Apache(data / "kafka", ports, report)
    if which == MEMORY:
        return Memory(data / "memory-broker", report)
    return Given(which)


class Apache:
    """Apache Kafka of the stack's own."""

    title = "Apache Kafka"
    own = True

    def __init__(self, data: Path, ports: Ports, report: Callable[[str], None]) -> None:
        self._ports = ports
        self._kafka = ApacheKafka(data, ports.of("kafka"), controller_port=ports.of("kafka-controller"), report=report)

    def start(self) -> str:
        """Have it running, its jars fetched before the first time.

        Raises:
            StackProblem: the jars cannot be fetched, or it does not start.

        """
        if self._kafka.pid() is None:
            self._kafka.stop()  # clears away what a killed one left
            require_free(self._ports, "kafka", "kafka-controller")
        try:
            self._kafka.start()
        except JarsUnavailable as error:
            raise StackProblem(
                f"{error}\nWithout them the stack can be tried out with: ./kap up --kafka memory\n{LIMITS}"
            ) from error
        except KafkaError as error:
            raise StackProblem(str(error)) from error
        return self._kafka.bootstrap

    def stop(self) -> None:
        """Stop it in good order."""
        self._kafka.stop()

    def pid(self) -> int | None:
        """Return its process id."""
        return self._kafka.pid()


class Memory:
    """The in-memory stand-in."""

    title = "the in-memory broker"
    own = True

    def __init__(self, data: Path, report: Callable[[str], None]) -> None:
        from shared.events.topics import PARTITIONS, TOPICS  # with aiokafka, which no other way of running needs

        self._broker = MemoryBroker(data, topics=TOPICS, partitions=PARTITIONS)
        self._report = report

    def start(self) -> str:
        """Have it running; a new one has forgotten what an earlier one held.

        Raises:
            StackProblem: it does not start.

        """
        if self._broker.pid() is None:
            self._broker.stop()  # clears away what a killed one left
            self._report(LIMITS)
        try:
            self._broker.start()
            return self._broker.bootstrap
        except MemoryBrokerError as error:
            raise StackProblem(str(error)) from error

    def stop(self) -> None:
        """End it; what it held is gone."""
        self._broker.stop()

    def pid(self) -> int | None:
        """Return its process id."""
        return self._broker.pid()


class Given:
    """A Kafka that others run."""

    title = "Kafka"
    own = False

    def __init__(self, address: str) -> None:
        host, colon, port = address.rpartition(":")
        if not (colon and host and port.isdigit()):
            raise StackProblem(f"--kafka takes 'apache', 'memory' or HOST:PORT, not '{address}'.")
        self._address = address
        self._host, self._port = host, int(port)

    def start(self) -> str:
        """See that something listens there.

        Raises:
            StackProblem: nothing does.

        """
        try:
            socket.create_connection((self._host, self._port), timeout=10).close()
        except OSError as error:
            raise StackProblem(f"Kafka at {self._address} cannot be reached: {error}.") from error
        return self._address

    def stop(self) -> None:
        """Leave it alone: others run it."""

    def pid(self) -> int | None:
        """Return None: its process is none of ours."""
        return None
