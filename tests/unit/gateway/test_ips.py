"""What goes into an International Patient Summary, and what it says to a person."""

from __future__ import annotations

from decimal import Decimal
from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.beside import references_in
from services.gateway.ips import SECTIONS, composition, empty_reason, sorted_out
from services.gateway.narrative import line_of, narrative
from shared.fhir.codes import LOINC
from shared.fhir.validation import validate

PROBLEMS, ALLERGIES, MEDICATIONS, PAST = "11450-4", "48765-2", "10160-0", "11348-0"


def condition(clinical=None, verification=None):
    made = {"resourceType": "Condition", "id": "c", "code": {"text": "x"}, "subject": {"reference": "Patient/p"}}
    if clinical:
        made["clinicalStatus"] = {"coding": [{"code": clinical}]}
    if verification:
        made["verificationStatus"] = {"coding": [{"code": verification}]}
    return made


def placed(*resources):
    return {code: held for code, held in sorted_out(resources).items() if held}


def test_a_condition_is_a_problem_until_it_is_over_and_none_where_it_was_refuted():
    for clinical in (None, "active", "recurrence", "relapse"):
        assert set(placed(condition(clinical))) == {PROBLEMS}
    for clinical in ("inactive", "remission", "resolved"):
        assert set(placed(condition(clinical))) == {PAST}
    for verification in ("refuted", "entered-in-error"):
        assert placed(condition("active", verification)) == {}


def test_what_is_not_to_be_given_and_what_is_only_proposed_is_no_medication_of_the_patient():
    order = {"resourceType": "MedicationRequest", "id": "m", "status": "active", "intent": "order"}
    assert set(placed(order)) == {MEDICATIONS}
    assert placed({**order, "intent": "proposal"}) == {}
    assert placed({**order, "doNotPerform": True}) == {}


def test_pregnancy_has_its_own_section_whatever_the_category():
    category = [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "exam"}]}]
    observation = {"resourceType": "Observation", "id": "o", "category": category}
    assert set(placed({**observation, "code": {"coding": [{"system": LOINC, "code": "82810-3"}]}})) == {"10162-6"}
    assert set(placed({**observation, "code": {"text": "pupils"}})) == {"30954-2"}


def test_that_there_is_nothing_is_said_only_where_it_was_recorded():
    nilknown = {"coding": [{"code": "nilknown"}]}
    said = {"resourceType": "List", "code": {"coding": [{"system": LOINC, "code": ALLERGIES}]}, "emptyReason": nilknown}
    assert empty_reason(ALLERGIES, [said]) == nilknown
    assert empty_reason(PROBLEMS, [said])["coding"][0]["code"] == "unavailable"
    assert empty_reason(ALLERGIES, [])["coding"][0]["code"] == "unavailable"


def made_of(*resources):
    return composition(
        id_="c",
        date="2026-01-01T00:00:00.000Z",
        subject="http://x/Patient/p",
        author="urn:uuid:1",
        custodian=None,
        found=sorted_out(resources),
        lists=[],
        url_of=lambda one: f"http://x/{one['resourceType']}/{one['id']}",
        beside={},
    )


def test_the_composition_is_valid_fhir_and_always_has_the_three_sections_of_the_guide():
    for resources in ((), (condition("active"),)):
        made = made_of(*resources)
        assert validate(made) == []
        assert [one["code"]["coding"][0]["code"] for one in made["section"]] == [PROBLEMS, ALLERGIES, MEDICATIONS]
        assert [one.code for one in SECTIONS if one.required] == [PROBLEMS, ALLERGIES, MEDICATIONS]
        for section in made["section"]:
            assert ("entry" in section) != ("emptyReason" in section)


def test_a_line_tells_what_how_much_whether_and_when():
    pressure = {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"code": "85354-9", "display": "Blood pressure"}]},
        "effectiveDateTime": "2026-01-01",
        "component": [
            {"code": {"text": "systolic"}, "valueQuantity": {"value": Decimal("120.0"), "unit": "mmHg"}},
            {"code": {"text": "diastolic"}, "dataAbsentReason": {"text": "not measured"}},
        ],
    }
    assert line_of(pressure, {}) == "Blood pressure: systolic 120.0 mmHg; diastolic not measured (final, 2026-01-01)"
    dose = {
        "resourceType": "MedicationAdministration",
        "status": "completed",
        "medicationReference": {"reference": "Medication/m"},
        "dosage": {"dose": {"value": 40, "unit": "mg"}},
        "effectivePeriod": {"start": "2026-01-02T10:00:00Z"},
    }
    medications = {"Medication/m": {"code": {"text": "ketamine"}}}
    assert line_of(dose, medications) == "ketamine: 40 mg (completed, 2026-01-02T10:00:00Z)"


@given(st.text(min_size=1))
def test_whatever_a_record_says_the_narrative_is_one_line_of_xhtml_that_says_it(text):
    made = narrative([{"resourceType": "Condition", "code": {"text": text}}], {})
    tree = ET.fromstring(made["div"])
    assert [child.tag.rpartition("}")[2] for child in tree.iter()] == ["div", "ul", "li"]
    letters = "".join(one for one in text if one.isalnum())
    assert letters == "".join(one for one in "".join(tree.itertext()) if one.isalnum())


def test_references_are_found_at_whatever_depth_relative_or_under_the_own_base():
    node = {
        "a": [{"reference": "Practitioner/1"}, {"b": {"reference": "http://x/fhir/Organization/2/_history/3"}}],
        "c": {"reference": "#contained"},
        "d": {"reference": "http://elsewhere/Practitioner/4"},
        "e": {"reference": "urn:uuid:5"},
    }
    assert set(references_in(node, "http://x/fhir")) == {("Practitioner", "1"), ("Organization", "2")}
