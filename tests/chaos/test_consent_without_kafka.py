"""Consent is withdrawn while Kafka is down: it is recorded at once. Until it is known, nothing more is disclosed and
the gate before a dose asks a person.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from cli.stack.ports import HOSPITAL
from shared.fhir import codes
from shared.fhir.codes import ACT_REASON
from tests.chaos.fleet import DELIVERY, Fleet
from tests.e2e.kap import free_base

pytestmark = [pytest.mark.e2e, pytest.mark.chaos, pytest.mark.kafka, pytest.mark.timeout(600)]

LIMIT = 12
"""Seconds that knowledge of consent may be old under this clinic's policy; the shipped one says 60."""

POLICY = f"""
version: "1"
clinic: chaos
sections:
  knowledge:
    disclosure: {{seconds: {LIMIT}, of: [intake], source: "A test's clinic", verified: false}}
    dose: {{seconds: {LIMIT}, of: [intake, outcomes], source: "A test's clinic", verified: false}}
"""
_SCOPE = "http://terminology.hl7.org/CodeSystem/consentscope"


@pytest.fixture
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("consent")
    (folder / "policy.yaml").write_text(POLICY)
    made = Fleet(folder, free_base(), {"KAP_POLICY": str(folder / "policy.yaml")})
    try:
        made.start()
        yield made
    finally:
        made.stop()


def eventually(true: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what} did not come about within {seconds:.0f} s"
        time.sleep(0.3)


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=20, trust_env=False) as client:
        yield client


def test_consent_withdrawn_while_kafka_is_down_stops_what_is_queued_for_the_hospital_and_makes_the_gate_ask(
    fleet: Fleet, http: httpx.Client
) -> None:
    intake, hospital, gateway = fleet.ports.fhir("intake"), fleet.ports.fhir(HOSPITAL), fleet.ports.fhir("gateway")

    def post(resource: dict[str, Any], to: str = intake) -> dict[str, Any]:
        answer = http.post(f"{to}/{resource['resourceType']}", json=resource)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def news_at_the_gate() -> dict[str, Any]:
        """Return the gate's check of its news: its rule, verdict and text."""
        given = [
            {"name": "medicationRequest", "valueReference": {"reference": f"MedicationRequest/{ordered['id']}"}},
            {"name": "dose", "valueQuantity": {"value": 70, "unit": "mg", "system": codes.UCUM, "code": "mg"}},
            {"name": "performer", "valueReference": {"reference": "Practitioner/nurse"}},
        ]
        url = f"{gateway}/Encounter/{visit['id']}/$pre-dose-gate"
        answer = http.post(url, json={"resourceType": "Parameters", "parameter": given})
        if answer.status_code != httpx.codes.OK:
            return {"verdict": answer.text}  # sessions has not heard of the order yet
        for one in answer.json()["parameter"]:
            parts = {part["name"]: next(v for k, v in part.items() if k != "name") for part in one.get("part", [])}
            if parts.get("rule") == "G-NEWS":
                return parts
        raise AssertionError("the gate has no check of its news")

    def arrived() -> int:
        return int(http.get(f"{hospital}/Condition", params={"_summary": "count"}).json()["total"])

    def destination() -> dict[str, Any]:
        url = f"{fleet.ports.url(DELIVERY)}/ops/deliveries"
        [one] = http.get(url, params={"digest": "only"}).json()["destinations"]
        return one

    patient = post({"resourceType": "Patient", "active": True})
    about = {"reference": f"Patient/{patient['id']}"}
    consent = post(
        {
            "resourceType": "Consent",
            "status": "active",
            "scope": {"coding": [{"system": _SCOPE, "code": "patient-privacy"}]},
            "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
            "patient": about,
            "dateTime": "2026-11-22T09:00:00Z",
            "performer": [about],
            "organization": [{"display": "The clinic"}],
            "sourceAttachment": {"contentType": "text/plain", "title": "What was signed", "data": "c2lnbmVk"},
            "policy": [{"uri": "http://terminology.hl7.org/CodeSystem/consentpolicycodes#hipaa-auth"}],
            "provision": {"type": "permit", "purpose": [{"system": ACT_REASON, "code": "TREAT"}]},
        }
    )
    post({"resourceType": "Condition", "subject": about, "code": {"text": "Told while consent stood"}})
    eventually(lambda: arrived() == 1, 60, "the first condition at the hospital")

    episode = post({"resourceType": "EpisodeOfCare", "status": "planned", "patient": about})
    visit = post(
        {
            "resourceType": "Encounter",
            "status": "in-progress",
            "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
            "type": [codes.VISIT_DOSING.concept()],
            "subject": about,
            "episodeOfCare": [{"reference": f"EpisodeOfCare/{episode['id']}"}],
            "period": {"start": "2026-11-22T09:00:00Z"},
        },
        to=gateway,
    )
    ordered = post(
        {
            "resourceType": "MedicationRequest",
            "status": "draft",
            "intent": "order",
            "medicationCodeableConcept": codes.KETAMINE.concept(),
            "subject": about,
            "authoredOn": "2026-11-21",
        }
    )
    eventually(lambda: news_at_the_gate()["verdict"] == "open", 90, "young news at the gate before a dose")

    # The second is on its way, in delivery's queue; then Kafka goes, and with it all news of consent.
    fleet.processes[HOSPITAL].kill()
    post({"resourceType": "Condition", "subject": about, "code": {"text": "Not to be told any more"}})
    eventually(lambda: destination()["pending"] >= 1, 60, "the second condition in delivery's queue")
    fleet.kafka.kill()
    withdrawn = http.put(f"{intake}/Consent/{consent['id']}", json={**consent, "status": "inactive"})
    assert withdrawn.status_code == 200, withdrawn.text  # what happened is recorded, Kafka or not
    time.sleep(LIMIT + 5)
    asked = news_at_the_gate()
    assert (asked["verdict"], asked["closes"]) == ("ask", True), asked
    assert "intake: last heard of" in asked["text"]

    fleet.processes[HOSPITAL].start()
    eventually(lambda: "consent may be too old" in str(destination()["problem"]), 60, "delivery saying why it waits")
    time.sleep(10)
    assert arrived() == 1
    assert destination()["pending"] >= 1

    # Kafka is back: news grows young again by itself, at delivery and at the gate, and whoever reads the record sees
    # what was withdrawn.
    fleet.kafka.start()
    eventually(lambda: destination()["problem"] is None, 90, "young news at delivery")
    eventually(lambda: news_at_the_gate()["verdict"] == "open", 90, "young news at the gate")
    held = f"{fleet.ports.fhir('gateway')}/Consent/{consent['id']}"
    eventually(lambda: http.get(held).json()["status"] == "inactive", 60, "the withdrawal at the gateway")
