"""Labels put on by rule: what a resource bears when it is written, whatever its writer says."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.fhir.codes import ACT_CODE, CONFIDENTIALITY, ICD10CM
from shared.fhir.extraction import extract, labels_of
from shared.fhir.outcome import Unprocessable
from shared.runtime.labelling import labels_of_policy
from shared.runtime.record import bearing, prepare
from shared.security.labels import LEVELS, high_water

LABELS = labels_of_policy(None)
ADA = {"reference": "Patient/ada"}


def condition(code=None, *, system=ICD10CM, **more):
    coded = {} if code is None else {"code": {"coding": [{"system": system, "code": code}]}}
    return {"resourceType": "Condition", "subject": ADA, **coded, **more}


def bears(resource, **more):
    return set(labels_of(LABELS.labelled(resource, **more)))


def labelled_as(*codes, level=None):
    security = [{"system": ACT_CODE, "code": code} for code in codes]
    security += [] if level is None else [{"system": CONFIDENTIALITY, "code": level}]
    return {"security": security} if security else {"versionId": "1"}


@pytest.mark.parametrize(
    ("resource", "labels"),
    [
        ({"resourceType": "Practitioner"}, set()),
        ({"resourceType": "Patient"}, {"R"}),
        (condition("F33.1"), {"R", "MH", "BH"}),
        (condition("F10.20"), {"R", "MH", "BH", "SUD", "ETHUD"}),
        (condition("F11.2"), {"R", "MH", "BH", "SUD", "OPIOIDUD"}),
        (condition("F17.2"), {"R", "MH", "BH"}),
        (condition("66590003", system="http://snomed.info/sct"), {"R", "MH", "BH", "SUD", "ETHUD"}),
        (condition("T74.21XA"), {"R", "MH", "BH", "SDV"}),
        (condition(code={"text": "Opioid use disorder, severe"}), {"R", "MH", "BH", "SUD", "OPIOIDUD"}),
        (
            {"resourceType": "Observation", "code": {"coding": [{"system": "http://loinc.org", "code": "75626-2"}]}},
            {"R", "MH", "BH", "SUD", "ETHUD"},
        ),
        (
            {"resourceType": "QuestionnaireResponse", "questionnaire": "http://loinc.org/q/82666-9|1"},
            {"R", "MH", "BH", "SUD"},
        ),
        (
            {"resourceType": "QuestionnaireResponse", "questionnaire": "https://kap-exchange.org/fhir/Questionnaire/lec-5"},
            {"R", "MH", "BH", "SDV"},
        ),
        (
            {"resourceType": "MedicationRequest", "reasonCode": [{"coding": [{"system": ICD10CM, "code": "F11.20"}]}]},
            {"R", "MH", "BH", "SUD", "OPIOIDUD"},
        ),
        (
            {"resourceType": "Composition", "event": [{"code": [{"coding": [{"system": ICD10CM, "code": "F14.1"}]}]}]},
            {"V", "MH", "BH", "SUD"},
        ),
        (
            {"resourceType": "Consent", "provision": {"securityLabel": [{"system": ACT_CODE, "code": "SUD"}],
                                                      "code": [{"coding": [{"system": ICD10CM, "code": "F10.2"}]}]}},
            {"R", "MH", "BH"},
        ),
    ],
)  # fmt: skip
def test_a_resource_bears_what_the_rules_say(resource, labels):
    assert bears(resource) == labels


RXNORM, LOINC, SNOMED = "http://www.nlm.nih.gov/research/umls/rxnorm", "http://loinc.org", "http://snomed.info/sct"


@pytest.mark.parametrize(("code", "name", "narrower"), [
    ("6813", "methadone", {"OPIOIDUD"}), ("1819", "buprenorphine", {"OPIOIDUD"}), ("3554", "disulfiram", {"ETHUD"}),
    ("82819", "acamprosate", {"ETHUD"}), ("7243", "naltrexone", set()),
])  # fmt: skip
def test_a_medicine_for_substance_use_says_that_there_is_some_by_its_code_and_by_its_name(code, name, narrower):
    coded, written = {"coding": [{"system": RXNORM, "code": code}]}, {"text": f"{name.capitalize()} 8 mg"}
    for medicine in (coded, written):
        for type_ in ("MedicationStatement", "MedicationRequest"):
            assert bears({"resourceType": type_, "subject": ADA, "medicationCodeableConcept": medicine}) == {
                "R", "MH", "BH", "SUD", *narrower,
            }  # fmt: skip
    allergy = {"resourceType": "AllergyIntolerance", "patient": ADA, "code": coded}
    assert "SUD" in bears(allergy)


@pytest.mark.parametrize("code", ["3426-4", "19295-5", "3397-7", "55349-3", "5643-2"])
def test_a_drug_test_is_about_substance_use_whatever_its_result(code):
    coded = {"coding": [{"system": LOINC, "code": code}]}
    test = {"resourceType": "Observation", "subject": ADA, "code": coded, "valueString": "not detected"}
    assert "SUD" in bears(test)
    assert "SUD" in bears({"resourceType": "ServiceRequest", "subject": ADA, "code": {"text": "Urine drug screen"}})


@pytest.mark.parametrize(("code", "labels"), [
    ({"coding": [{"system": SNOMED, "code": "7200002"}]}, {"SUD", "ETHUD"}),
    ({"coding": [{"system": SNOMED, "code": "66590003"}]}, {"SUD", "ETHUD"}),
    ({"coding": [{"system": SNOMED, "code": "75544000"}]}, {"SUD", "OPIOIDUD"}),
    ({"coding": [{"system": SNOMED, "code": "191816009"}]}, {"SUD"}),
    ({"text": "Alcoholism"}, {"SUD", "ETHUD"}),
    ({"text": "heroin addiction, on methadone"}, {"SUD", "OPIOIDUD"}),
    ({"coding": [{"system": ICD10CM, "code": "O99.320"}]}, {"SUD"}),
    ({"text": "cloudy vision"}, set()),
])  # fmt: skip
def test_substance_use_is_found_by_code_and_in_words(code, labels):
    assert bears(condition(code=code)) - {"R", "MH", "BH"} == labels


def test_a_narrower_label_of_the_writers_brings_the_wider_one():
    assert {"SUD", "ETH"} <= bears(condition("F33.1", meta=labelled_as("ETH")))


def test_the_highest_confidentiality_counts_and_is_the_only_one():
    after = LABELS.labelled(condition("F33.1", meta=labelled_as(level="N")))
    assert [one["code"] for one in after["meta"]["security"] if one["system"] == CONFIDENTIALITY] == ["R"]
    assert "V" in bears(condition("F33.1", meta=labelled_as(level="V")))
    assert "V" in bears(condition("F33.1"), before=condition("F33.1", meta=labelled_as(level="V")))


HEROIN = "since 2024 no heroin"


@pytest.mark.parametrize(
    "said",
    [
        {"resourceType": "Observation", "valueString": HEROIN},
        {"resourceType": "Observation", "component": [{"valueString": HEROIN}]},
        {"resourceType": "QuestionnaireResponse", "item": [{"linkId": "1", "answer": [{"valueString": HEROIN}]}]},
        {"resourceType": "Communication", "payload": [{"contentString": HEROIN}]},
        {"resourceType": "DocumentReference", "description": HEROIN},
        {"resourceType": "DocumentReference", "content": [{"attachment": {"title": HEROIN}}]},
        {"resourceType": "Composition", "section": [{"title": HEROIN}]},
        {"resourceType": "Task", "description": HEROIN},
        {"resourceType": "CarePlan", "title": HEROIN},
        {"resourceType": "Condition", "text": {"div": "<div>since 2024 <b>no</b> her&#111;in</div>"}},
        {
            "resourceType": "Condition",
            "code": {"coding": [{"system": "http://hl7.org/fhir/sid/icd-10", "code": "F11.2"}]},
        },
        {
            "resourceType": "Condition",
            "code": {"coding": [{"system": "http://hl7.org/fhir/sid/icd-9-cm", "code": "304.01"}]},
        },
    ],
)
def test_substance_use_is_read_wherever_it_is_said(said):
    assert "SUD" in bears({**said, "subject": ADA})


@pytest.mark.parametrize(
    "said",
    [
        {"id": "heroin"},
        {"subject": {"reference": "Patient/heroin"}},
        {"instantiatesUri": ["urn:heroin"]},
        {"meta": {"source": "urn:heroin"}},
        {"code": {"coding": [{"system": "urn:x", "code": "heroin"}]}},
        {"identifier": [{"system": "urn:heroin"}]},
    ],
)
def test_the_name_of_something_says_nothing_of_the_patient(said):
    assert "SUD" not in bears({"resourceType": "Procedure", **said})


def test_a_bundle_that_is_kept_bears_the_labels_of_what_is_in_it_and_the_highest_confidentiality():
    held = [{"resource": {"resourceType": "Patient"}}, {"resource": {"resourceType": "Composition", "title": HEROIN}}]
    assert bears({"resourceType": "Bundle", "type": "document", "entry": held}) == {"V", "MH", "BH", "SUD", "OPIOIDUD"}
    assert bears({"resourceType": "Bundle", "type": "collection", "entry": held[:1]}) == {"R"}
    assert bears({"resourceType": "Bundle", "type": "collection"}) == set()


def test_a_process_note_is_refused_and_told_where_it_belongs():
    for note in (
        {"resourceType": "DocumentReference", "meta": labelled_as("PSYTHPN")},
        {"resourceType": "Observation", "meta": labelled_as("PSYTHPN")},
        {"resourceType": "DocumentReference", "meta": labelled_as("HIPAAPsyNotes")},
        {"resourceType": "Bundle", "entry": [{"resource": {"resourceType": "Basic", "meta": labelled_as("PSYTHPN")}}]},
        {"resourceType": "Composition", "type": {"text": "Psychotherapy process note"}},
    ):
        with pytest.raises(Unprocessable, match="/process-notes/DocumentReference") as refused:
            LABELS.labelled(note)
        assert refused.value.issues[0].rule == "L-PSYTHPN"


def part_2(**more):
    policy = msgspec.structs.replace(LABELS.policy, part_2=msgspec.structs.replace(LABELS.policy.part_2, **more))
    return replace(LABELS, policy=policy)


OF_A_PATIENT = [
    {"resourceType": "Patient", "id": "ada"},
    {"resourceType": "Encounter", "subject": ADA},
    {"resourceType": "MedicationAdministration", "subject": ADA, "medicationCodeableConcept": {"text": "ketamine"}},
    {"resourceType": "Observation", "subject": ADA, "code": {"text": "blood pressure"}},
    {"resourceType": "DocumentReference", "subject": ADA},
    {"resourceType": "Appointment", "participant": [{"actor": ADA}]},
    condition("F33.1"),
    condition("F11.2"),
]


@pytest.mark.parametrize("resource", OF_A_PATIENT, ids=lambda one: one["resourceType"])
def test_in_a_clinic_that_is_a_programme_everything_of_a_patient_is_under_part_2(resource):
    """42 CFR 2.11: "records" is any information relating to a patient, not what is about substance use alone."""
    assert "42CFRPart2" not in bears(resource)
    assert "42CFRPart2" in labels_of(part_2(whole_clinic=True).labelled(resource))


@pytest.mark.parametrize("type_", ["Practitioner", "Organization", "Location", "Questionnaire", "Medication"])
def test_the_directory_of_a_programme_is_of_no_patient(type_):
    assert "42CFRPart2" not in labels_of(part_2(whole_clinic=True).labelled({"resourceType": type_, "id": "x"}))


def test_a_mark_is_of_the_clinic_it_names_and_of_each_where_it_names_none():
    rules = part_2(clinics=("north",), units=("south@Organization/sud", "Organization/both"))

    def is_of_programme(clinic, unit):
        visit = {"resourceType": "Encounter", "subject": ADA, "serviceProvider": {"reference": unit}}
        return "42CFRPart2" in labels_of(rules.of(clinic).labelled(visit))

    asked = [
        (clinic, unit) for clinic in ("north", "south", "default") for unit in ("Organization/sud", "Organization/both")
    ]
    assert [is_of_programme(*one) for one in asked] == [True, True, True, True, False, True]
    visit = {"resourceType": "Observation", "subject": ADA, "encounter": {"reference": "Encounter/e"}}
    assert [rules.of(one).ask_for_unit(visit) for one in ("north", "south", "default")] == [None, "e", "e"]
    assert LABELS.of("north") is LABELS


@pytest.mark.parametrize(
    "wrong", [{"units": ("sud",)}, {"units": ("a b@Organization/1",)}, {"clinics": ("Organization/1 ",)}]
)
def test_a_mark_that_can_be_nobodys_is_refused_and_named(wrong):
    [[said]] = wrong.values()
    with pytest.raises(ValueError, match=said):
        part_2(**wrong)


def test_of_a_unit_that_is_a_programme_everything_is_under_part_2_by_itself_or_its_encounter_and_nothing_else():
    units = part_2(units=("Organization/sud", "Location/sud-room"))
    there = {"resourceType": "Encounter", "subject": ADA, "serviceProvider": {"reference": "Organization/sud"}}
    elsewhere = {"resourceType": "Encounter", "subject": ADA, "serviceProvider": {"reference": "Organization/kap"}}
    assert "42CFRPart2" in labels_of(units.labelled(there))
    assert units.ask_for_unit(there) is None
    assert "42CFRPart2" not in labels_of(units.labelled(elsewhere))
    visit = {"encounter": {"reference": "Encounter/e"}}
    of_visits = [
        condition("F33.1", **visit),
        {"resourceType": "Observation", "subject": ADA, **visit},
        {"resourceType": "MedicationAdministration", "subject": ADA, "context": {"reference": "Encounter/e"}},
        {"resourceType": "DocumentReference", "subject": ADA, "context": {"encounter": [{"reference": "Encounter/e"}]}},
        {"resourceType": "Encounter", "subject": ADA, "partOf": {"reference": "Encounter/e"}},
    ]
    for one in of_visits:
        assert units.ask_for_unit(one) == "e", one
        assert "42CFRPart2" in labels_of(units.labelled(one, encounter=there)), one
        assert "42CFRPart2" not in labels_of(units.labelled(one, encounter=elsewhere)), one
    booked = {
        "resourceType": "Appointment",
        "participant": [{"actor": ADA}, {"actor": {"reference": "Location/sud-room"}}],
    }
    assert "42CFRPart2" in labels_of(units.labelled(booked))
    assert units.ask_for_unit({"resourceType": "Practitioner", **visit}) is None
    assert units.ask_for_unit(condition("F11.2")) is None


CODES = st.sampled_from(["SUD", "ETH", "SDV", "HIV", "MH", "42CFRPart2"])
METAS = st.builds(
    lambda codes, level: labelled_as(*codes, level=level),
    st.lists(CODES, unique=True),
    st.none() | st.sampled_from(LEVELS),
)
WRITTEN = st.builds(lambda code, meta: condition(code, meta=meta), st.sampled_from(["F33.1", "F10.2", "T74.2"]), METAS)


@given(WRITTEN, WRITTEN)
def test_labels_only_grow_and_putting_them_on_twice_is_putting_them_on_once(before, after):
    first = LABELS.labelled(before)
    second = LABELS.labelled(after, before=first)
    codes = {one["code"] for one in first["meta"]["security"] if one["system"] == ACT_CODE}
    assert codes | set(labels_of(after)) - set(LEVELS) <= set(labels_of(second))
    assert LABELS.labelled(second, before=first) is second
    levels = [one["code"] for one in second["meta"]["security"] if one["system"] == CONFIDENTIALITY]
    said = [one for one in (*labels_of(first), *labels_of(after), "R") if one in LEVELS]
    assert levels == [max(said, key=LEVELS.index)]


@given(WRITTEN)
def test_index_rows_after_labelling_are_those_of_the_labelled_resource(written):
    ready = prepare(written, "c")
    labelled = bearing(ready, LABELS.labelled(ready.resource))
    assert sorted(map(repr, labelled.index.token)) == sorted(map(repr, extract(labelled.resource).token))
    assert replace(labelled.index, token=[]) == replace(extract(labelled.resource), token=[])
    assert labelled.labels == labels_of(labelled.resource)


def test_a_bundle_is_as_confidential_as_the_most_confidential_in_it():
    assert high_water(["N", "V", "R"]) == "V"
    assert high_water([None, None]) == "N"
    assert high_water([]) is None
