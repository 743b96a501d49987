"""Extraction: what of a resource can be searched for, and whose record it belongs to."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import fhirpathpy
import pytest
from fhirpathpy.models import models
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.fhir.dates import MAX_INSTANT, MIN_INSTANT
from shared.fhir.definitions import RESOURCE_TYPES, TYPES, search_parameters
from shared.fhir.extraction import compartment_key, extract, labels_of
from shared.fhir.index import (
    DateRow,
    IndexRows,
    NumberRow,
    QuantityRow,
    ReferenceRow,
    StringRow,
    TokenRow,
    UriRow,
)
from shared.fhir.json import Resource, dump, parse
from shared.fhir.numbers import MAX_NUMBER, MIN_NUMBER
from shared.fhir.paths import compile_path
from shared.fhir.query import parse_search
from tests.data import examples, synthea_bundles

LOINC = "http://loinc.org"
UCUM = "http://unitsofmeasure.org"
PASCAL = "kilogram.meter-1.second-2"
SYSTOLIC = f"8480-6|{LOINC}"


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


def rows_of(rows: IndexRows, code: str) -> list[Any]:
    kinds = (rows.token, rows.string, rows.reference, rows.date, rows.number, rows.quantity, rows.uri)
    return [row for kind in kinds for row in kind if row.parameter == code]


OBSERVATION = parse(
    b"""{"resourceType":"Observation","id":"o1",
    "meta":{"profile":["http://p|1"],"source":"http://s","tag":[{"system":"t","code":"a"}],"security":[{"code":"R"}]},
    "status":"final","code":{"coding":[{"system":"http://loinc.org","code":"85354-9"},{"code":"bp"}],"text":"BP"},
    "subject":{"reference":"Patient/p1/_history/3"},"encounter":{"reference":"https://other.example/fhir/Encounter/e"},
    "effectiveDateTime":"2026-11-22T10:00:00+01:00",
    "component":[
     {"code":{"coding":[{"system":"http://loinc.org","code":"8480-6"}]},
      "valueQuantity":{"value":120.0,"unit":"mmHg","system":"http://unitsofmeasure.org","code":"mm[Hg]"}},
     {"code":{"coding":[{"system":"http://loinc.org","code":"8462-4"}]},
      "valueQuantity":{"value":80,"comparator":"<","code":"mm[Hg]","system":"http://unitsofmeasure.org"}}]}"""
)


def test_each_kind_of_value_becomes_its_rows() -> None:
    rows = extract(OBSERVATION)
    assert rows_of(rows, "code") == [TokenRow("code", LOINC, "85354-9"), TokenRow("code", "", "bp")]
    assert rows_of(rows, "status") == [TokenRow("status", "", "final")]
    assert rows_of(rows, "patient") == [ReferenceRow("patient", "Patient", "p1", "")]
    assert rows_of(rows, "encounter") == [ReferenceRow("encounter", "", "", "https://other.example/fhir/Encounter/e")]
    assert rows_of(rows, "date") == [DateRow("date", at(2026, 11, 22, 9), at(2026, 11, 22, 9, 0, 1))]
    assert rows_of(rows, "component-code") == [
        TokenRow("component-code", LOINC, "8480-6"),
        TokenRow("component-code", LOINC, "8462-4"),
    ]
    assert rows_of(rows, "component-value-quantity") == [
        QuantityRow("component-value-quantity", Decimal("119.95"), Decimal("120.05"), UCUM, "mm[Hg]"),
        QuantityRow("component-value-quantity", Decimal("119.95"), Decimal("120.05"), "", "mmHg"),
        QuantityRow("component-value-quantity", MIN_NUMBER, Decimal("80.5"), UCUM, "mm[Hg]"),
    ]
    assert rows_of(rows, "component-value-quantity:ucum") == [
        QuantityRow("component-value-quantity:ucum", Decimal("15998.6864898"), Decimal("15998.6864898"), "", PASCAL),
        QuantityRow("component-value-quantity:ucum", MIN_NUMBER, Decimal("10732.4521869"), "", PASCAL),
    ]
    assert rows_of(rows, "component-code-value-quantity") == [
        QuantityRow("component-code-value-quantity", Decimal("119.95"), Decimal("120.05"), SYSTOLIC, "mm[Hg]"),
        QuantityRow("component-code-value-quantity", Decimal("119.95"), Decimal("120.05"), SYSTOLIC, "mmHg"),
        QuantityRow("component-code-value-quantity", MIN_NUMBER, Decimal("80.5"), f"8462-4|{LOINC}", "mm[Hg]"),
    ]
    assert rows_of(rows, "combo-code-value-quantity") == rows_of(rows, "code-value-quantity") == []
    assert rows_of(rows, "_profile") == [UriRow("_profile", "http://p|1")]
    assert rows_of(rows, "_source") == [UriRow("_source", "http://s")]
    assert rows_of(rows, "_tag") == [TokenRow("_tag", "t", "a")]
    assert rows_of(rows, "_security") == [TokenRow("_security", "", "R")]
    assert rows_of(rows, "_id") == []
    assert rows_of(rows, "value-quantity") == []


def test_a_name_is_found_by_each_of_its_parts() -> None:
    patient = {"resourceType": "Patient", "name": [{"family": "Müller", "given": ["Ana ", "B"], "prefix": ["Dr."]}]}
    assert [row.value for row in extract(patient).string if row.parameter == "name"] == ["muller", "ana", "b", "dr."]
    assert rows_of(extract(patient), "family") == [
        StringRow("family", "muller", "Müller"),
    ]


def test_a_contact_point_is_found_by_its_system_only() -> None:
    patient = {
        "resourceType": "Patient",
        "telecom": [{"system": "phone", "value": "1"}, {"system": "email", "value": "a@b"}],
    }
    rows = extract(patient)
    assert rows_of(rows, "phone") == [TokenRow("phone", "phone", "1")]
    assert rows_of(rows, "email") == [TokenRow("email", "email", "a@b")]
    assert len(rows_of(rows, "telecom")) == 2


@pytest.mark.parametrize(
    ("member", "code"),
    [
        ({"deceasedBoolean": True}, "true"),
        ({"deceasedDateTime": "2020"}, "true"),
        ({"deceasedBoolean": False}, "false"),
        ({}, "false"),
    ],
)
def test_whether_a_patient_is_dead_is_always_known(member: Resource, code: str) -> None:
    assert rows_of(extract({"resourceType": "Patient", **member}), "deceased") == [TokenRow("deceased", "", code)]


def test_extensions_of_us_core_are_found() -> None:
    race = {
        "url": "http://hl7.org/fhir/us/core/StructureDefinition/us-core-race",
        "extension": [
            {"url": "ombCategory", "valueCoding": {"system": "urn:oid:2.16.840.1.113883.6.238", "code": "2106-3"}},
            {"url": "text", "valueString": "White"},
        ],
    }
    assert rows_of(extract({"resourceType": "Patient", "extension": [race]}), "race") == [
        TokenRow("race", "", "2106-3")
    ]


def test_a_canonical_is_found_with_and_without_its_version() -> None:
    response = {"resourceType": "QuestionnaireResponse", "questionnaire": "http://q/phq-9|2.0"}
    assert [row.url for row in extract(response).reference] == ["http://q/phq-9|2.0", "http://q/phq-9"]


def test_a_reference_of_another_type_is_no_patient() -> None:
    encounter = {"resourceType": "Encounter", "subject": {"reference": "Group/g"}}
    assert rows_of(extract(encounter), "subject") == [ReferenceRow("subject", "Group", "g", "")]
    assert rows_of(extract(encounter), "patient") == []


def test_a_contained_or_a_logical_reference_makes_no_row() -> None:
    for reference in ({"reference": "#p"}, {"identifier": {"value": "1"}}, {"display": "someone"}):
        assert extract({"resourceType": "Observation", "subject": reference}).reference == []


def test_open_periods_and_ranges_have_no_end() -> None:
    rows = extract({"resourceType": "Encounter", "period": {"start": "2026"}})
    assert rows_of(rows, "date") == [DateRow("date", at(2026, 1, 1), MAX_INSTANT)]
    rows = extract({"resourceType": "Encounter", "period": {"end": "2026"}})
    assert rows_of(rows, "date") == [DateRow("date", MIN_INSTANT, at(2027, 1, 1))]
    condition = {"resourceType": "Condition", "onsetRange": {"low": {"value": 5, "unit": "a"}}}
    assert rows_of(extract(condition), "onset-age") == [
        QuantityRow("onset-age", Decimal("4.5"), MAX_NUMBER, "", ""),
        QuantityRow("onset-age", Decimal("4.5"), MAX_NUMBER, "", "a"),
    ]


def test_sampled_data_are_found_by_their_limits() -> None:
    sampled = {
        "origin": {"value": 10, "unit": "mV"},
        "period": 1,
        "factor": Decimal("0.5"),
        "dimensions": 1,
        "data": "2 E 8 -4",
    }
    rows = extract({"resourceType": "Observation", "valueSampledData": sampled})
    assert rows_of(rows, "value-quantity")[0] == QuantityRow(
        "value-quantity", Decimal("7.95"), Decimal("14.05"), "", ""
    )


def test_a_probability_is_a_number() -> None:
    risk = {"resourceType": "RiskAssessment", "prediction": [{"probabilityDecimal": Decimal("0.02")}]}
    assert extract(risk).number == [NumberRow("probability", Decimal("0.015"), Decimal("0.025"))]


def test_no_two_rows_are_equal() -> None:
    coding = {"system": LOINC, "code": "1"}
    rows = extract({"resourceType": "Observation", "code": {"coding": [coding, dict(coding)]}})
    assert rows_of(rows, "code") == [TokenRow("code", LOINC, "1")]


def test_what_is_not_held_or_deleted_has_no_rows_but_what_is_always_so() -> None:
    assert extract({"resourceType": "Claim", "status": "active"}) == IndexRows()
    assert extract({"resourceType": "Observation"}) == IndexRows()


def test_a_value_that_cannot_be_compared_makes_no_row() -> None:
    assert extract({"resourceType": "Observation", "effectiveDateTime": "2026-02-30"}).date == []
    assert extract({"resourceType": "Observation", "valueQuantity": {"value": Decimal("1e999")}}).quantity == []


def test_every_expression_compiles_and_leads_somewhere() -> None:
    for type_ in sorted(TYPES):
        for parameter in search_parameters(type_).values():
            assert compile_path(parameter.expression, type_), (type_, parameter)


@pytest.mark.parametrize(
    "expression", ["Patient.name.", "Patient.name.trim()", "Patient.name + 1", "Patient.(", "Patient.name is"]
)
def test_an_expression_outside_the_subset_is_refused_when_it_is_compiled(expression: str) -> None:
    with pytest.raises(ValueError, match="understood"):
        compile_path(expression, "Patient")


def test_an_independent_fhirpath_engine_finds_the_same_values() -> None:
    by_type: dict[str, list[Resource]] = {}
    for _, resource in sorted(examples().items()):
        by_type.setdefault(resource["resourceType"], []).append(resource)
    compared = 0
    for type_ in sorted(TYPES & set(by_type)):
        for parameter in search_parameters(type_).values():
            # The engine knows neither resolve(), hasExtension() nor 'Resource', and takes 'as' for one value only.
            if re.search(r"resolve\(|hasExtension\(|^Resource\.", parameter.expression):
                continue
            expression = re.sub(r"\(([\w.]+) as (\w+)\)", r"\1.ofType(\2)", parameter.expression)
            engine = fhirpathpy.compile(expression.replace(".as(", ".ofType("), models["r4"])
            for resource in by_type[type_][:5]:
                mine = [v for b in compile_path(parameter.expression, type_) for v in b.values(resource)]
                assert same(engine(resource)) == same(mine), (resource.get("id"), parameter)
                compared += 1
    assert compared > 1500


def same(values: list[Any]) -> list[bytes]:
    """Return values to compare; the engine gives the id and extensions of a primitive as one more value."""
    return sorted(
        {dump(value) for value in values if not isinstance(value, dict) or value.keys() - {"id", "extension"}}
    )


def test_every_row_of_real_data_is_found_by_a_search_for_it() -> None:
    """The values in the index can all be written as a search that `parse_search` understands the same way."""
    for resource in [entry["resource"] for bundle in list(synthea_bundles().values())[:2] for entry in bundle["entry"]]:
        for row in extract(resource).token:
            # The type in front of an identifier's value is written as a search writes it.
            system = row.system if row.parameter.endswith(":of-type") else escaped(row.system)
            text = f"{system}|{escaped(row.code)}"
            query = parse_search(resource["resourceType"], [(row.parameter, text)], strict=True)
            value: Any = query.criteria[0].values[0]
            assert (value.system, value.code or "") == (row.system, row.code)


def escaped(text: str) -> str:
    return re.sub(r"([\\,|$])", r"\\\1", text)


@pytest.mark.parametrize(
    ("resource", "key"),
    [
        ({"resourceType": "Patient", "link": [{"other": {"reference": "Patient/2"}}]}, "Patient/i"),
        ({"resourceType": "Observation", "subject": {"reference": "Patient/1"}}, "Patient/1"),
        ({"resourceType": "Observation", "subject": {"reference": "Patient/1/_history/4"}}, "Patient/1"),
        (
            {
                "resourceType": "Observation",
                "performer": [{"reference": "Patient/2"}],
                "subject": {"reference": "Patient/1"},
            },
            "Patient/1",
        ),
        ({"resourceType": "Observation", "performer": [{"reference": "Patient/2"}]}, "Patient/2"),
        ({"resourceType": "Observation", "subject": {"reference": "https://o.example/Patient/1"}}, "Observation/i"),
        ({"resourceType": "Observation", "subject": {"reference": "#p"}}, "Observation/i"),
        ({"resourceType": "Observation", "subject": {"reference": "urn:uuid:1"}}, "Observation/i"),
        ({"resourceType": "Observation", "subject": {"reference": "Group/1"}}, "Observation/i"),
        (
            {
                "resourceType": "Coverage",
                "subscriber": {"reference": "Patient/parent"},
                "beneficiary": {"reference": "Patient/child"},
            },
            "Patient/child",
        ),
        (
            {
                "resourceType": "Appointment",
                "participant": [{"actor": {"reference": "Practitioner/1"}}, {"actor": {"reference": "Patient/1"}}],
            },
            "Patient/1",
        ),
        ({"resourceType": "Task", "for": {"reference": "Patient/1"}}, "Patient/1"),
        ({"resourceType": "Device", "patient": {"reference": "Patient/1"}}, "Patient/1"),
        ({"resourceType": "Consent", "patient": {"reference": "Patient/1"}}, "Patient/1"),
        ({"resourceType": "Group", "member": [{"entity": {"reference": "Patient/1"}}]}, "Group/i"),
        ({"resourceType": "Provenance", "target": [{"reference": "Patient/1"}]}, "Patient/1"),
        ({"resourceType": "Medication"}, "Medication/i"),
        (None, "Observation/i"),
    ],
)
def test_the_key_is_the_patient_whom_a_resource_is_about(resource: Resource | None, key: str) -> None:
    type_ = "Observation" if resource is None else resource["resourceType"]
    assert compartment_key(resource, type_, "i") == key


def test_labels_are_the_codes_of_meta_security() -> None:
    labelled = {
        "resourceType": "Observation",
        "meta": {"security": [{"code": "R"}, {"system": "x"}, {"code": "R"}, {"code": "PSY"}]},
    }
    assert labels_of(labelled) == ("R", "PSY")
    assert labels_of({"resourceType": "Observation"}) == ()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(TYPES)),
    st.sampled_from(sorted(RESOURCE_TYPES)),
    st.from_regex(r"[A-Za-z0-9.-]{1,64}", fullmatch=True),
)
def test_a_reference_row_carries_type_and_id_as_written(type_: str, target: str, id_: str) -> None:
    resource = {"resourceType": type_, "subject": {"reference": f"{target}/{id_}"}}
    for row in extract(resource).reference:
        assert (row.target_type, row.target_id, row.url) == (target, id_, "")
