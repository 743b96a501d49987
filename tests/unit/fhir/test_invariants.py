"""Every constraint of R4 on a type that is held: implemented, checked by other means, or left out for a reason."""

from __future__ import annotations

from typing import Any, Final

import pytest

from shared.fhir.definitions import TYPES
from shared.fhir.invariants import RULES
from shared.fhir.json import Resource
from shared.fhir.validation import validate
from tests.data import examples, shared_data
from tools.generate_definitions import Package

BY_STRUCTURE: Final = {
    "dom-2": "contained resources contain none",
    "dom-3": "what is contained is referred to",
    "dom-4": "what is contained has no version",
    "dom-5": "what is contained has no labels",
    "ele-1": "every element has a value or children",
    "ref-1": "a reference to what is contained finds it",
    "txt-1": "a narrative is XHTML of a few elements",
    "txt-2": "a narrative says something",
}
"""Checked while the tree is walked (`shared.fhir.validation`, `shared.fhir.xhtml`); tests there say so by each."""

NEVER_FAIL: Final = {f"ppc-{n}": "asks for the code system 'something', which nobody has" for n in (2, 3, 4, 5)}
NOT_HELD: Final = "ElementDefinition"
"""Its constraints (eld-*): no type that is held has elements of this type; it is in StructureDefinitions only."""


def constraints() -> set[tuple[str, str, str]]:
    """Return (type, path, key) of each constraint of severity error on held types and on datatypes."""
    [core] = [Package(file) for file in shared_data("packages").glob("hl7.fhir.r4.core*")]
    return {
        (definition["type"], element["path"].partition(".")[2], constraint["key"])
        for definition in core.of("StructureDefinition")
        if definition.get("derivation") != "constraint"
        and definition["kind"] != "logical"
        and (definition["kind"] != "resource" or definition["type"] in TYPES)
        for element in definition.get("snapshot", {}).get("element", ())
        for constraint in element.get("constraint", ())
        if constraint["severity"] == "error"
    }


def test_every_constraint_of_what_is_held_is_checked_or_has_a_reason() -> None:
    implemented = {(type_, path, rule.key) for (type_, path), rules in RULES.items() for rule in rules}
    elsewhere_in = {"org-2", "org-3", "ras-1", "mea-1", "mrp-2"}  # checked on the element above or below
    keys = {(type_, key) for type_, _, key in implemented}
    asked = constraints()
    missing = {
        (type_, path, key)
        for type_, path, key in asked
        if (type_, path, key) not in implemented
        and not (key in elsewhere_in and (type_, key) in keys)
        and key not in {*BY_STRUCTURE, *NEVER_FAIL, "ext-1"}
        and type_ != NOT_HELD
    }
    assert missing == set()
    assert len({key for _, _, key in asked}) > 100
    unknown = keys - {(type_, key) for type_, _, key in asked}
    assert unknown == set()


def wrong(type_: str, **members: Any) -> Resource:
    return {"resourceType": type_, **members}


def condition(**members: Any) -> Resource:
    return wrong("Condition", subject={"reference": "Patient/1"}, **members)


UCUM = "http://unitsofmeasure.org"
CONTAINED = {"resourceType": "Organization", "id": "o", "name": "O"}
BROKEN: Final[dict[str, Resource]] = {
    "age-1": condition(onsetAge={"value": -1, "code": "a", "system": UCUM}),
    "drt-1": wrong("Encounter", status="planned", **{"class": {"code": "AMB"}},
                   length={"value": 1, "code": "h", "system": "urn:x"}),
    "qty-3": condition(onsetAge={"value": 1, "code": "a"}),
    "ctm-1": wrong("CareTeam", participant=[{"member": {"reference": "Patient/1"},
                                             "onBehalfOf": {"reference": "Organization/1"}}]),
    "ras-1": wrong("RiskAssessment", status="final", subject={"reference": "Patient/1"},
                   prediction=[{"probabilityRange": {"low": {"value": 1, "code": "mg", "system": UCUM}}}]),
    "mea-1": wrong("Measure", status="draft", group=[{"stratifier": [{"id": "a"}]}]),
    "mrp-2": wrong("MeasureReport", status="complete", type="summary", measure="urn:m", period={"start": "2026"},
                   group=[{"stratifier": [{"stratum": [{"id": "a"}]}]}]),
    "cpb-9": wrong("CapabilityStatement", status="draft", date="2026", kind="instance", fhirVersion="4.0.1",
                   format=["json"], implementation={"description": "x"},
                   rest=[{"mode": "server", "resource": [{"type": "Patient"}, {"type": "Patient"}]}]),
    "cpb-14": wrong("CapabilityStatement", status="draft", date="2026", kind="instance", fhirVersion="4.0.1",
                    format=["json"], description="x", rest=[{"mode": "server"}]),
    "dom-2": wrong("Patient", managingOrganization={"reference": "#o"},
                   contained=[{**CONTAINED, "contained": [{"resourceType": "Location", "id": "l"}]}]),
    "dom-3": wrong("Patient", contained=[CONTAINED]),
    "dom-4": wrong("Patient", managingOrganization={"reference": "#o"},
                   contained=[{**CONTAINED, "meta": {"versionId": "1"}}]),
    "dom-5": wrong("Patient", managingOrganization={"reference": "#o"},
                   contained=[{**CONTAINED, "meta": {"security": [{"code": "R"}]}}]),
    "ref-1": wrong("Patient", managingOrganization={"reference": "#o"}),
    "ele-1": wrong("Patient", maritalStatus={}),
    "ext-1": wrong("Patient", extension=[{"url": "urn:x"}]),
    "txt-2": wrong("Patient", text={"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml"> </div>'}),
}  # fmt: skip


@pytest.mark.parametrize("key", sorted(BROKEN))
def test_what_breaks_a_constraint_is_refused_by_its_key(key: str) -> None:
    said = [issue.diagnostics for issue in validate(BROKEN[key])]
    assert any(f"rule {key}" in one for one in said), said


def test_the_examples_keep_every_constraint() -> None:
    for name, resource in examples().items():
        assert validate(resource) == [], name
