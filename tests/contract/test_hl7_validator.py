"""A second opinion: HL7's own validator finds no error in what the system emits."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import pytest

from shared.fhir.profiles import own
from shared.testing.hl7_validator import Hl7Validator
from tests.contract.conftest import Played

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

US_CORE = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-"
BY_TYPE = {
    "AllergyIntolerance": "allergyintolerance",
    "CarePlan": "careplan",
    "CareTeam": "careteam",
    "Condition": "condition-problems-health-concerns",
    "DocumentReference": "documentreference",
    "Encounter": "encounter",
    "Goal": "goal",
    "MedicationDispense": "medicationdispense",
    "MedicationRequest": "medicationrequest",
    "Organization": "organization",
    "Patient": "patient",
    "Practitioner": "practitioner",
    "Procedure": "procedure",
    "Provenance": "provenance",
    "QuestionnaireResponse": "questionnaireresponse",
    "RelatedPerson": "relatedperson",
    "ServiceRequest": "servicerequest",
}
BY_CODE = {
    "85354-9": "blood-pressure",
    "8867-4": "heart-rate",
    "9279-1": "respiratory-rate",
    "59408-5": "pulse-oximetry",
    "29463-7": "body-weight",
    "44261-6": "observation-screening-assessment",
    "70274-6": "observation-screening-assessment",
}


@dataclass(frozen=True)
class Unknowable:
    """A message that says only that a licensed code system is not at hand."""

    kind: str
    text: re.Pattern[str]
    reason: str


UNKNOWABLE = (
    Unknowable(
        "Terminology_PassThrough_TX_Message",
        re.compile(r"Unable to expand ValueSet because CodeSystem could not be found: http://loinc\.org"),
        "US Core's value sets of LOINC codes cannot be expanded without LOINC, which is licensed and not shipped",
    ),
    Unknowable(
        "Terminology_TX_NoValid_1_CC",
        re.compile(r"us-core-documentreference-type\|7\.0\.0.*http://loinc\.org#"),
        "the same value set, as a required binding: whether a LOINC code is in it cannot be told without LOINC",
    ),
)


def errors(validator: Hl7Validator, resource: Any, *profiles: str) -> list[str]:
    """Return the errors that are not only for want of a licensed code system."""
    text = resource if isinstance(resource, str) else json.dumps(resource)
    return [
        str(message)
        for message in validator.validate(text, *profiles)
        if message.severity in ("ERROR", "FATAL")
        and not any(each.kind == message.kind and each.text.search(message.text) for each in UNKNOWABLE)
    ]


def us_core_profiles(resource: dict[str, Any]) -> list[str]:
    """Return the US Core profiles that a resource of a clinic's record should hold."""
    type_ = resource["resourceType"]
    if type_ == "Observation":
        codes = [coding.get("code") for coding in resource["code"].get("coding", [])]
        return [US_CORE + BY_CODE[code] for code in codes if code in BY_CODE]
    return [US_CORE + BY_TYPE[type_]] if type_ in BY_TYPE else []


def test_the_engine_finds_planted_faults(hl7_validator: Hl7Validator) -> None:
    observation = {"resourceType": "Observation", "status": "final", "code": {"text": "mood"}}
    assert errors(hl7_validator, observation) == []
    for fault in ({"status": "nope"}, {"code": None}, {"unheardOf": 1}, {"valueQuantity": {"value": "seven"}}):
        assert errors(hl7_validator, {k: v for k, v in (observation | fault).items() if v is not None}), fault
    patient = {"resourceType": "Patient", "gender": "female"}
    assert errors(hl7_validator, patient) == []
    assert errors(hl7_validator, patient, US_CORE + "patient")


def test_every_resource_and_page_of_a_demo_run_holds_r4_its_us_core_profile_and_the_profiles_it_claims(
    demo_run: Played, hl7_validator: Hl7Validator
) -> None:
    found: dict[str, list[str]] = {}
    seen: dict[str, int] = {}
    claimed: set[str] = set()
    for type_, pages in demo_run.pages.items():
        for page in pages:
            bundle = json.loads(page)
            if wrong := errors(hl7_validator, bundle):
                found[f"a page of {type_}"] = wrong
            for entry in bundle.get("entry", []):
                resource = entry["resource"]
                seen[type_] = seen.get(type_, 0) + 1
                claimed.update(resource["meta"].get("profile", ()))
                if wrong := errors(hl7_validator, resource, *us_core_profiles(resource)):
                    found[f"{type_}/{resource['id']}"] = wrong
    assert found == {}
    assert claimed >= {own.COURSE, own.ELIGIBILITY, own.VISIT, own.DOSING_SESSION, own.DOSE, own.SCORE}
    assert {"Patient", "Encounter", "MedicationAdministration", "Observation", "RiskAssessment", "Task"} <= set(seen)
    assert sum(seen.values()) > 100
