"""The definition tables: small, complete, with numbers that never change."""

from __future__ import annotations

import re

import pytest

from shared.fhir import definitions
from shared.fhir.definitions import (
    FOLDER,
    PARAMETER_IDS,
    RESOURCE_TYPES,
    TYPE_IDS,
    TYPES,
    compartment_parameters,
    other_parameters,
    search_parameters,
    type_table,
    value_set,
)
from shared.fhir.tree import PRIMITIVES, node


def test_numbers_are_unique_and_fit_a_smallint() -> None:
    for numbers in (TYPE_IDS, PARAMETER_IDS):
        assert len(set(numbers.values())) == len(numbers)
        assert all(0 < number < 2**15 for number in numbers.values())


def test_every_held_type_has_a_number_a_tree_and_the_common_parameters() -> None:
    assert len(TYPES) == 57
    assert TYPES < RESOURCE_TYPES
    for type_ in TYPES:
        table = type_table(type_)
        assert table is not None
        assert table.kind == "resource"
        common = {"_id", "_lastUpdated", "_tag", "_profile", "_security", "_source"}
        assert common <= set(search_parameters(type_))
        assert set(search_parameters(type_)) <= set(PARAMETER_IDS)


def test_every_type_that_an_element_names_has_a_tree() -> None:
    tables = definitions._type_tables()
    for type_ in tables:
        table = type_table(type_)
        assert table is not None
        for path in table.elements:
            for member in node(type_, path).members.values():
                assert member.is_primitive or member.type in tables or member.type == "Resource", member
                assert member.type in PRIMITIVES or member.type == "Resource" or node(member.type, member.path)


def test_the_tables_are_small_and_hold_no_prose() -> None:
    sizes = {file.name: file.stat().st_size for file in FOLDER.glob("*.json")}
    assert sum(sizes.values()) < 1_000_000
    for name in ("types.json", "search.json"):
        words = re.findall(r'"((?:[a-z]+ ){6,})', (FOLDER / name).read_text("utf-8"))
        assert words == []


def test_a_search_parameter_has_the_part_of_its_expression_that_is_about_the_type() -> None:
    parameter = search_parameters("Condition")["code"]
    assert parameter.expression == "Condition.code"
    assert parameter.url == "http://hl7.org/fhir/SearchParameter/clinical-code"
    assert search_parameters("Observation")["patient"].targets == ("Group", "Patient")


def test_what_cannot_be_searched_yet_is_known_by_name() -> None:
    assert "near" not in search_parameters("Location")
    assert other_parameters("Location")["near"] == "special"
    assert "_text" in other_parameters("Patient")


def test_us_core_adds_its_own_parameters() -> None:
    assert {"race", "ethnicity"} <= set(search_parameters("Patient"))
    assert "asserted-date" in search_parameters("Condition")


def test_a_type_that_is_not_held_has_no_parameters_but_a_number() -> None:
    assert search_parameters("Claim") == {}
    assert definitions.type_id("Claim") > 0
    with pytest.raises(KeyError):
        definitions.type_id("Nonsense")


def test_the_patient_compartment_is_hl7s() -> None:
    assert compartment_parameters("Observation") == ("subject", "performer")
    assert compartment_parameters("Location") == ()
    assert "encounter" in compartment_parameters("Observation", "Encounter")


def test_the_codes_of_a_required_binding_are_listed_by_system() -> None:
    codes = value_set("observation-status")
    assert codes is not None
    assert codes["http://hl7.org/fhir/observation-status"] >= {"final", "entered-in-error"}
    assert value_set("mimetypes") is None


def test_no_code_of_a_licensed_system_is_held() -> None:
    text = (FOLDER / "codes.json").read_text("utf-8")
    assert "snomed" not in text
    assert "loinc.org" not in text
