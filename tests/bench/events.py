"""How long a change takes from its commit to the gateway at a steady rate of writes; prints, judges nothing.

    .venv/bin/python -m tests.bench.events [writes a second] [seconds]

The whole stack runs as `./kap up` runs it, on Apache Kafka, in a folder of its own; writes go to intake's own endpoint,
so that the gateway has them by events alone. Counted is from the change's `meta.lastUpdated` to the row that the
gateway's transaction writes when it takes the event in, by the one clock of the one PostgreSQL.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx

from cli.stack.ports import Ports
from cli.stack.stack import Stack
from cli.stack.state import APACHE, Options
from shared.local.postgres import PostgresCluster
from tests.e2e.kap import free_base

PATIENTS = 50
WARM_UP_SECONDS = 5

_LATENCIES = """
SELECT count(*) || '|' || array_to_string(percentile_cont(ARRAY[0.5, 0.95, 0.99, 1.0])
    WITHIN GROUP (ORDER BY extract(epoch FROM applied_at - time) * 1000), '|')
FROM inbox WHERE source = 'intake' AND event_id LIKE 'Condition/%' AND time >= to_timestamp({since})
"""


async def write(ports: Ports, rate: float, seconds: float) -> tuple[int, float, list[float]]:
    """Write at a rate; return how many were answered 201 after the warm-up, when that began, and the answers' ms."""
    base = ports.fhir("intake")
    answered: list[float] = []
    limits = httpx.Limits(max_connections=32, max_keepalive_connections=32)
    async with httpx.AsyncClient(timeout=30, trust_env=False, limits=limits) as http:
        patients = [
            (await http.post(f"{base}/Patient", json={"resourceType": "Patient", "active": True})).json()["id"]
            for _ in range(PATIENTS)
        ]

        async def one(number: int, since: float) -> None:
            began = time.monotonic()
            answer = await http.post(
                f"{base}/Condition",
                json={
                    "resourceType": "Condition",
                    "subject": {"reference": f"Patient/{patients[number % PATIENTS]}"},
                    "code": {"text": f"Number {number}"},
                },
            )
            if answer.status_code == 201 and time.time() >= since:
                answered.append((time.monotonic() - began) * 1000)

        since = time.time() + WARM_UP_SECONDS
        began, tasks = time.monotonic(), []
        for number in range(int(rate * (seconds + WARM_UP_SECONDS))):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            tasks.append(asyncio.create_task(one(number, since)))
        await asyncio.gather(*tasks)
    return len(answered), since, answered


def main() -> None:
    rate = float(sys.argv[1]) if len(sys.argv) > 1 else 100.0
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 20.0
    with tempfile.TemporaryDirectory(prefix="kap-bench-", ignore_cleanup_errors=True) as folder:
        stack = Stack(Path(folder))
        try:
            stack.up(Options(port_base=free_base(), kafka=APACHE, auth=False))
            count, since, answered = asyncio.run(write(stack.ports(), rate, seconds))
            time.sleep(5)
            gateway = PostgresCluster(Path(folder) / "postgres", port=stack.ports().of("postgres"))
            said = gateway.execute(_LATENCIES.format(since=since), database="kap_gateway").split("|")
        finally:
            stack.down()
    arrived, (p50, p95, p99, longest) = int(said[0]), map(float, said[1:])
    cuts = statistics.quantiles(answered, n=100)
    print(f"{count} writes at {rate:.0f}/s, answered in p50 {cuts[49]:.0f}, p95 {cuts[94]:.0f}, p99 {cuts[98]:.0f} ms")
    print(
        f"{arrived} of them at the gateway after p50 {p50:.0f} ms, p95 {p95:.0f} ms, p99 {p99:.0f} ms, "
        f"longest {longest:.0f} ms"
    )


if __name__ == "__main__":
    main()
