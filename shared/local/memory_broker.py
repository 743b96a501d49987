"""librdkafka's in-memory Kafka as a process of its own: for fast tests, and to try things out without Java.

    python -m shared.local.memory_broker --port-file FILE [--partitions 16] [--topic NAME ...]

It writes ``127.0.0.1:<port>`` into the file once it answers. What it cannot promise: everything is gone when it stops;
a partition keeps about 5 MB and drops its oldest records without a word; no second member joins a group, and one that
left and comes again waits some 20 s; its port is another at each start. So it never proves that nothing is lost.

The calls are those of rdkafka_mock.h, made through ctypes because confluent-kafka does not offer them.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psutil

LIMITS = (
    "The in-memory broker forgets everything when it stops, keeps about 5 MB per partition and drops older events "
    "without a word: it cannot promise that nothing is lost."
)
PARTITIONS = 16

_PRODUCER = 0  # rd_kafka_type_t RD_KAFKA_PRODUCER
_ERROR_SIZE = 512


class MemoryBrokerError(RuntimeError):
    """The in-memory broker could not be started; the message says why."""


def _library() -> ctypes.CDLL:
    """Load the librdkafka that the confluent-kafka wheel carries.

    Raises:
        MemoryBrokerError: the wheel is not installed, or carries no such library.

    """
    found = find_spec("confluent_kafka")
    if found is None or found.origin is None:
        raise MemoryBrokerError(
            "The package 'confluent-kafka' is not installed. Install this project with its extra 'local'."
        )
    package = Path(found.origin).parent
    for folder in (package.parent / "confluent_kafka.libs", package / ".dylibs"):
        for candidate in sorted(folder.glob("librdkafka*")):
            # its dependencies lie beside it and are found through the wheel's own extension module
            import confluent_kafka  # noqa: F401 - loads the libraries beside it

            return ctypes.CDLL(str(candidate))
    raise MemoryBrokerError(f"There is no librdkafka beside {package}.")


class _Cluster:
    """A mock cluster of one broker in this process."""

    def __init__(self) -> None:
        library = _library()
        library.rd_kafka_new.restype = ctypes.c_void_p
        library.rd_kafka_new.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
        library.rd_kafka_mock_cluster_new.restype = ctypes.c_void_p
        library.rd_kafka_mock_cluster_new.argtypes = [ctypes.c_void_p, ctypes.c_int]
        library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        library.rd_kafka_mock_cluster_bootstraps.argtypes = [ctypes.c_void_p]
        library.rd_kafka_mock_topic_create.restype = ctypes.c_int
        library.rd_kafka_mock_topic_create.argtypes = [
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_int,
            ctypes.c_int,
        ]
        self._library = library
        error = ctypes.create_string_buffer(_ERROR_SIZE)
        handle = library.rd_kafka_new(_PRODUCER, None, error, _ERROR_SIZE)
        cluster = library.rd_kafka_mock_cluster_new(handle, 1) if handle else None
        if not cluster:
            raise MemoryBrokerError(f"librdkafka made no mock cluster: {error.value.decode()}")
        library.rd_kafka_mock_group_initial_rebalance_delay_ms.argtypes = [ctypes.c_void_p, ctypes.c_int32]
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 0)
        self._cluster = cluster

    @property
    def bootstrap(self) -> str:
        """``127.0.0.1:<port>``."""
        address: bytes = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster)
        return address.decode()

    def create_topic(self, name: str, partitions: int) -> None:
        code = self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)
        if code != 0:
            raise MemoryBrokerError(f"librdkafka made no topic {name}: error {code}.")


class MemoryBroker:
    """The in-memory broker as a process, with the same verbs as `ApacheKafka`; a restart forgets everything.

    Args:
        data_dir: folder for its pid and port files.
        topics: made at start with `partitions` each; a client's request makes others with four.

    """

    def __init__(self, data_dir: Path | str, *, topics: Sequence[str] = (), partitions: int = PARTITIONS) -> None:
        self.data_dir = Path(data_dir).absolute()
        self.topics = tuple(topics)
        self.partitions = partitions
        self._port_file = self.data_dir / "memory-broker.address"
        self._pid_file = self.data_dir / "memory-broker.pid"
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """``127.0.0.1:<port>`` of the running broker.

        Raises:
            MemoryBrokerError: it does not run.

        """
        if self.pid() is None:
            raise MemoryBrokerError("The in-memory broker does not run.")
        return self._port_file.read_text(encoding="ascii").strip()

    def start(self, timeout: float = 20.0) -> None:
        """Start the broker and wait until it is there; nothing to do where it runs.

        Raises:
            MemoryBrokerError: it ended, or did not write its address within `timeout` seconds.

        """
        if self.pid() is not None:
            return
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._port_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", __name__, "--port-file", str(self._port_file)]
        command += ["--partitions", str(self.partitions)]
        command += [argument for topic in self.topics for argument in ("--topic", topic)]
        log = self.data_dir / "memory-broker.log"
        with log.open("ab") as out:
            process = subprocess.Popen(  # noqa: S603 - a fixed argument list
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=Path(__file__).parents[2],
                start_new_session=True,
            )
        self._reap()
        self._child = process
        self._pid_file.write_text(str(process.pid), encoding="ascii")
        deadline = time.monotonic() + timeout
        while not self._port_file.exists():
            if process.poll() is not None:
                words = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
                raise MemoryBrokerError(f"The in-memory broker ended: {''.join(words)}")
            if time.monotonic() > deadline:
                raise MemoryBrokerError(f"The in-memory broker did not start in {timeout:.0f} s.")
            time.sleep(0.02)

    def stop(self, timeout: float = 5.0) -> None:
        """End the broker; everything in it is gone."""
        process = self._process()
        if process is not None:
            with suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
                process.terminate()
                process.wait(timeout)
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._reap()
        self._pid_file.unlink(missing_ok=True)
        self._port_file.unlink(missing_ok=True)

    def pid(self) -> int | None:
        """Return the broker's process id; None where it does not run."""
        process = self._process()
        return None if process is None else process.pid

    def _reap(self) -> None:
        """Take note of the end of a server that this process started."""
        if self._child is not None:
            self._child.poll()

    def _process(self) -> psutil.Process | None:
        try:
            process = psutil.Process(int(self._pid_file.read_text(encoding="ascii")))
            if process.status() != psutil.STATUS_ZOMBIE and str(self._port_file) in process.cmdline():
                return process
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
            return None
        return None  # the pid of a dead broker, given to another process since


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port-file", type=Path, required=True, help="where to write host:port")
    parser.add_argument("--partitions", type=int, default=PARTITIONS, help="of each topic made at start")
    parser.add_argument("--topic", action="append", default=[], help="make this topic at start; may be repeated")
    arguments = parser.parse_args()
    cluster = _Cluster()
    for topic in arguments.topic:
        cluster.create_topic(topic, arguments.partitions)
    beside = arguments.port_file.with_suffix(".new")
    beside.write_text(cluster.bootstrap, encoding="ascii")
    beside.replace(arguments.port_file)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))  # the cluster's threads have nothing to save
    signal.pause()


if __name__ == "__main__":
    main()
