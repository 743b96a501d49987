"""Profiles: what a resource claims it holds, and what is asked of it by name."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from shared.fhir.json import Resource
from shared.fhir.outcome import BadRequest, Unprocessable
from shared.fhir.profiles.engine import check
from shared.fhir.profiles.rules import RULES
from shared.fhir.profiles.table import FOLDER, Profile, profile_of, profiles_of_type
from shared.fhir.validation import require_valid, validate
from tests.data import examples

US_CORE = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-"
LOINC = "http://loinc.org"


def claiming(*profiles: str, **members: Any) -> Resource:
    return {"meta": {"profile": [f"{US_CORE}{one}" for one in profiles]}, **members}


def blood_pressure(**members: Any) -> Resource:
    def reading(code: str, value: int) -> Resource:
        unit = {"value": value, "unit": "mmHg", "system": "http://unitsofmeasure.org", "code": "mm[Hg]"}
        return {"code": {"coding": [{"system": LOINC, "code": code}]}, "valueQuantity": unit}

    category = "http://terminology.hl7.org/CodeSystem/observation-category"
    return {
        "resourceType": "Observation",
        **claiming("blood-pressure"),
        "status": "final",
        "category": [{"coding": [{"system": category, "code": "vital-signs"}]}],
        "code": {"coding": [{"system": LOINC, "code": "85354-9"}]},
        "subject": {"reference": "Patient/1"},
        "effectiveDateTime": "2026-11-22T10:00:00Z",
        "component": [reading("8480-6", 120), reading("8462-4", 80)],
        **members,
    }


def patient(**members: Any) -> Resource:
    return {
        "resourceType": "Patient",
        **claiming("patient"),
        "identifier": [{"system": "urn:x", "value": "1"}],
        "name": [{"family": "Chalmers"}],
        "gender": "female",
        **members,
    }


def places(resource: Resource) -> set[str]:
    return {place for issue in validate(resource) for place in issue.expression}


def rules_asked(type_: str, rule: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield from ((key, type_) for key in rule.get("rules", ()))
    for inner in (*rule.get("children", {}).values(), *rule.get("slices", {}).values()):
        yield from rules_asked(type_, inner)


def test_every_invariant_that_a_profile_states_is_implemented() -> None:
    table = json.loads((FOLDER / "profiles.json").read_text("utf-8"))
    asked = {one for row in table.values() for one in rules_asked(row["type"], row["rule"])}
    assert asked == set(RULES)


def test_the_examples_of_us_core_hold_what_they_claim() -> None:
    claims = 0
    for name, resource in examples().items():
        for canonical in resource.get("meta", {}).get("profile", ()):
            profile = profile_of(canonical)
            if profile is not None:
                claims += 1
                assert check(resource, profile).issues == [], (name, canonical)
    assert claims > 90


def required(rule: dict[str, Any]) -> list[str]:
    return [name for name, child in rule.get("children", {}).items() if child.get("min", 0) >= 1]


def test_each_example_without_an_element_that_its_profile_requires_is_refused_there() -> None:
    removed = 0
    for resource in examples().values():
        for canonical in resource.get("meta", {}).get("profile", ()):
            profile: Profile | None = profile_of(canonical)
            if profile is None:
                continue
            for name in required(profile.rule):
                less = {key: value for key, value in resource.items() if not key.lstrip("_").startswith(name)}
                found = {place for place, _, _ in check(less, profile).issues}
                assert f".{name}" in found, (canonical, name)
                removed += 1
    assert removed > 200


def test_a_resource_that_does_not_claim_a_profile_is_not_held_to_it() -> None:
    assert validate({"resourceType": "Patient", "active": True}) == []


@pytest.mark.parametrize("version", ["", "|7.0.0", "|6.1.0"])
def test_a_claim_of_each_version_is_checked(version: str) -> None:
    claim = {"meta": {"profile": [f"{US_CORE}patient{version}"]}}
    assert validate(patient(**claim)) == []
    assert places({"resourceType": "Patient", **claim, "active": True}) == {
        "Patient.identifier",
        "Patient.name",
        "Patient.gender",
    }


def test_a_profile_that_is_not_known_binds_nobody() -> None:
    claims = ["https://example.org/StructureDefinition/own", f"{US_CORE}patient|99.0.0"]
    assert validate({"resourceType": "Patient", "meta": {"profile": claims}, "active": True}) == []


def test_a_profile_of_another_type_is_no_claim_of_this_one() -> None:
    assert places({**patient(), "meta": {"profile": [f"{US_CORE}goal"]}}) == {"Patient.meta.profile"}


def test_what_lacks_its_profile_is_422_and_what_is_not_fhir_is_400_with_all_issues() -> None:
    with pytest.raises(Unprocessable) as lacking:
        require_valid(patient(name=[]) | {"name": [{"use": "official"}], "gender": "female"})
    assert [issue.expression for issue in lacking.value.issues] == [("Patient.name[0]",)]
    with pytest.raises(BadRequest) as wrong:
        require_valid({**patient(), "gender": "nope", "name": [{"use": "official"}]})
    assert {place for issue in wrong.value.issues for place in issue.expression} == {
        "Patient.gender",
        "Patient.name[0]",
    }


def test_a_slice_that_is_missing_is_named_with_what_makes_it() -> None:
    reading = blood_pressure()
    assert validate(reading) == []
    reading["component"][1]["code"]["coding"][0]["code"] = "8867-4"
    [issue] = validate(reading)
    assert issue.expression == ("Observation.component",)
    assert "diastolic" in issue.diagnostics
    assert "8462-4" in issue.diagnostics


def test_a_fixed_value_within_a_slice_is_checked_at_its_place() -> None:
    reading = blood_pressure()
    reading["component"][0]["valueQuantity"]["code"] = "kPa"
    assert places(reading) == {"Observation.component[0].value.code", "Observation.component[0].value"}


def test_a_profile_holds_its_bases_rules_too() -> None:
    assert places(blood_pressure(effectiveDateTime="2026")) == {"Observation.effective"}
    assert "Observation.subject" in places(blood_pressure(subject={"reference": "Group/1"}))


def test_a_binding_to_a_licensed_value_set_is_checked_by_its_systems() -> None:
    document = copy.deepcopy(next(r for name, r in examples().items() if name.startswith("DocumentReference-episode")))
    assert validate(document) == []
    document["type"]["coding"] = [{"system": "http://snomed.info/sct", "code": "823691000000103"}]
    assert places(document) == {"DocumentReference.type"}


def test_the_content_of_a_known_extension_is_checked_wherever_it_stands() -> None:
    race = {
        "url": f"{US_CORE}race",
        "extension": [{"url": "ombCategory", "valueString": "2106-3"}],
    }
    found = places({"resourceType": "Patient", "extension": [race]})
    assert found == {"Patient.extension[0].extension", "Patient.extension[0].extension[0].value"}


def test_contained_resources_and_entries_are_held_to_their_claims() -> None:
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": patient(gender="male")}]}
    assert validate(bundle) == []
    del bundle["entry"][0]["resource"]["gender"]  # type: ignore[index]
    assert places(bundle) == {"Bundle.entry[0].resource.gender"}


def test_every_type_with_a_us_core_profile_has_one_here() -> None:
    with_profile = {
        type_
        for type_ in ("Patient", "Practitioner", "Organization", "Location", "Coverage", "Encounter", "Condition",
                      "AllergyIntolerance", "MedicationRequest", "MedicationDispense", "Observation", "CarePlan",
                      "CareTeam", "Procedure", "DocumentReference", "DiagnosticReport", "QuestionnaireResponse",
                      "ServiceRequest", "Goal", "Provenance", "Specimen", "Device", "Immunization", "RelatedPerson",
                      "PractitionerRole", "Medication")
        if any(one.url.startswith(US_CORE) for one in profiles_of_type(type_))
    }  # fmt: skip
    assert len(with_profile) == 26
