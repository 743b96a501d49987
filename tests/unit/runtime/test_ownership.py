"""Ownership: every type and discriminator has exactly one owner, and an update does not change it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.fhir.codes import INTAKE_MEASUREMENT, LOINC, SCREENING_QUESTIONNAIRE
from shared.fhir.definitions import TYPES
from shared.fhir.kap import comes_from_elsewhere
from shared.fhir.outcome import Unprocessable
from shared.runtime.ownership import (
    ALONE,
    AUDITED,
    BY_ENCOUNTER,
    CLINICAL,
    QUESTIONNAIRES,
    RAISED,
    UNSTORED,
    WATCHED,
    owner_of,
    types_of,
)

HELD = {
    ("Encounter", "visit"): "sessions",
    ("Encounter", "elsewhere"): "intake",
    ("QuestionnaireResponse", "phq"): "outcomes",
    ("QuestionnaireResponse", "screen"): "intake",
    ("Task", "t"): "outcomes",
    ("Appointment", "a"): "scheduling",
    ("Endpoint", "e"): "delivery",
    ("Group", "e"): "gateway",
    ("Bundle", "e"): "gateway",
}
SERVICES = {"intake", "scheduling", "sessions", "outcomes", "gateway", "delivery"}


def origin_of(type_, id_):
    return HELD.get((type_, id_))


def naming(type_, encounter):
    """Return a resource of a type that goes with its Encounter."""
    reference = {"reference": f"Encounter/{encounter}"}
    resource = {"resourceType": type_}
    if type_ == "DocumentReference":
        return {**resource, "context": {"encounter": [reference]}}
    return {**resource, BY_ENCOUNTER[type_][0]: reference}


def variants():
    """Yield every type with every discriminator, its expected owner from a clinic's user, and from elsewhere."""
    for type_, owner in ALONE.items():
        yield {"resourceType": type_}, owner, owner
    for element, owner in (("appointment", "sessions"), ("episodeOfCare", "sessions"), ("status", "intake")):
        yield {"resourceType": "Encounter", element: [{"reference": "X/1"}]}, owner, "intake"
    for type_ in BY_ENCOUNTER:
        yield naming(type_, "visit"), "sessions", "sessions" if type_ in WATCHED else "intake"
        inside = "sessions" if type_ == "MedicationAdministration" else "intake"
        yield naming(type_, "elsewhere"), inside, "intake"
        yield naming(type_, "unknown"), inside, "intake"
        yield {"resourceType": type_}, inside, "intake"
    score = {"resourceType": "Observation", "derivedFrom": [{"reference": "QuestionnaireResponse/phq"}]}
    yield score, "outcomes", "intake"
    yield {**score, "encounter": {"reference": "Encounter/visit"}}, "outcomes", "outcomes"
    yield {**score, "derivedFrom": [{"reference": "QuestionnaireResponse/screen"}]}, "intake", "intake"
    for canonical, owner in QUESTIONNAIRES.items():
        yield {"resourceType": "QuestionnaireResponse", "questionnaire": canonical}, owner, "intake"
        yield {"resourceType": "QuestionnaireResponse", "questionnaire": f"{canonical}|2"}, owner, "intake"
    yield {"resourceType": "QuestionnaireResponse", "questionnaire": "http://other/q"}, "intake", "intake"
    yield {"resourceType": "QuestionnaireResponse"}, "intake", "intake"
    for type_ in RAISED:
        yield {"resourceType": type_}, "intake", "intake"
    yield {"resourceType": "Task", "id": "t"}, "outcomes", "outcomes"
    yield {"resourceType": "Task", "id": "new", "focus": {"reference": "Appointment/a"}}, "scheduling", "scheduling"
    yield {"resourceType": "Flag", "encounter": {"reference": "Encounter/visit"}}, "sessions", "sessions"
    yield {"resourceType": "DetectedIssue", "implicated": [{"reference": "Encounter/visit"}]}, "sessions", "sessions"
    yield (
        {"resourceType": "Provenance", "target": [{"reference": "Appointment/a/_history/2"}]},
        "scheduling",
        "scheduling",
    )
    for type_, of in (("Endpoint", "delivery"), ("Group", "intake"), ("Bundle", "intake")):
        yield {"resourceType": "Provenance", "target": [{"reference": f"{type_}/e"}]}, of, of
        yield {"resourceType": "Communication", "about": [{"reference": f"{type_}/e"}]}, "intake", "intake"


@pytest.mark.parametrize(("resource", "inside", "outside"), list(variants()))
def test_every_type_and_discriminator_has_exactly_one_owner(resource, inside, outside):
    assert owner_of(resource, origin_of=origin_of) == inside
    assert owner_of(resource, origin_of=origin_of, from_outside=True) == outside
    assert {inside, outside} <= SERVICES


def test_every_held_type_is_owned_or_known_as_a_message():
    owned = {*ALONE, *BY_ENCOUNTER, *RAISED, "Encounter", "QuestionnaireResponse"}
    assert owned | UNSTORED | AUDITED == TYPES
    assert not owned & (UNSTORED | AUDITED)


def test_an_owner_offers_the_types_it_is_given():
    for resource, inside, outside in variants():
        for owner in (inside, outside):
            if owner in CLINICAL:
                assert resource["resourceType"] in types_of(owner)


@pytest.mark.parametrize("type_", sorted(UNSTORED))
def test_a_message_has_no_owner(type_):
    with pytest.raises(Unprocessable):
        owner_of({"resourceType": type_}, origin_of=origin_of)


VITAL = {"resourceType": "Observation", "code": {"coding": [{"system": LOINC, "code": "85354-9"}]}}


def test_a_clinics_vital_sign_without_an_encounter_is_refused():
    with pytest.raises(Unprocessable, match="Encounter"):
        owner_of(VITAL, origin_of=origin_of)


@pytest.mark.parametrize("encounter", ["elsewhere", "unknown"])
def test_a_vital_sign_is_where_its_alarms_sound_whatever_encounter_it_names(encounter):
    reading = {**VITAL, **naming("Observation", encounter), "code": VITAL["code"]}
    assert owner_of(reading, origin_of=origin_of) == "sessions"
    assert owner_of(reading, origin_of=origin_of, from_outside=True) == "intake"


def test_a_vital_sign_is_known_by_its_components_too():
    panel = {"resourceType": "Observation", "code": {"text": "cuff"}, "component": [{"code": VITAL["code"]}]}
    with pytest.raises(Unprocessable, match="Encounter"):
        owner_of(panel, origin_of=origin_of)


def test_an_intake_measurement_says_so_and_is_intakes():
    tagged = {**VITAL, "meta": {"tag": [INTAKE_MEASUREMENT.coding()]}}
    assert owner_of(tagged, origin_of=origin_of) == "intake"


def test_a_vital_sign_brought_along_as_history_is_intakes():
    assert owner_of(VITAL, origin_of=origin_of, from_outside=True) == "intake"


def test_the_category_of_an_observation_decides_nothing():
    for code, category in itertools.product(("survey", "vital-signs", "laboratory"), repeat=2):
        resource = {**naming("Observation", "visit"), "category": [{"coding": [{"code": code}]}, {"text": category}]}
        assert owner_of(resource, origin_of=origin_of) == "sessions"


@pytest.mark.parametrize(
    ("meta", "elsewhere"),
    [({"source": "urn:synthea"}, True), ({"source": "https://kap-exchange.org/x"}, False), ({}, False), (None, False)],
)
def test_history_from_elsewhere_is_known_by_its_source(meta, elsewhere):
    assert comes_from_elsewhere({"resourceType": "Encounter", "meta": meta}) is elsewhere


@given(st.dictionaries(st.sampled_from(["status", "note", "language", "text"]), st.text()))
def test_what_is_no_discriminator_never_changes_the_owner(more):
    resource = {"resourceType": "QuestionnaireResponse", "questionnaire": SCREENING_QUESTIONNAIRE}
    assert owner_of({**more, **resource}, origin_of=origin_of) == "intake"
