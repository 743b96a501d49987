from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.security.bearer import caller_of
from shared.security.caller import Caller
from shared.security.scopes import LETTERS, ScopeRefused, parse_scope, parse_scopes, wider_than
from shared.security.tokens import TokenRefused
from shared.store.access import EVERYTHING, Grant

LETTER_SETS = st.sets(st.sampled_from(LETTERS), min_size=1)


@given(
    context=st.sampled_from(["patient", "user", "system"]),
    type_=st.sampled_from(["*", "Observation", "Patient", "MedicationAdministration"]),
    letters=LETTER_SETS,
)
def test_a_scope_of_version_2_says_again_what_it_was_read_from(context, type_, letters):
    text = f"{context}/{type_}.{''.join(letter for letter in LETTERS if letter in letters)}"
    assert str(parse_scope(text)) == text


@pytest.mark.parametrize(("v1", "v2"), [("read", "rs"), ("write", "cud"), ("*", "cruds")])
def test_a_scope_of_version_1_is_read_as_version_2(v1, v2):
    assert parse_scope(f"user/Observation.{v1}") == parse_scope(f"user/Observation.{v2}")


@pytest.mark.parametrize("text", ["openid", "fhirUser", "launch/patient", "offline_access", "kap/operate"])
def test_what_is_not_about_resources_is_not_read_as_if_it_were(text):
    assert parse_scope(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "user/Observation",
        "user/Observation.",
        "user/Observation.sr",
        "user/Observation.rr",
        "user/Observation.x",
        "user/observation.r",
        "user/Nothing.r",
        "user/*.rs?category=vital-signs",
        "user/Observation.rs?",
        "user/Observation.rs?no-such=1",
        "user/Observation.rs?_count=1",
        "user/Observation.rs?_include=*",
        "user/Observation.rs?code:in=http://x/ValueSet/y",
        "user/Encounter.$Start",
        "user/Encounter.$start?status=x",
        "patient/../Observation.r",
    ],
)
def test_a_scope_that_means_nothing_is_refused_and_allows_nothing(text):
    with pytest.raises(ScopeRefused):
        parse_scope(text)
    assert parse_scopes(text) == ()


@pytest.mark.parametrize(
    ("asked", "registered", "wider"),
    [
        ("system/Observation.rs", "system/*.cruds", []),
        ("system/Observation.rs", "system/Observation.r system/Observation.s", []),
        ("system/Observation.rs?category=vital-signs", "system/Observation.rs", []),
        ("system/Observation.rs?category=a&status=final", "system/Observation.rs?status=final", []),
        ("system/Observation.rs", "system/Observation.rs?status=final", ["system/Observation.rs"]),
        ("system/Observation.cruds", "system/Observation.rs", ["system/Observation.cruds"]),
        ("system/Observation.rs", "user/Observation.rs", ["system/Observation.rs"]),
        ("system/*.rs", "system/Observation.rs", ["system/*.rs"]),
        ("user/Encounter.$start-dose", "user/Encounter.$*", []),
        ("user/Encounter.$start-dose", "user/Encounter.cruds", ["user/Encounter.$start-dose"]),
        ("kap/operate", "kap/operate", []),
        ("kap/operate", "system/*.cruds", ["kap/operate"]),
        ("openid", "system/*.cruds", ["openid"]),
    ],
)
def test_a_scope_is_within_what_is_registered_or_it_is_named_as_wider(asked, registered, wider):
    assert wider_than(asked, [registered]) == wider


@given(asked=LETTER_SETS, registered=LETTER_SETS)
def test_no_permission_is_within_a_registration_that_does_not_have_it(asked, registered):
    def of(letters):
        return f"user/Patient.{''.join(letter for letter in LETTERS if letter in letters)}"

    assert (wider_than(of(asked), [of(registered)]) == []) == (asked <= registered)


def caller(scope, **more):
    return Caller("default", client="app", scopes=parse_scopes(scope), **more)


def test_nobody_and_somebody_without_scopes_see_nothing():
    for who in (Caller("default"), caller("openid fhirUser")):
        assert not any(who.may("Patient", letter) for letter in LETTERS)
        assert who.access("r").grants == {}


def test_a_permission_is_of_its_own_letter_and_type():
    who = caller("user/Observation.r user/Patient.s")
    assert (who.may("Observation", "r"), who.may("Observation", "s"), who.may("Patient", "r")) == (True, False, False)


def test_a_patients_scope_is_about_the_patient_of_the_launch_and_nobody_else():
    assert caller("patient/*.rs", patient="ada").access("s").granted("Observation") == (Grant(frozenset({"ada"})),)
    assert not caller("patient/*.rs").may("Observation", "s")


def test_a_patient_reads_the_directory_but_does_not_write_it():
    who = caller("patient/*.cruds", patient="ada")
    assert who.in_full("Practitioner", "r")
    assert not who.may("Practitioner", "c")
    assert not who.in_full("Patient", "r")


def test_a_token_that_names_no_clinic_is_of_none_but_the_one_that_the_installation_names():
    claims = {"client_id": "app", "scope": "user/*.rs"}
    for nothing in ({}, {"kap_tenant": ""}, {"kap_tenant": ["north"]}, {"kap_tenant": 0}):
        with pytest.raises(TokenRefused, match="for which clinic"):
            caller_of({**claims, **nothing}, origin=None, roles={})
        assert caller_of({**claims, **nothing}, origin=None, roles={}, clinic="south").tenant == "south"
    assert caller_of({**claims, "kap_tenant": "north"}, origin=None, roles={}, clinic="south").tenant == "north"


@pytest.mark.parametrize("user", ["Patient/ada", "https://kap.example/fhir/Patient/ada"])
def test_a_user_who_is_a_patient_sees_by_a_users_scope_what_is_his_own(user):
    claims = {"client_id": "app", "scope": "user/*.cruds", "fhirUser": user, "kap_tenant": "default"}
    who = caller_of(claims, origin=None, roles={}, bases=("https://kap.example/fhir",))
    assert who.access("r").granted("Observation") == (Grant(frozenset({"ada"})),)


@pytest.mark.parametrize(
    "user", ["https://other.example/fhir/Practitioner/1", "https://kap.example/fhir/x/Practitioner/1", "x/Patient/ada"]
)
def test_a_user_of_another_server_is_nobody_here_who_has_the_same_id(user):
    claims = {"client_id": "app", "scope": "user/*.cruds", "fhirUser": user, "kap_tenant": "default"}
    with pytest.raises(TokenRefused, match="another FHIR server"):
        caller_of(claims, origin=None, roles={}, bases=("https://kap.example/fhir",))


@pytest.mark.parametrize("user", ["RelatedPerson/eve", "Person/eve", "Device/d"])
def test_a_user_of_another_kind_sees_nothing_by_a_users_scope(user):
    assert not caller("user/*.cruds", user=user).may("Observation", "r")


def test_what_two_scopes_allow_is_allowed_together():
    who = caller("patient/Observation.rs user/Observation.rs?category=survey", patient="ada")
    assert len(who.access("s").granted("Observation")) == 2
    assert (
        caller("patient/Observation.rs user/Observation.rs", patient="ada").access("s").granted("Observation")
        == EVERYTHING
    )


def test_an_operation_is_named_or_it_is_not_allowed_and_no_patients_scope_allows_one():
    assert caller("user/Encounter.$start-dose").operates("Encounter", "start-dose")
    assert not caller("user/Encounter.$start-dose").operates("Encounter", "discharge")
    assert not caller("user/*.cruds").operates("Encounter", "start-dose")
    assert not caller("patient/Encounter.$*", patient="ada").operates("Encounter", "start-dose")
    assert not caller("user/*.$*", user="Patient/ada").operates("Encounter", "start-dose")
