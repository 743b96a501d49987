"""What `_summary` and `_elements` leave of a resource."""

from __future__ import annotations

import pytest

from shared.fhir.definitions import TYPES, summary_table
from shared.fhir.json import dump
from shared.fhir.subset import SUBSETTED, View, subset, unknown_elements
from shared.fhir.tree import node
from shared.fhir.validation import validate
from tests.data import examples

OBSERVATION = {
    "resourceType": "Observation",
    "id": "o1",
    "meta": {"versionId": "3", "tag": [{"code": "keep"}]},
    "text": {"status": "generated", "div": "<div/>"},
    "modifierExtension": [{"url": "urn:negated", "valueBoolean": True}],
    "extension": [{"url": "urn:x", "valueBoolean": True}],
    "status": "final",
    "_status": {"id": "s"},
    "code": {"text": "weight"},
    "valueQuantity": {"value": 1},
    "note": [{"text": "fasting"}],
    "component": [
        {"code": {"text": "a"}, "valueString": "b", "interpretation": [{"text": "high"}], "referenceRange": [{}]}
    ],
}


def test_elements_are_what_was_asked_for_and_what_must_not_be_missing():
    shown = subset(OBSERVATION, View(elements=frozenset(("value", "note"))))
    assert list(shown) == [
        "resourceType", "id", "meta", "modifierExtension", "status", "_status", "code", "valueQuantity", "note",
    ]  # fmt: skip
    assert shown["meta"] == {"versionId": "3", "tag": [{"code": "keep"}, SUBSETTED]}
    assert OBSERVATION["meta"]["tag"] == [{"code": "keep"}]


def test_a_summary_has_what_the_definitions_mark_and_of_inner_elements_too():
    shown = subset(OBSERVATION, View("true"))
    assert "note" not in shown
    assert "extension" not in shown
    assert "text" not in shown
    assert shown["component"] == [{"code": {"text": "a"}, "valueString": "b"}]
    assert shown["valueQuantity"] == {"value": 1}


def test_text_is_the_narrative_and_data_is_all_but_it():
    assert list(subset(OBSERVATION, View("text"))) == [
        "resourceType", "id", "meta", "text", "modifierExtension", "status", "_status", "code",
    ]  # fmt: skip
    assert set(OBSERVATION) - set(subset(OBSERVATION, View("data"))) == {"text"}


def test_contained_resources_stay_in_a_summary_that_refers_to_them():
    refers = {
        "resourceType": "Observation",
        "id": "o1",
        "contained": [{"resourceType": "Patient", "id": "p"}],
        "status": "final",
        "code": {"text": "x"},
        "subject": {"reference": "#p"},
    }
    assert "contained" in subset(refers, View("true"))
    assert "contained" not in subset({**refers, "subject": {"display": "Ann"}}, View("true"))


def test_elements_a_type_does_not_have_are_told():
    assert unknown_elements(View(elements=frozenset(("name", "shoe", "value"))), "Patient") == ["shoe", "value"]


def test_the_summary_names_elements_that_there_are():
    for type_ in TYPES:
        for path, names in summary_table(type_).items():
            known = {element.name for element in node(type_, path).elements}
            assert {name.removesuffix("!") for name in names} <= known, (type_, path)


@pytest.mark.parametrize("view", [View("true"), View("text"), View("data"), View(elements=frozenset(("id",)))])
def test_what_is_left_of_an_example_lacks_nothing_mandatory_and_changes_no_digit(view):
    count = 0
    for name, resource in examples().items():
        if resource["resourceType"] not in TYPES or resource["resourceType"] in {"Bundle", "Parameters"}:
            continue
        shown = subset({**resource, "meta": {}}, view)  # without the profiles, which ask for more
        missing = [issue for issue in validate(shown) if issue.code == "required"]
        assert missing == [], name
        if view.summary != "true":  # which looks into elements
            assert all(dump(value) == dump(resource[member]) for member, value in shown.items() if member != "meta")
        count += 1
    assert count > 100
