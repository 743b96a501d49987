"""The main job, end to end: a KAP record flows from four services over Kafka into a hospital."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.stack.ports import OWNERS
from cli.stack.stack import ROOT
from tests.e2e.kap import Kap

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

FORMS = [
    pytest.param(("--kafka", "memory"), 3, id="memory-separate"),
    pytest.param(("--kafka", "memory", "--single"), 5, id="memory-single"),
    pytest.param(("--kafka", "apache"), 3, id="apache-separate", marks=pytest.mark.kafka),
    pytest.param(("--kafka", "apache", "--single"), 3, id="apache-single", marks=pytest.mark.kafka),
]
"""How the stack runs, and how many patients are played: the first three show most, the first five the four courses."""

COURSES = {
    1: (
        r"held at \d+/\d+ \(G-BP-HOLD\)",
        r"repeated \d+/\d+, gate open",
        r"reading at 10 min missed, flagged live \(M-MISSED\)",
        r"184/104, 182/102: sustained alarm",
        r"labetalol given, back within limits",
        r"handed over to the ward, which is told of the dose \(L-HANDOVER\)",
        r"→ response",
    ),
    3: (r"dose past the gate recorded, alarm raised", r"nausea, ondansetron given, adverse event recorded"),
    4: (r"item 9 raised, taken by the clinician on call", r"C-SSRS no risk", r"\d+ mg SL at home"),
    5: (r"2 devices, 5 min apart, under a witness", r"REMS form sent", r"no response"),
}
"""What is told of each course: infusions, injections, lozenges at home, esketamine."""

WHO_SEES_WHAT = {
    "her therapist": r"1 +\d+ +[1-9]\d* +[1-9]\d* +1",
    "another therapist": r"1 +\d+ +[1-9]\d* +[1-9]\d* +0",
    "prescriber": r"1 +\d+ +[1-9]\d* +[1-9]\d* +403",
    "front-desk": r"1 +\d+ +403 +403 +403",
    "the patient": r"1 +\d+ +[1-9]\d* +[1-9]\d* +403",
    "another patient": "0 +0 +0 +0 +403",
    "another clinic's administrator": "0 +0 +0 +0 +403",
    r"nobody \(no token\)": "401 +401 +401 +401 +401",
}
"""Of one patient's record: Patient, Appointment, Observation, MedicationAdministration; and her process notes."""


@pytest.mark.parametrize(("options", "patients"), FORMS)
def test_the_demo_reaches_the_hospital_and_every_hop_holds_the_same(
    make_stack: Callable[..., Kap], options: tuple[str, ...], patients: int
) -> None:
    kap = make_stack(*options)

    told = kap.must("demo", "--patients", str(patients), timeout=500)

    assert "Refused by rule" in told
    for rule in ("S-CONSENT", "G-BP", "E01", "S-ELIGIBLE", "G-BP-STOP"):
        assert rule in told
    assert re.search(r"Held for want of consent: [1-9]\d* resources; of 1 of the patients", told)
    steps = " ".join(told.split())
    assert "freed time offered by text message, booked" in steps
    assert "reminded of next week's visit by text message" in steps
    assert re.search(r"calendar read by its link \([1-9]\d* visits\), link revoked", steps)
    courses = course_of(told)
    assert len(courses) == patients
    for number, lines in COURSES.items():
        for line in lines if number <= patients else ():
            assert re.search(line, courses[number]), f"'{line}' is not told of patient {number}:\n{told}"
    for who, answers in WHO_SEES_WHAT.items():
        assert re.search(rf"^{who} +{answers}", told, re.MULTILINE), f"what {who} sees is not told:\n{told}"
    plain = " ".join(told.split())
    assert re.search(
        r"An app that \w+ let in .*own record, [1-9]\d* Observations, and was refused another's \(404\)", plain
    )
    seen = re.search(r"Who saw \w+'s record: ([\d,]+) rows in the audit of ([a-z, ]+); ([\d,]+) disclosures", plain)
    assert seen is not None, told
    assert {"gateway", "intake", "sessions"} <= set(seen[2].split(", "))
    assert int(seen[1].replace(",", "")) > int(seen[3].replace(",", "")) > 0
    assert re.search(r"Of all [\d,]+ rows each chain is whole\.", plain)
    assert re.search(r"that subscribed to his patients was told of [1-9]\d* doses as they were given\.", plain), told
    assert re.search(
        r"A hospital exported .*: [1-9]\d* Patient, [1-9]\d* Encounter, [1-9]\d* MedicationAdministration, "
        r"[1-9][\d,]* Observation; as many of each as it finds by searching\.",
        plain,
    ), told
    assert "Nothing is missing, nothing is doubled, nothing differs." in kap.must("verify")
    for service in ("gateway", "hospital"):
        for type_ in ("Patient", "Encounter", "MedicationAdministration", "Observation"):
            assert kap.get(service, f"fhir/{type_}")["entry"], f"{service} shows no {type_}"

    written = {owner: kap.written(owner) for owner in OWNERS}
    again = " ".join(kap.must("demo", "--patients", str(patients), "--seed", "1").split())
    assert "that subscribed to his patients had nothing new to be told of." in again
    assert "as many of each as it finds by searching." in again
    assert {owner: kap.written(owner) for owner in OWNERS} == written
    assert "Nothing is missing" in kap.must("verify")
    page = (ROOT / "docs" / "timeline.md").read_text(encoding="utf-8")
    played = kap.must("timeline", "1-3")
    assert kinds(played) == kinds(page)
    assert at_the_dose(played) == at_the_dose(page), "docs/timeline.md is not what ./kap timeline 1-3 prints"

    kap.must("down")


def kinds(timeline: str) -> set[str]:
    """Return the kinds of lines of a timeline: the word in capitals, or the first two."""
    said = r"VERDICT|DOSE|SCORE|ALARM|TASK|FLAG|EVENT|BP|[A-Z][a-z]+ [a-z]+"
    return set(re.findall(rf"^  \d\d:\d\d  ({said})", timeline, re.MULTILINE))


def at_the_dose(timeline: str) -> list[str]:
    """Return the lines of doses, readings, what they raised, and scores, in their order, by time of day.

    Days are the run's own, and so left out; what happened in one minute is in the order of its words.
    """
    said = r"(?:VERDICT|DOSE|SCORE|ALARM|TASK|FLAG|EVENT|BP) .*"
    days: list[list[str]] = [
        sorted(re.findall(rf"^  (\d\d:\d\d  {said})", day, re.MULTILINE))
        for day in re.split(r"^\w+day ", timeline, flags=re.MULTILINE)
    ]
    return [line for day in days for line in day]


def course_of(told: str) -> dict[int, str]:
    """Return what is told of each patient's course, by his number, on one line."""
    table = told.partition("Refused by rule")[0]
    found = re.findall(r"^ +(\d+)  \S.*?, \d+, (?:fe)?male, .*\n((?:     .*\n)+)", table, re.MULTILINE)
    return {int(number): " ".join(steps.split()) for number, steps in found}


def bundle(entries: list[dict[str, Any]]) -> bytes:
    wrapped = [{"fullUrl": f"urn:uuid:{entry['id']}", "resource": entry} for entry in entries]
    return json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": wrapped}).encode()


def test_real_bundles_are_loaded_once_and_what_is_left_out_is_told(
    make_stack: Callable[..., Kap], tmp_path: Path
) -> None:
    patient = {
        "resourceType": "Patient",
        "id": "p",
        "identifier": [{"system": "urn:mrn", "value": "77"}],
        "name": [{"family": "Kerluke", "given": ["Carin"]}],
        "birthDate": "1980-02-03",
    }
    visit = {
        "resourceType": "Encounter",
        "id": "e",
        "status": "finished",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
        "subject": {"reference": "urn:uuid:p"},
        "participant": [{"individual": {"reference": "urn:uuid:d"}}],
    }
    claim = {"resourceType": "Claim", "id": "c"}
    doctor = {"resourceType": "Practitioner", "id": "d", "identifier": [{"system": "urn:npi", "value": "200"}]}
    (tmp_path / "a.json").write_bytes(bundle([visit, patient, claim]))
    (tmp_path / "practitioners.json.gz").write_bytes(gzip.compress(bundle([doctor])))
    kap = make_stack("--kafka", "memory")

    told = kap.must("demo", "--from", str(tmp_path))

    assert re.search(r"1 Claim: KAP Exchange does not hold this type", told)
    assert "1 patients" in told
    held = kap.get("gateway", "fhir/Patient?identifier=urn:mrn|77")["entry"][0]["resource"]
    found = kap.get("gateway", f"fhir/Encounter?patient=Patient/{held['id']}")["entry"][0]["resource"]
    assert found["participant"][0]["individual"]["reference"].startswith("Practitioner/")
    identifier = f"https://kap-exchange.org/fhir/id/Patient|{held['id']}"
    assert kap.get("hospital", f"fhir/Patient?identifier={identifier}")["entry"]

    kap.must("demo", "--from", str(tmp_path))
    assert len(kap.get("gateway", "fhir/Encounter")["entry"]) == 1
    assert "Nothing is missing" in kap.must("verify")

    kap.must("down")
