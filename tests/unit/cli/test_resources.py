"""The resources of a demo course are FHIR R4, and named so that nothing is made twice."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest

from cli.demo import after, bedside, before, resources
from cli.demo.patients import Person, generate, staff
from cli.demo.resources import Calendar, Team
from shared.fhir.json import Resource, dump, parse
from shared.fhir.registrations import is_dea
from shared.fhir.validation import require_valid
from shared.runtime.policy import load_policy

TEAM = Team("Practitioner/1", "Practitioner/2", "Practitioner/3", "Location/1", "Organization/1")
SUBJECT = "Patient/1"
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def everything(person: Person) -> Iterator[Resource]:
    yield before.patient(person, "Organization/1")
    yield from before.conditions(person, SUBJECT)
    yield from before.medications(person, SUBJECT, NOON)
    yield before.weight(person, SUBJECT, NOON)
    yield before.referral(person.key, SUBJECT, NOON, before.reasons(person))
    yield before.screening_answers(person, SUBJECT, NOON)
    yield before.consent(person, SUBJECT, NOON, "Organization/1")
    for kind, days in resources.DAYS.items():
        for index in range(len(days)):
            yield before.appointment(person, kind, index, SUBJECT, NOON, TEAM, "MedicationRequest/1")
    for index, session in enumerate(person.sessions):
        yield before.order(person, SUBJECT, NOON, TEAM, index)
        yield bedside.given_dose(person, index, SUBJECT, "Encounter/1", "MedicationRequest/1", TEAM.nurse, NOON)
        key = f"{person.key}-{index}"
        yield before.pdmp_query(person, index, SUBJECT, TEAM.prescriber, NOON)
        yield bedside.pre_dose(key, SUBJECT, "Encounter/1", NOON, TEAM.nurse, person.escort)
        yield bedside.looked(key, SUBJECT, "Encounter/1", TEAM.nurse, 15, NOON)
        yield bedside.sedation(key, SUBJECT, "Encounter/1", TEAM.nurse, 40, 4, NOON)
        yield bedside.rescue(key, SUBJECT, "Encounter/1", TEAM.nurse, NOON)
        yield bedside.nausea(key, SUBJECT, "Encounter/1", "MedicationAdministration/1", TEAM.nurse, NOON)
        yield after.cadss6(key, session.dissociation, SUBJECT, "Encounter/1", TEAM.therapist, NOON)
        yield after.leaving(key, SUBJECT, "Encounter/1", NOON, TEAM.nurse, person.escort)
        for reading in (*session.held, session.baseline, *session.readings):
            yield from bedside.vitals(key, SUBJECT, "Encounter/1", reading, NOON, TEAM.nurse)
    yield before.escort(person, SUBJECT)
    yield before.pregnancy(person, SUBJECT, NOON)
    yield after.cssrs(person, SUBJECT, TEAM.therapist, NOON)
    for index in range(len(person.pcl5)):
        yield after.pcl5(person, index, SUBJECT, NOON)
    for index in range(len(person.phq9)):
        yield after.phq9(person, index, SUBJECT, NOON)


def name_of(resource: Resource) -> tuple[str, str]:
    named = resource["identifier"]
    return resource["resourceType"], (named[0] if isinstance(named, list) else named)["value"]


@pytest.mark.parametrize("number", range(7))
def test_everything_a_course_sends_is_valid_fhir(number: int) -> None:
    for resource in everything(generate(1, 7)[number]):
        require_valid(parse(dump(resource)))


def test_the_clinic_is_valid_fhir() -> None:
    for resource in (
        resources.clinic(),
        resources.room("1-1", "Organization/1"),
        resources.practice(),
        resources.partner("1-1"),
        resources.works_at("1-1", "Practitioner/4", "Organization/2"),
        resources.duty("1-1", "clinician-on-call", "Practitioner/2", "Organization/1", "Location/1"),
        resources.schedule("1-1", "therapist", "Practitioner/2"),
        *(resources.practitioner("1-1", member) for member in staff("1-1")),
    ):
        require_valid(resource)


def test_no_two_resources_of_a_run_share_a_name() -> None:
    names = [name_of(resource) for person in generate(1, 10) for resource in everything(person)]

    assert len(names) == len(set(names))


@pytest.mark.parametrize("person", generate(1, 10), ids=lambda one: one.route.key)
def test_the_start_of_a_dose_is_valid_fhir_and_says_the_strength_of_what_goes_into_a_vein(person: Person) -> None:
    named = bedside.start_parameters(person, "MedicationRequest/1", 28, NOON, "Patient/1", "Practitioner/3")

    require_valid(named)
    assert [one["name"] for one in named["parameter"]] == [
        *(["strength"] if person.route.key == "iv" else []),
        "medicationRequest",
        "dose",
        "performer",
        "witness",
        "effective",
    ]


@pytest.mark.parametrize("kind", bedside.CONTENT)
def test_what_is_recorded_of_the_psychotherapy_is_valid_fhir_and_the_policys(kind: str) -> None:
    named = bedside.therapy("Practitioner/2", NOON, **bedside.CONTENT[kind])

    require_valid(named)
    items = load_policy().sections["psychotherapy"]["items"]
    said = {one["name"] for one in named["parameter"]} - {"performer", "occurred"}
    assert all(kind in items[name]["visits"] for name in said)
    assert {name for name, item in items.items() if kind in item.get("required", [])} <= said


def test_every_registration_number_has_its_check_digit() -> None:
    assert all(is_dea(resources.dea_number(name)) for name in ("Abara", "Bergman", "Four Rivers KAP Clinic"))


def test_patients_of_one_team_never_meet_its_practitioners_at_one_time() -> None:
    visits = sorted(
        (start := Calendar(date(2026, 10, 1), number).visit(kind, index), start + timedelta(minutes=minutes))
        for number in range(1, resources.PATIENTS_PER_TEAM + 1)
        for kind, minutes in resources.VISIT_MINUTES.items()
        for index in range(len(resources.DAYS[kind]))
    )

    assert all(earlier[1] <= later[0] for earlier, later in pairwise(visits))


def test_the_course_is_over_before_its_last_day() -> None:
    last_visit = max(day for days in resources.DAYS.values() for day in days)

    assert max(last_visit, *resources.PHQ9_DAYS, *resources.PCL5_DAYS) < resources.COURSE_DAYS


@pytest.mark.parametrize("number", range(7))
def test_what_a_course_plans_is_valid_fhir_and_names_a_goal_and_the_team(number: int) -> None:
    asked = before.plan(generate(1, 7)[number], TEAM, NOON)
    require_valid(parse(dump(asked)))
    assert {one["name"] for one in asked["parameter"]} >= {"drug", "route", "goal", "member", "step", "status"}
