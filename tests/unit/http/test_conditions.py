"""Conditions of writes: what they may ask, what makes two of them the same, and what surely is not meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.fhir.extraction import extract
from shared.fhir.outcome import BadRequest
from shared.http.conditions import as_query, claim_of, conditional_reference, may_find, parse_condition

PATIENT = {
    "resourceType": "Patient",
    "active": True,
    "identifier": [{"system": "urn:mrn", "value": "7"}],
    "name": [{"family": "Kerr"}],
}


def parsed(text):
    return parse_condition("Patient", text, where="http.url")


@pytest.mark.parametrize("said", ["identifier=urn:mrn|7", "?identifier=urn:mrn|7", "Patient?identifier=urn:mrn|7"])
def test_a_condition_is_the_same_however_it_is_written(said):
    assert claim_of(parsed(said)) == "Patient?identifier=urn:mrn|7"
    assert claim_of(parsed(as_query(parsed(said)))) == claim_of(parsed(said))


def test_the_order_of_parameters_makes_no_other_condition():
    assert claim_of(parsed("family=Kerr&active=true")) == claim_of(parsed("active=true&family=Kerr"))


@pytest.mark.parametrize(
    "said",
    [
        "",
        "?",
        "_sort=family",
        "_count=1",
        "_include=*",
        "_has:Goal:patient:_id=1",
        "organization.name=x",
        "x=1",
        b"\xff",
    ],
)
def test_a_condition_that_is_none_or_looks_elsewhere_is_refused_with_its_place(said):
    with pytest.raises(BadRequest) as refused:
        parsed(said)
    assert {place for issue in refused.value.issues for place in issue.expression} == {"http.url"}


@pytest.mark.parametrize(
    ("said", "may"),
    [
        ("identifier=urn:mrn|7", True),
        ("identifier=7", True),
        ("identifier=urn:mrn|", True),
        ("identifier=urn:mrn|8,urn:mrn|7", True),
        ("identifier:not=urn:mrn|8", True),
        ("family=Nobody", True),
        ("identifier=urn:mrn|8", False),
        ("identifier=|7", False),
        ("identifier=urn:mrn|7&active=false", False),
    ],
)
def test_a_resource_is_passed_by_only_where_a_code_of_the_condition_is_surely_another(said, may):
    assert may_find(parsed(said), extract(PATIENT)) is may


@given(st.text(max_size=30))
def test_only_type_and_query_make_a_conditional_reference(text):
    asked = conditional_reference(text)
    assert asked is None or text == f"{asked[0]}?{asked[1]}"
    assert conditional_reference("Patient?identifier=a|1") == ("Patient", "identifier=a|1")
    assert conditional_reference("http://x.example/Patient?identifier=a") is None
