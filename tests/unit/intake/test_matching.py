"""How alike two Patients are: grades, symmetry, and what may never be certain."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.intake.rules.matching import GRADES, MatchPolicy, match
from shared.runtime.policy import load_policy

POLICY = load_policy().section("matching", MatchPolicy)
JANE = {
    "resourceType": "Patient",
    "identifier": [{"system": "urn:mrn", "value": "1"}],
    "name": [{"family": "Müller", "given": ["Jane"]}],
    "birthDate": "1984-03-09",
    "gender": "female",
    "telecom": [{"system": "phone", "value": "+1 555 0100"}, {"system": "email", "value": "jane@example.org"}],
    "address": [{"line": ["1 Main St"], "postalCode": "02110"}],
}


def without(*names):
    return {name: value for name, value in JANE.items() if name not in names}


@pytest.mark.parametrize(
    ("other", "grade"),
    [
        (JANE, "certain"),
        (without("identifier"), "certain"),
        (without("identifier", "telecom", "address"), "probable"),
        ({**JANE, "name": [{"family": "MULLER", "given": ["jane"]}]}, "certain"),
        ({**without("telecom", "address"), "identifier": [{"system": "urn:mrn", "value": "2"}]}, "possible"),
        ({**JANE, "name": [{"family": "Müller", "given": ["Joan"]}]}, "possible"),
        ({**JANE, "birthDate": "1984-03-10"}, "possible"),
        ({**without("identifier"), "name": [{"family": "Smith", "given": ["Jane"]}]}, "probable"),
        ({"name": JANE["name"]}, "possible"),
        ({"identifier": JANE["identifier"]}, "probable"),
        ({"birthDate": JANE["birthDate"]}, "certainly-not"),
        ({}, "certainly-not"),
    ],
)
def test_the_grade_is_what_agrees_less_what_speaks_against_it(other, grade):
    assert match(JANE, {"resourceType": "Patient", **other}, POLICY).grade == grade


def test_why_names_every_field_that_counted_with_its_points():
    found = match(JANE, {**without("identifier"), "birthDate": "1984-09-03"}, POLICY)
    assert found.why.startswith("birthDate near (+2), family same (+4), given same (+3)")


def test_an_identifier_that_is_not_used_any_more_says_nothing():
    old = {"identifier": [{"system": "urn:mrn", "value": "1", "use": "old"}]}
    assert match(JANE, old, POLICY).why == ""


names = st.sampled_from(["Jane", "Joan", "J", "Mary", "Müller", "Muller", "Smith"])
patients = st.fixed_dictionaries(
    {},
    optional={
        "identifier": st.lists(
            st.fixed_dictionaries({"system": st.just("s"), "value": st.sampled_from("12")}), max_size=2
        ),
        "name": st.lists(
            st.fixed_dictionaries({}, optional={"family": names, "given": st.lists(names, min_size=1, max_size=2)}),
            max_size=2,
        ),
        "birthDate": st.sampled_from(["1984-03-09", "1984-09-03", "1984-03", "1990-01-01"]),
        "gender": st.sampled_from(["female", "male", "unknown"]),
        "telecom": st.lists(
            st.fixed_dictionaries({"system": st.sampled_from(["phone", "email"]), "value": st.sampled_from("ab")}),
            max_size=2,
        ),
    },
)


@given(patients, patients)
def test_a_match_is_the_same_both_ways_and_its_score_is_between_none_and_one(one, other):
    found = match(one, other, POLICY)
    assert found == match(other, one, POLICY)
    assert 0 <= found.score <= 1


@given(patients, st.sampled_from(["1990-01-02", "1991-05-06"]))
def test_nobody_is_certain_or_probable_who_was_born_on_another_day(one, born):
    other = {**one, "birthDate": born}
    if one.get("birthDate") not in (None, born):
        assert GRADES.index(match(one, other, POLICY).grade) >= GRADES.index("possible")
