"""One trace from a POST to the hospital: gateway, owner, Kafka, delivery, with the same id at each hop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from cli.stack.ports import GATEWAY, HOSPITAL
from shared.events.topics import PARTITIONS, topic_of
from tests.chaos.fleet import DELIVERY, Fleet
from tests.e2e.kap import free_base
from tests.integration.security.consents import PATTERNS
from tests.integration.security.consents import consent as privacy_consent

pytestmark = [pytest.mark.e2e, pytest.mark.kafka, pytest.mark.timeout(600)]

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    made = Fleet(tmp_path_factory.mktemp("trace"), free_base(), {"KAP_LOG_LEVEL": "INFO"})
    try:
        made.start()
        yield made
    finally:
        made.stop()


def eventually(found: Callable[[], Any], seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < deadline, f"{what} did not come about within {seconds:.0f} s"
        time.sleep(0.3)
    return answer


async def told(fleet: Fleet, service: str, event: str) -> dict[str, str]:
    """Return the headers of an event in the service's topic."""
    consumer = AIOKafkaConsumer(bootstrap_servers=fleet.kafka.bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic_of(service), number) for number in range(PARTITIONS)])
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for records in (await consumer.getmany(timeout_ms=500)).values():
                for record in records:
                    headers = {name: text.decode() for name, text in record.headers}
                    if headers.get("ce_id") == event:
                        return headers
    finally:
        await consumer.stop()
    raise AssertionError(f"{event} is not in the topic")


async def test_what_a_request_caused_is_found_by_its_trace_at_every_hop(fleet: Fleet) -> None:
    with httpx.Client(timeout=30, trust_env=False) as http:

        def post(resource: dict[str, Any], **headers: str) -> dict[str, Any]:
            answer = http.post(
                f"{fleet.ports.fhir(GATEWAY)}/{resource['resourceType']}", json=resource, headers=headers
            )
            assert answer.status_code == 201, answer.text
            return answer.json()

        patient = post({"resourceType": "Patient", "active": True})
        about = {"reference": f"Patient/{patient['id']}"}
        post(privacy_consent(patient["id"], PATTERNS["P1"]))
        condition = post(
            {"resourceType": "Condition", "subject": about, "code": {"text": "Traced"}},
            traceparent=f"00-{TRACE}-{CALLER}-01",
        )
        url = f"{fleet.ports.fhir(HOSPITAL)}/Condition"
        arrived = eventually(lambda: http.get(url).json().get("entry"), 90, "the condition at the hospital")
    there = arrived[0]["resource"]["id"]
    of_event = (await told(fleet, "intake", f"Condition/{condition['id']}/1"))["traceparent"]
    seen = {"Kafka": of_event}
    for database, id_ in (
        ("intake", condition["id"]),
        (GATEWAY, condition["id"]),
        (DELIVERY, condition["id"]),
        (HOSPITAL, there),
    ):
        seen[database] = fleet.postgres.execute(
            f"SELECT h.traceparent FROM history h JOIN resource r ON r.rid = h.rid WHERE r.id = '{id_}'",
            database=f"kap_{database}",
        ).strip()
    assert {place: one.split("-")[1] for place, one in seen.items()} == dict.fromkeys(seen, TRACE), seen
    assert all(one.endswith("-01") for one in seen.values())  # the caller's flags: sampled
    assert CALLER not in str(seen)  # each hop is the parent of the next
    assert seen["intake"] == seen["Kafka"] != seen[HOSPITAL]
    logged = {
        log.stem: [line for line in log.read_text().splitlines() if f'"trace":"{TRACE}"' in line]
        for log in fleet.logs.glob("*.log")
    }
    for name in ("gateway-api", "intake-api", HOSPITAL):
        assert {json.loads(line)["method"] for line in logged[name]} == {"POST"}, (name, logged[name])
