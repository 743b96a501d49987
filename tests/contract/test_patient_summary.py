"""`Patient/$summary` is an International Patient Summary: HL7's validator holds it to the profiles of the guide."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from shared.testing.hl7_validator import Hl7Validator
from tests.contract.server import SOURCE, Server
from tests.contract.test_hl7_validator import errors

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

IPS = "http://hl7.org/fhir/uv/ips/StructureDefinition/"
LOINC = "http://loinc.org"
CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
CLINICAL = "http://terminology.hl7.org/CodeSystem/condition-clinical"
PROBLEMS, ALLERGIES, MEDICATIONS, PAST = "11450-4", "48765-2", "10160-0", "11348-0"


def coded(system: str, code: str, display: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code, "display": display}]}


def person(server: Server, **members: Any) -> dict[str, Any]:
    return server.patient(name=[{"family": "Lovelace", "given": ["Ada"]}], birthDate="1980-02-03", **members)


def fill(server: Server, patient: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Record something for every section; return it by what it is."""
    subject = {"reference": f"Patient/{patient['id']}"}
    doctor = server.make({"resourceType": "Practitioner", "name": [{"family": "Hopper", "given": ["Grace"]}]})
    drug = server.make({"resourceType": "Medication", "code": {"text": "sertraline 50 mg tablet"}})
    active = coded(CLINICAL, "active", "Active")

    def observation(category: str, code: str, display: str, when: str, **value: Any) -> dict[str, Any]:
        return server.make(
            {
                "resourceType": "Observation",
                "status": "final",
                "category": [{"coding": [{"system": CATEGORY, "code": category}]}],
                "code": coded(LOINC, code, display),
                "subject": subject,
                "effectiveDateTime": when,
                "performer": [{"reference": f"Practitioner/{doctor['id']}"}],
                **value,
            }
        )

    def weight(kilograms: int, when: str) -> dict[str, Any]:
        quantity = {"value": kilograms, "unit": "kg", "system": "http://unitsofmeasure.org", "code": "kg"}
        return observation("vital-signs", "29463-7", "Body weight", when, valueQuantity=quantity)

    result = observation(
        "laboratory", "2951-2", "Sodium [Moles/volume] in Serum or Plasma", "2026-01-03", valueString="140"
    )
    laboratory = {"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "LAB"}
    return {
        "doctor": doctor,
        "drug": drug,
        "problem": server.make(
            {
                "resourceType": "Condition",
                "clinicalStatus": active,
                "code": {"text": "Major depression <recurrent> & severe"},
                "subject": subject,
                "recorder": {"reference": f"Practitioner/{doctor['id']}"},
                "onsetDateTime": "2020",
            }
        ),
        "past": server.make(
            {
                "resourceType": "Condition",
                "clinicalStatus": coded(CLINICAL, "resolved", "Resolved"),
                "code": {"text": "Pneumonia"},
                "subject": subject,
            }
        ),
        "untrue": server.make(
            {
                "resourceType": "Condition",
                "verificationStatus": {
                    "coding": [
                        {
                            "system": "http://terminology.hl7.org/CodeSystem/condition-ver-status",
                            "code": "entered-in-error",
                        }
                    ]
                },
                "code": {"text": "Somebody else's"},
                "subject": subject,
            }
        ),
        "allergy": server.make(
            {
                "resourceType": "AllergyIntolerance",
                "clinicalStatus": coded(
                    "http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical", "active", "Active"
                ),
                "code": {"text": "Penicillin"},
                "patient": subject,
                "reaction": [{"manifestation": [{"text": "hives"}]}],
            }
        ),
        "takes": server.make(
            {
                "resourceType": "MedicationStatement",
                "status": "active",
                "medicationReference": {"reference": f"Medication/{drug['id']}"},
                "subject": subject,
                "effectivePeriod": {"start": "2025-01-01"},
                "dosage": [{"text": "one in the morning"}],
            }
        ),
        "vaccination": server.make(
            {
                "resourceType": "Immunization",
                "status": "completed",
                "vaccineCode": {"text": "Influenza"},
                "patient": subject,
                "occurrenceDateTime": "2025-10-01",
            }
        ),
        "procedure": server.make(
            {
                "resourceType": "Procedure",
                "status": "completed",
                "code": {"text": "Appendectomy"},
                "subject": subject,
                "performedDateTime": "2001-05",
            }
        ),
        "lighter": weight(70, "2026-01-01"),
        "heavier": weight(72, "2026-02-01"),
        "result": result,
        "report": server.make(
            {
                "resourceType": "DiagnosticReport",
                "status": "final",
                "category": [{"coding": [laboratory]}],
                "code": {"text": "Electrolytes"},
                "subject": subject,
                "effectiveDateTime": "2026-01-03",
                "result": [{"reference": f"Observation/{result['id']}"}],
            }
        ),
        "pregnancy": observation(
            "social-history", "82810-3", "Pregnancy status", "2026-02-01", valueCodeableConcept={"text": "not pregnant"}
        ),
        "plan": server.make(
            {
                "resourceType": "CarePlan",
                "status": "active",
                "intent": "plan",
                "title": "KAP course",
                "subject": subject,
            }
        ),
    }


def summary_of(server: Server, patient: dict[str, Any]) -> dict[str, Any]:
    bundle: dict[str, Any] = server.send("GET", f"Patient/{patient['id']}/$summary").json()
    return bundle


def sections_of(bundle: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {section["code"]["coding"][0]["code"]: section for section in bundle["entry"][0]["resource"]["section"]}


def test_a_full_record_is_a_summary_that_holds_the_profiles_of_the_guide(
    server: Server, ips_validator: Hl7Validator
) -> None:
    patient = person(server)
    made = fill(server, patient)
    bundle = summary_of(server, patient)
    assert errors(ips_validator, bundle, f"{IPS}Bundle-uv-ips") == []
    assert bundle["type"] == "document"

    urls = {entry["fullUrl"]: entry["resource"] for entry in bundle["entry"]}
    assert len(urls) == len(bundle["entry"])
    told = {
        code: [urls[entry["reference"]]["id"] for entry in section.get("entry", [])]
        for code, section in sections_of(bundle).items()
    }
    expected = {
        PROBLEMS: ["problem"],
        ALLERGIES: ["allergy"],
        MEDICATIONS: ["takes"],
        "11369-6": ["vaccination"],
        "47519-4": ["procedure"],
        "10162-6": ["pregnancy"],
        "8716-3": ["heavier"],
        "30954-2": ["report", "result"],
        "18776-5": ["plan"],
        PAST: ["past"],
    }
    assert told == {code: [made[name]["id"] for name in names] for code, names in expected.items()}
    assert made["untrue"]["id"] not in json.dumps(bundle)
    beside = {one["id"] for one in urls.values() if one["resourceType"] in ("Practitioner", "Medication")}
    assert beside == {made["doctor"]["id"], made["drug"]["id"]}

    words = sections_of(bundle)
    assert "Major depression &lt;recurrent&gt; &amp; severe (" in words[PROBLEMS]["text"]["div"]
    assert "sertraline 50 mg tablet: one in the morning" in words[MEDICATIONS]["text"]["div"]
    assert "72 kg" in words["8716-3"]["text"]["div"]
    assert words[ALLERGIES]["text"]["div"].count("Penicillin: hives") == 1


def test_of_an_empty_record_the_summary_says_that_nothing_is_recorded_not_that_there_is_nothing(
    server: Server, ips_validator: Hl7Validator
) -> None:
    bundle = summary_of(server, person(server))
    assert errors(ips_validator, bundle, f"{IPS}Bundle-uv-ips") == []
    sections = sections_of(bundle)
    assert set(sections) == {PROBLEMS, ALLERGIES, MEDICATIONS}
    for section in sections.values():
        assert "entry" not in section
        assert section["emptyReason"]["coding"][0]["code"] == "unavailable"
        assert "does not say that there is nothing" in section["text"]["div"]


def test_that_there_are_no_allergies_is_said_where_somebody_recorded_it(server: Server) -> None:
    patient = person(server)
    known = {"system": "http://terminology.hl7.org/CodeSystem/list-empty-reason", "code": "nilknown"}
    server.make(
        {
            "resourceType": "List",
            "status": "current",
            "mode": "snapshot",
            "code": coded(LOINC, ALLERGIES, "Allergies and adverse reactions Document"),
            "subject": {"reference": f"Patient/{patient['id']}"},
            "date": "2026-01-01",
            "emptyReason": {"coding": [known], "text": "asked: no known allergies"},
        }
    )
    bundle = summary_of(server, patient)
    section = sections_of(bundle)[ALLERGIES]
    assert section["emptyReason"]["coding"] == [known]
    assert "asked: no known allergies" in section["text"]["div"]
    assert sections_of(bundle)[PROBLEMS]["emptyReason"]["coding"][0]["code"] == "unavailable"


def test_the_summary_of_a_demo_patient_is_valid(gateway: httpx.Client, ips_validator: Hl7Validator) -> None:
    courses = gateway.get("EpisodeOfCare?_count=20").raise_for_status().json()["entry"]
    patient = courses[0]["resource"]["patient"]["reference"]
    bundle = gateway.get(f"{patient}/$summary").raise_for_status().json()
    assert errors(ips_validator, bundle, f"{IPS}Bundle-uv-ips") == []
    assert len(bundle["entry"]) > 10


def test_a_patient_can_be_named_by_an_identifier_and_only_this_summary_is_made(server: Server) -> None:
    value = "mrn-4711-summary"
    found = server.found(f"Patient?identifier=urn:mrn|{value}")
    patient = person(server, identifier=[{"system": "urn:mrn", "value": value}]) if not found else {"id": found[0]}
    named = server.send("GET", f"Patient/$summary?identifier=urn:mrn|{value}").json()
    assert named["entry"][1]["resource"]["id"] == patient["id"]
    server.send("GET", "Patient/$summary?identifier=urn:mrn|nobody", status=404)
    server.send("GET", "Patient/$summary", status=400)
    server.send("GET", "Patient/nobody/$summary", status=404)
    profile = f"{IPS}Composition-uv-ips"
    server.send("GET", f"Patient/{patient['id']}/$summary?profile={profile}")
    server.send("GET", f"Patient/{patient['id']}/$summary?profile=urn:other", status=400)
    parameters = {"resourceType": "Parameters", "parameter": [{"name": "profile", "valueCanonical": profile}]}
    server.send("POST", f"Patient/{patient['id']}/$summary", parameters)
    assert SOURCE in json.dumps(named["entry"][1])
