"""References: what a literal says, and where a resource holds any."""

from __future__ import annotations

import pytest

from shared.fhir.references import Literal, parse_literal, references_of, relative_references, target_type
from tests.data import examples

UUID = "urn:uuid:61ebe359-bfdc-4613-8bf2-c5e300945f0a"


@pytest.mark.parametrize(
    ("literal", "expected"),
    [
        ("Patient/1", Literal("Patient", "1")),
        ("Patient/1/_history/2", Literal("Patient", "1", "2")),
        (
            "https://a.example/fhir/Patient/1",
            Literal("Patient", "1", "", "https://a.example/fhir/", "https://a.example/fhir/Patient/1"),
        ),
        ("#med", Literal(fragment="med")),
        ("#", Literal(fragment="")),
        (UUID, Literal(url=UUID)),
        ("Nonsense/1", Literal(url="Nonsense/1")),
        ("Patient/", Literal(url="Patient/")),
        ("Patient/a b", Literal(url="Patient/a b")),
        ("Patient?identifier=x|1", Literal(url="Patient?identifier=x|1")),
        ("Patient/" + "1" * 65, Literal(url="Patient/" + "1" * 65)),
    ],
)
def test_a_literal_is_read_in_each_of_its_forms(literal: str, expected: Literal) -> None:
    assert parse_literal(literal) == expected


def test_the_type_is_told_by_literal_then_contained_then_type() -> None:
    root = {"resourceType": "Observation", "contained": [{"resourceType": "Device", "id": "d"}]}
    assert target_type({"reference": "Patient/1"}) == "Patient"
    assert target_type({"reference": "#d"}, root) == "Device"
    assert target_type({"reference": "#"}, root) == "Observation"
    assert target_type({"type": "Group", "identifier": {"value": "1"}}) == "Group"
    assert target_type({"reference": UUID}) is None


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'{"reference":"http://us/fhir/Patient/1"}', b'{"reference":"Patient/1"}'),
        (b'{"reference" : "http://us/fhir/Patient/1/_history/2"}', b'{"reference" : "Patient/1/_history/2"}'),
        (b'{"reference":"http://us/fhir2/Patient/1"}', None),
        (b'{"reference":"http://us/fhir/Patient"}', None),
        (b'{"reference":"http://us/fhir/Nonsense/1"}', None),
        (b'{"url":"http://us/fhir/Patient/1"}', None),
        (rb'{"div":"\"reference\":\"http://us/fhir/Patient/1\""}', None),
        (b'{"fullUrl":"http://us/fhir/Patient/1","x":{"reference":"http://us/fhir/Patient/1"}}', None),
    ],
)
def test_a_reference_to_oneself_is_relative(raw: bytes, said: bytes | None) -> None:
    assert relative_references(raw, "http://us/fhir") == (said or raw)
    assert relative_references(raw, "") == raw


def test_references_are_found_wherever_they_are() -> None:
    observation = {
        "resourceType": "Observation",
        "contained": [{"resourceType": "Specimen", "id": "s", "subject": {"reference": "Patient/2"}}],
        "extension": [{"url": "http://e", "valueReference": {"reference": "Device/1"}}],
        "status": "final",
        "_status": {"extension": [{"url": "http://e", "valueReference": {"reference": "Device/2"}}]},
        "subject": {"reference": "Patient/1"},
        "performer": [{"reference": "Practitioner/1"}, {"identifier": {"assigner": {"reference": "Organization/1"}}}],
        "component": [
            {"code": {"text": "x"}, "extension": [{"url": "e", "valueReference": {"reference": "Device/3"}}]}
        ],
    }
    found = {path: reference.get("reference") for path, reference in references_of(observation)}
    assert found == {
        "Observation.contained[0].subject": "Patient/2",
        "Observation.extension[0].value": "Device/1",
        "Observation.status.extension[0].value": "Device/2",
        "Observation.subject": "Patient/1",
        "Observation.performer[0]": "Practitioner/1",
        "Observation.performer[1]": None,
        "Observation.performer[1].identifier.assigner": "Organization/1",
        "Observation.component[0].extension[0].value": "Device/3",
    }


def test_what_is_found_is_the_resources_own_dict() -> None:
    task = {"resourceType": "Task", "for": {"reference": UUID}}
    next(references_of(task))[1]["reference"] = "Patient/1"
    assert task["for"] == {"reference": "Patient/1"}


def test_every_reference_of_the_examples_is_found() -> None:
    for name, resource in examples().items():
        text_references = sum(1 for _ in _dicts_with_reference(resource))
        found = sum(1 for _, reference in references_of(resource) if "reference" in reference)
        assert found == text_references, name


def _dicts_with_reference(value: object) -> list[object]:
    """Find references by name; a Reference has a `reference` that is a string, and so has nothing else in these."""
    if isinstance(value, list):
        return [found for item in value for found in _dicts_with_reference(item)]
    if not isinstance(value, dict):
        return []
    below = [found for item in value.values() for found in _dicts_with_reference(item)]
    return [value, *below] if isinstance(value.get("reference"), str) else below
