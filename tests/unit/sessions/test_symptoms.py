"""Symptoms: which of them call, however they are said; what cannot be read is asked about."""

from __future__ import annotations

import pytest

from services.sessions.rules.alarms import is_symptom_not_understood, symptoms_in
from services.sessions.setting import Setting
from shared.fhir import codes
from shared.runtime.policy import load_policy

POLICY = Setting.of(load_policy()).alarms
EVERY = [(name, code) for name, one in POLICY.symptoms.items() for code in one.codes]


def concept(code):
    return codes.Code(codes.SNOMED if code.isdigit() else codes.KAP, code).concept()


def said(code=codes.SYMPTOM.code, **value):
    return {"resourceType": "Observation", "status": "final", "code": concept(code), **value}


@pytest.mark.parametrize(("name", "code"), EVERY)
def test_each_symptom_is_understood_as_a_value_as_itself_and_as_an_event(name, code):
    event = {"resourceType": "AdverseEvent", "actuality": "actual", "event": concept(code)}
    for one in (said(valueCodeableConcept=concept(code)), said(code), said(code, valueBoolean=True), event):
        assert list(symptoms_in(one, POLICY)) == [name]
        assert not is_symptom_not_understood(one, POLICY)


@pytest.mark.parametrize(("name", "code"), EVERY)
def test_what_is_said_not_to_be_there_or_was_withdrawn_or_only_might_have_happened_is_none(name, code):
    potential = {"resourceType": "AdverseEvent", "actuality": "potential", "event": concept(code)}
    for one in (said(code, valueBoolean=False), said(code, status="entered-in-error"), potential, None):
        assert symptoms_in(one, POLICY) == {}


def test_the_code_of_another_system_is_another_code():
    other = {"coding": [{"system": "urn:other", "code": "chest-pain"}]}
    assert symptoms_in(said(valueCodeableConcept=other), POLICY) == {}
    assert is_symptom_not_understood(said(valueString="chest pain"), POLICY)


@pytest.mark.parametrize(
    ("value", "unclear"),
    [
        ({}, True),
        ({"valueString": "tight chest"}, True),
        ({"valueCodeableConcept": {"text": "tight chest"}}, True),
        ({"valueCodeableConcept": concept("422587007")}, False),
        ({"valueCodeableConcept": concept("chest-pain")}, False),
        ({"valueCodeableConcept": concept("24184005")}, True),
        ({"valueCodeableConcept": {"coding": [{"system": "urn:other", "code": "422587007"}]}}, True),
        ({"valueBoolean": False}, False),
        ({"valueString": "x", "status": "entered-in-error"}, False),
    ],
)
def test_a_symptom_that_cannot_be_read_is_asked_about(value, unclear):
    assert is_symptom_not_understood(said(**value), POLICY) is unclear


def test_only_headache_needs_a_reading_beside_it():
    assert {name for name, one in POLICY.symptoms.items() if one.beside} == {"headache"}
    assert POLICY.symptoms["headache"].beside in {one.rule for one in POLICY.limits.values()}
    assert all(one.source and one.advice for one in POLICY.symptoms.values())
