"""The whole system of a campaign: each process apart, each behind doors of its own, each restarted when it dies.

PostgreSQL with fsync and Apache Kafka run as `./kap up` runs them. A worker is a process of its own: relay, consumer;
of intake, the gateway and the witness there are two, so that another takes over.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from cli.stack.ports import GATEWAY, HOSPITAL, OWNERS, SERVICES, Ports
from cli.stack.stack import environment
from shared.local.kafka import ApacheKafka
from shared.local.postgres import PostgresCluster, PostgresError
from shared.testing.brokers import free_ports
from tests.chaos.proxy import Door, Doors

WITNESS = "witness"
DELIVERY = "delivery"
CONNECTIONS = 4
READY_SECONDS = 150.0

ALL = "migrate,api,worker"
API = "migrate,api"
WORKER = "migrate,worker"

LAYOUT: tuple[tuple[str, str, str], ...] = (
    ("intake-api", "intake", API),
    ("intake-worker-1", "intake", WORKER),
    ("intake-worker-2", "intake", WORKER),
    ("scheduling", "scheduling", ALL),
    ("sessions", "sessions", ALL),
    ("outcomes", "outcomes", ALL),
    ("gateway-api", GATEWAY, API),
    ("gateway-worker-1", GATEWAY, WORKER),
    ("gateway-worker-2", GATEWAY, WORKER),
    (DELIVERY, DELIVERY, ALL),
    ("witness-1", WITNESS, WORKER),
    ("witness-2", WITNESS, WORKER),
    (HOSPITAL, HOSPITAL, ALL),
)
"""Every process: its name, its service, what it does."""


@dataclass(slots=True)
class Process:
    """One process of a service; `postgres` and `kafka` are its doors, `port` where it answers."""

    name: str
    service: str
    roles: str
    port: int
    environment: dict[str, str]
    log: Path
    postgres: Door | None = None
    kafka: Door | None = None
    running: subprocess.Popen[bytes] | None = None
    wanted: bool = False
    ends: list[int] = field(default_factory=list)

    @property
    def relays(self) -> bool:
        """Whether it publishes events."""
        return "worker" in self.roles and self.service in {*OWNERS, DELIVERY}

    def start(self) -> None:
        module = "tests.chaos.witness" if self.service == WITNESS else "services.run"
        command = [sys.executable, "-P", "-m", module, *([] if self.service == WITNESS else [self.service])]
        with self.log.open("ab") as output:
            self.running = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | self.environment,
                start_new_session=True,
            )
        self.wanted = True

    def signal(self, number: signal.Signals) -> None:
        if self.running is not None and self.running.poll() is None:
            self.running.send_signal(number)

    def kill(self) -> None:
        self.wanted = False
        if self.running is not None:
            self.signal(signal.SIGKILL)
            self.running.wait(10)

    def stop(self) -> None:
        self.wanted = False
        if self.running is None:
            return
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            self.running.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()


class Fleet:
    """All processes of a campaign, in one folder; `told` is what they are told beside the usual."""

    def __init__(self, folder: Path, base: int, told: Mapping[str, str] | None = None) -> None:
        self.ports = Ports(base)
        self._told = dict(told or {})
        self.doors = Doors()
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True)
        self.postgres = PostgresCluster(folder / "postgres", port=self.ports.of("postgres"))
        connected = [name for name, service, _ in LAYOUT if service != HOSPITAL]
        ports = iter(free_ports(3 * len(connected) + len(LAYOUT)))
        inner = {name: next(ports) for name in connected}
        outer = {name: next(ports) for name in connected}
        self.kafka = ApacheKafka(
            folder / "kafka",
            self.ports.of("kafka"),
            controller_port=self.ports.of("kafka-controller"),
            heap_mb=512,
            doors={inner[name]: outer[name] for name in connected},
        )
        self.postgres.start()
        self.kafka.start()
        self.addresses = {service: self.postgres.create_database(f"kap_{service}") for service in (*SERVICES, WITNESS)}
        self.processes = {name: self._process(name, service, roles, ports) for name, service, roles in LAYOUT}
        for name in connected:
            process = self.processes[name]
            process.kafka = self.doors.make(outer[name], inner[name])
            through = next(ports)
            process.postgres = self.doors.make(through, self.ports.of("postgres"))
            process.environment |= {
                "KAP_KAFKA_BOOTSTRAP": f"127.0.0.1:{outer[name]}",
                f"KAP_{process.service.upper()}_DATABASE_URL": self._dsn(process.service, through),
            }
        self._paused: list[psutil.Process] = []

    def _dsn(self, service: str, port: int) -> str:
        parts = urlsplit(self.postgres.url(f"kap_{service}", tcp=True))
        return parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}").geturl()

    def _process(self, name: str, service: str, roles: str, ports: Iterator[int]) -> Process:
        addresses = {f"kap_{service}": self.postgres.url(f"kap_{service}", tcp=True)}
        known = service if service in SERVICES else None
        told = environment([known] if known else [], self.ports, addresses, self.kafka.bootstrap)
        port = self.ports.of(service) if "api" in roles else next(ports)
        told |= {
            "KAP_ROLES": roles,
            f"KAP_{service.upper()}_PORT": str(port),
            f"KAP_{service.upper()}_DATABASE_URL": addresses[f"kap_{service}"],
            "KAP_DATABASE_CONNECTIONS": str(CONNECTIONS),
            "KAP_LOG_LEVEL": "WARNING",
            "KAP_STOP_SECONDS": "5",
            **self._told,
        }
        return Process(name, service, roles, port, told, self.logs / f"{name}.log")

    # All of it

    def start(self) -> None:
        """Start everything, a few at a time, and wait until all is ready."""
        for process in self.processes.values():
            process.start()
        self.await_ready()

    def await_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        waiting = dict(self.processes)
        with httpx.Client(timeout=5, trust_env=False) as client:
            while waiting:
                self.heal()
                for name, process in list(waiting.items()):
                    with suppress(httpx.HTTPError):
                        if client.get(f"http://127.0.0.1:{process.port}/readyz").status_code == httpx.codes.OK:
                            del waiting[name]
                if time.monotonic() > deadline:
                    raise AssertionError(
                        f"not ready after {READY_SECONDS:.0f} s: {sorted(waiting)}\n{self.last_words()}"
                    )
                time.sleep(0.2)

    def heal(self) -> None:
        """Start again what ended by itself, as an orchestrator would; what was killed is started by who killed it."""
        for process in self.processes.values():
            if process.wanted and process.running is not None and process.running.poll() is not None:
                process.ends.append(process.running.returncode)
                process.start()

    def unshut_all(self) -> None:
        """End every fault: doors open, everything runs."""
        for process in self.processes.values():
            for door in (process.postgres, process.kafka):
                if door is not None:
                    self.doors.unshut(door)
            process.signal(signal.SIGCONT)
        self.resume(self._paused)
        self.postgres.start()
        self.kafka.start()
        for process in self.processes.values():
            if process.running is None or process.running.poll() is not None:
                process.start()

    def stop(self) -> None:
        self.resume(self._paused)
        for process in self.processes.values():
            process.signal(signal.SIGCONT)
            process.signal(signal.SIGTERM)
        for process in self.processes.values():
            process.stop()
        self.doors.stop()
        self.kafka.stop()
        self.postgres.stop(immediate=True)

    def last_words(self) -> str:
        return "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in sorted(self.logs.glob("*.log"))
        )

    # PostgreSQL and Kafka

    def pause_postgres(self) -> list[psutil.Process]:
        """Stop PostgreSQL with all its sessions; return what `resume` takes."""
        return self._pause(self.postgres.pid())

    def pause_kafka(self) -> list[psutil.Process]:
        """Stop the broker; return what `resume` takes."""
        return self._pause(self.kafka.pid())

    def _pause(self, pid: int | None) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(pid)
            parent.suspend()  # first, so that it starts no more
            found = [parent, *parent.children(recursive=True)]
        for one in found[1:]:
            with suppress(psutil.NoSuchProcess):
                one.suspend()
        self._paused.extend(found)
        return found

    def resume(self, paused: Iterable[psutil.Process]) -> None:
        """Let go on what was stopped."""
        for one in list(paused):
            with suppress(psutil.NoSuchProcess):
                one.resume()
            self._paused.remove(one)

    def take_locks(self, process: Process) -> None:
        """End the sessions of a service's relays, and with them their locks, as PostgreSQL does where one is silent."""
        with suppress(PostgresError):  # down at this moment: then the locks are gone as well
            self.postgres.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                f"WHERE application_name = 'kap-{process.service}-relay'"
            )
