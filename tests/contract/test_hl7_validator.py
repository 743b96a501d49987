"""A second opinion: HL7's own validator finds no error in what the system emits."""

from __future__ import annotations

import json

import pytest

from shared.fhir.profiles import own
from shared.testing.hl7_validator import Hl7Validator
from tests.contract.conftest import Played
from tests.hl7 import US_CORE, errors, us_core_profiles

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


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
