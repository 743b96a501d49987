"""Apache Kafka's jars, pinned in `kafka-jars.lock`."""

from __future__ import annotations

from pathlib import Path

from shared.local.jars import JarSet, read_lock

LOCK = Path(__file__).with_name("kafka-jars.lock")

KAFKA = JarSet(
    name="Apache Kafka",
    version=next(jar.version for jar in read_lock(LOCK) if jar.group == "org.apache.kafka"),
    lock=LOCK,
    otherwise=(
        ", or use `--kafka memory`: an in-memory broker to try things out, which loses every event when it stops and "
        "drops the oldest when it is full, so it cannot promise that nothing is lost."
    ),
)
