"""Validation: each kind of fault is found, at its place, and all of them at once."""

from __future__ import annotations

import copy
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.fhir.definitions import RESOURCE_TYPES
from shared.fhir.json import Resource, dump, parse
from shared.fhir.outcome import BadRequest
from shared.fhir.validation import MAX_ISSUES, require_valid, validate
from tests.data import examples, synthea_bundles

DIV = '<div xmlns="http://www.w3.org/1999/xhtml">{}</div>'


def observation(**members: Any) -> Resource:
    return {"resourceType": "Observation", "status": "final", "code": {"text": "x"}, **members}


def patient(**members: Any) -> Resource:
    return {"resourceType": "Patient", **members}


def found(resource: object) -> list[tuple[str, str]]:
    return [(issue.code, *issue.expression) for issue in validate(resource)]


def test_all_examples_of_hl7_and_us_core_are_valid() -> None:
    for name, resource in examples().items():
        assert validate(resource) == [], name
    assert len(examples()) > 350


def test_all_resources_of_synthea_are_valid() -> None:
    for name, bundle in synthea_bundles().items():
        assert validate(bundle) == [], name
    assert len(synthea_bundles()) == 20


@pytest.mark.parametrize(
    ("resource", "issues"),
    [
        # structure
        ([], [("structure", "Resource")]),
        (None, [("structure", "Resource")]),
        ({}, [("required", "Resource.resourceType")]),
        ({"resourceType": "Nonsense"}, [("structure", "Resource.resourceType")]),
        ({"resourceType": 5}, [("structure", "Resource.resourceType")]),
        (observation(nonsense=1), [("structure", "Observation.nonsense")]),
        (observation(fhir_comments=["x"]), [("structure", "Observation.fhir_comments")]),
        (patient(name=[{"resourceType": "HumanName"}]), [("structure", "Patient.name[0].resourceType")]),
        (observation(status=None), [("structure", "Observation.status")]),
        (observation(status=["final"]), [("structure", "Observation.status")]),
        (observation(code=[{"text": "x"}]), [("structure", "Observation.code")]),
        (observation(code="x"), [("structure", "Observation.code")]),
        (patient(name={"family": "x"}), [("structure", "Patient.name")]),
        (patient(name=[]), [("structure", "Patient.name")]),
        (patient(name=["x"]), [("structure", "Patient.name[0]")]),
        (patient(name=[None]), [("structure", "Patient.name[0]")]),
        (patient(name=[{"given": "x"}]), [("structure", "Patient.name[0].given")]),
        (patient(name=[{"given": []}]), [("structure", "Patient.name[0].given")]),
        (patient(name=[{"given": ["x", ["y"]]}]), [("structure", "Patient.name[0].given[1]")]),
        (patient(name=[{}]), [("invariant", "Patient.name[0]")]),
        (patient(name=[{"id": "x"}]), [("invariant", "Patient.name[0]")]),
        (patient(name=[{"family": ""}]), [("value", "Patient.name[0].family")]),
        # cardinality
        ({"resourceType": "Observation"}, [("required", "Observation.status"), ("required", "Observation.code")]),
        (
            observation(component=[{}]),
            [("required", "Observation.component[0].code"), ("invariant", "Observation.component[0]")],
        ),
        (
            {
                "resourceType": "MedicationRequest",
                "status": "active",
                "intent": "order",
                "subject": {"reference": "Patient/1"},
            },
            [("required", "MedicationRequest.medication")],
        ),
        # choices of types
        (observation(valueString="x", valueInteger=1), [("structure", "Observation.value")]),
        (
            observation(valueString="x", _valueInteger={"extension": [{"url": "e", "valueCode": "x"}]}),
            [("structure", "Observation.value")],
        ),
        (observation(valueMoney={"value": 1}), [("structure", "Observation.valueMoney")]),
        # formats
        (observation(effectiveDateTime="2026-02-30"), [("value", "Observation.effective")]),
        (observation(effectiveDateTime="2026-01-01T10:00"), [("value", "Observation.effective")]),
        (observation(issued="2026-01-01"), [("value", "Observation.issued")]),
        (observation(valueBoolean="true"), [("value", "Observation.value")]),
        (observation(valueInteger=True), [("value", "Observation.value")]),
        (observation(valueInteger=Decimal("1.0")), [("value", "Observation.value")]),
        (observation(valueInteger=2**31), [("value", "Observation.value")]),
        (observation(valueQuantity={"value": "5"}), [("value", "Observation.value.value")]),
        (observation(valueQuantity={"value": True}), [("value", "Observation.value.value")]),
        (observation(valueQuantity={"value": Decimal("1e99999")}), [("value", "Observation.value.value")]),
        (observation(valueTime="25:00:00"), [("value", "Observation.value")]),
        (observation(valueString="a\x00b"), [("value", "Observation.value")]),
        (observation(valueString="\ud800"), [("value", "Observation.value")]),
        (observation(id="a b"), [("value", "Observation.id")]),
        (observation(id="a" * 65), [("value", "Observation.id")]),
        (observation(id="a\n"), [("value", "Observation.id")]),
        (observation(implicitRules="http://a b"), [("value", "Observation.implicitRules")]),
        (patient(birthDate="1980-13"), [("value", "Patient.birthDate")]),
        (patient(birthDate="1980-01-01T10:00:00Z"), [("value", "Patient.birthDate")]),
        (patient(photo=[{"contentType": "image/png", "data": "AAA"}]), [("value", "Patient.photo[0].data")]),
        (patient(contact=[{"name": {"text": "x"}}], multipleBirthInteger="1"), [("value", "Patient.multipleBirth")]),
        # required bindings
        (observation(status="nope"), [("code-invalid", "Observation.status")]),
        (observation(status="Final"), [("code-invalid", "Observation.status")]),
        (patient(gender="m"), [("code-invalid", "Patient.gender")]),
        (patient(telecom=[{"system": "pigeon", "value": "x"}]), [("code-invalid", "Patient.telecom[0].system")]),
        (patient(photo=[{"contentType": "not a type"}]), [("code-invalid", "Patient.photo[0].contentType")]),
        # targets of references
        (observation(subject={"reference": "Medication/1"}), [("value", "Observation.subject")]),
        (observation(subject={"reference": "https://x.example/fhir/Medication/1"}), [("value", "Observation.subject")]),
        (observation(subject={"type": "Medication", "identifier": {"value": "1"}}), [("value", "Observation.subject")]),
        (observation(subject={"type": "Device", "reference": "Patient/1"}), [("value", "Observation.subject")]),
        (observation(subject={"type": "Nonsense"}), [("code-invalid", "Observation.subject.type")]),
        # contained resources
        (observation(subject={"reference": "#p"}), [("invariant", "Observation.subject.reference")]),
        (observation(contained=[{"resourceType": "Patient", "id": "p"}]), [("invariant", "Observation.contained[0]")]),
        (observation(contained=[{"resourceType": "Patient"}]), [("required", "Observation.contained[0].id")]),
        (
            observation(contained=[{"resourceType": "Patient", "id": "p", "nonsense": 1}], subject={"reference": "#p"}),
            [("structure", "Observation.contained[0].nonsense")],
        ),
        (
            observation(
                contained=[{"resourceType": "Patient", "id": "p", "meta": {"versionId": "1"}}],
                subject={"reference": "#p"},
            ),
            [("invariant", "Observation.contained[0].meta.versionId")],
        ),
        # extensions of primitives
        (patient(_birthDate={"id": "x"}), [("invariant", "Patient.birthDate")]),
        (patient(_birthDate={}), [("invariant", "Patient.birthDate")]),
        (patient(_birthDate=[{"id": "x"}]), [("structure", "Patient.birthDate")]),
        (
            patient(birthDate="1980", _birthDate={"extension": [{"url": "e"}]}),
            [("invariant", "Patient.birthDate.extension[0]")],
        ),
        (patient(birthDate="1980", _birthDate={"value": 1}), [("structure", "Patient.birthDate.value")]),
        (patient(_name=[{"id": "x"}]), [("structure", "Patient._name")]),
        (patient(name=[{"given": ["a", None]}]), [("invariant", "Patient.name[0].given[1]")]),
        (patient(name=[{"given": ["a"], "_given": [None, {"id": "x"}]}]), [("structure", "Patient.name[0].given")]),
        (patient(name=[{"given": [None], "_given": [{"id": "x"}]}]), [("invariant", "Patient.name[0].given[0]")]),
        (patient(name=[{"_given": [None]}]), [("invariant", "Patient.name[0].given")]),
        # invariants
        (observation(valueString="x", dataAbsentReason={"text": "x"}), [("invariant", "Observation")]),
        (observation(effectivePeriod={"start": "2026-02", "end": "2026-01"}), [("invariant", "Observation.effective")]),
        (observation(valueRange={"low": {"value": 2}, "high": {"value": 1}}), [("invariant", "Observation.value")]),
        (observation(valueQuantity={"value": 1, "code": "mg"}), [("invariant", "Observation.value")]),
        (
            observation(referenceRange=[{"low": {"value": 1, "comparator": "<"}}]),
            [("structure", "Observation.referenceRange[0].low.comparator")],
        ),
        (
            patient(extension=[{"url": "e", "valueCode": "x", "extension": [{"url": "e", "valueCode": "x"}]}]),
            [("invariant", "Patient.extension[0]")],
        ),
        (patient(extension=[{"valueCode": "x"}]), [("required", "Patient.extension[0].url")]),
        (patient(telecom=[{"value": "x"}]), [("invariant", "Patient.telecom[0]")]),
        # narrative
        (
            patient(text={"status": "generated", "div": DIV.format("<script>x()</script>")}),
            [("value", "Patient.text.div")],
        ),
        (
            patient(text={"status": "generated", "div": DIV.format('<p onclick="x()">a</p>')}),
            [("value", "Patient.text.div")],
        ),
        (
            patient(text={"status": "generated", "div": DIV.format('<a href=" JavaScript:x()">a</a>')}),
            [("value", "Patient.text.div")],
        ),
        (patient(text={"status": "generated", "div": DIV.format("<p>a")}), [("value", "Patient.text.div")]),
        (patient(text={"status": "generated", "div": DIV.format(" ")}), [("value", "Patient.text.div")]),
        (
            patient(text={"status": "generated", "div": "<!DOCTYPE x [<!ENTITY a 'b'>]>" + DIV.format("&a;")}),
            [("value", "Patient.text.div")],
        ),
        (patient(text={"status": "generated", "div": "<p>a</p>"}), [("value", "Patient.text.div")]),
    ],
)
def test_a_fault_is_found_at_its_place(resource: object, issues: list[tuple[str, str]]) -> None:
    assert found(resource) == issues


@pytest.mark.parametrize(
    "resource",
    [
        patient(),
        patient(birthDate="1980", _birthDate={"id": "x"}),
        patient(_birthDate={"extension": [{"url": "e", "valueCode": "unknown"}]}),
        patient(name=[{"given": ["a", None], "_given": [None, {"extension": [{"url": "e", "valueCode": "x"}]}]}]),
        {
            "resourceType": "Observation",
            "_status": {"extension": [{"url": "e", "valueCode": "unknown"}]},
            "code": {"text": "x"},
        },
        observation(effectiveDateTime="2016-12-31T23:59:60Z"),
        observation(valueQuantity={"value": 1.5}),
        observation(valueQuantity={"value": Decimal("1.000E-245")}),
        observation(valueString=" leading and trailing \r\n\t"),
        observation(subject={"reference": "urn:uuid:61ebe359-bfdc-4613-8bf2-c5e300945f0a"}),
        observation(subject={"reference": "Patient?identifier=http://x|1"}),
        observation(contained=[{"resourceType": "Patient", "id": "p"}], subject={"reference": "#p"}),
        observation(
            contained=[
                {
                    "resourceType": "Provenance",
                    "id": "p",
                    "target": [{"reference": "#"}],
                    "recorded": "2026-01-01T00:00:00Z",
                    "agent": [{"who": {"display": "x"}}],
                }
            ]
        ),
        patient(
            text={"status": "generated", "div": DIV.format("a&nbsp;b &amp; &eacute; <!-- c --><img src='#x' alt=''/>")}
        ),
    ],
)
def test_what_is_unusual_but_right_passes(resource: Resource) -> None:
    assert validate(resource) == []


@pytest.mark.parametrize(
    "condition",
    [
        {
            "clinicalStatus": {
                "coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "nope"}]
            }
        },
        {"clinicalStatus": {"coding": [{"system": "http://other", "code": "active"}]}},
        {"clinicalStatus": {"coding": [{"code": "active"}]}},
        {"clinicalStatus": {"text": "active"}},
    ],
)
def test_a_concept_with_a_required_binding_needs_a_code_of_it(condition: Resource) -> None:
    resource = {"resourceType": "Condition", "subject": {"reference": "Patient/1"}, **condition}
    assert found(resource) == [("code-invalid", "Condition.clinicalStatus")]


def test_every_fault_of_a_resource_is_told_at_once() -> None:
    broken = observation(
        status="nope", nonsense=1, subject={"reference": "Medication/1"}, effectiveDateTime="soon", component=[{}]
    )
    with pytest.raises(BadRequest) as refused:
        require_valid(broken)
    assert {issue.expression[0] for issue in refused.value.issues} >= {
        "Observation.status",
        "Observation.nonsense",
        "Observation.subject",
        "Observation.effective",
        "Observation.component[0].code",
    }
    outcome = refused.value.as_fhir()
    assert validate(outcome) == []


def test_entries_of_a_bundle_and_parameters_are_checked_as_resources() -> None:
    bundle = {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [{"resource": observation()}, {"resource": observation(status="nope")}],
    }
    assert found(bundle) == [("code-invalid", "Bundle.entry[1].resource.status")]
    parameters = {"resourceType": "Parameters", "parameter": [{"name": "p", "resource": {"resourceType": "X"}}]}
    assert found(parameters) == [("structure", "Parameters.parameter[0].resource.resourceType")]


def test_a_body_of_nonsense_costs_little_and_says_that_there_is_more() -> None:
    issues = validate(patient(name=[{"nonsense": 1}] * 50_000))
    assert len(issues) == MAX_ISSUES + 1
    assert issues[-1].severity == "warning"


def test_nesting_without_end_is_refused() -> None:
    extension: Resource = {"url": "e", "valueCode": "x"}
    for _ in range(5000):
        extension = {"url": "e", "extension": [extension]}
    assert found(patient(extension=[extension])) == [("too-costly", "Patient")]


def test_what_the_caller_sent_is_shown_harmlessly() -> None:
    (issue,) = validate(patient(**{"\ud800" + "x" * 1000: 1}))
    assert len(dump(issue.as_fhir())) < 400


def test_validation_changes_nothing() -> None:
    for resource in list(examples().values())[:40]:
        before = copy.deepcopy(resource)
        validate(resource)
        assert resource == before


def test_every_resource_type_of_r4_can_be_checked() -> None:
    for type_ in sorted(RESOURCE_TYPES):
        codes = {issue.code for issue in validate({"resourceType": type_})}
        assert codes <= {"required", "invariant"}, type_


KEYS = [
    "resourceType",
    "id",
    "extension",
    "url",
    "valueCode",
    "reference",
    "type",
    "contained",
    "coding",
    "system",
    "code",
    "value",
    "given",
    "_given",
    "period",
    "start",
    "end",
    "name",
    "entry",
    "resource",
    "part",
    "parameter",
    "item",
    "linkId",
    "identifier",
    "contained",
    "status",
    "text",
    "div",
    "meta",
    "security",
]
values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5) | st.sampled_from(["#a", "Patient/1", "2026"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(RESOURCE_TYPES)), st.dictionaries(st.sampled_from(KEYS), values, max_size=6))
def test_any_json_is_judged_and_never_breaks_the_judge(type_: str, members: dict[str, Any]) -> None:
    for issue in validate({**members, "resourceType": type_}):
        assert issue.expression[0].startswith(type_)
        assert "#" not in issue.code


def test_numbers_parsed_from_json_are_judged_as_sent() -> None:
    raw = b'{"resourceType":"Observation","status":"final","code":{"text":"x"},"valueQuantity":{"value":1.00}}'
    assert validate(parse(raw)) == []
    assert found(parse(raw.replace(b'"value":1.00', b'"value":01'.replace(b"01", b'"1"')))) == [
        ("value", "Observation.value.value")
    ]
