"""The resources of a demo course are FHIR R4, and named so that nothing is made twice."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest

from cli.demo import resources
from cli.demo.patients import Person, generate, staff
from cli.demo.resources import Calendar, Team
from shared.fhir.json import Resource, dump, parse
from shared.fhir.validation import require_valid

TEAM = Team("Practitioner/1", "Practitioner/2", "Practitioner/3", "Location/1", "Organization/1")
SUBJECT = "Patient/1"
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def everything(person: Person) -> Iterator[Resource]:
    yield resources.patient(person, "Organization/1")
    yield from resources.conditions(person, SUBJECT)
    yield from resources.medications(person, SUBJECT, NOON)
    yield resources.weight(person, SUBJECT, NOON)
    yield resources.referral(person.key, SUBJECT, NOON, resources.reasons(person))
    yield resources.screening_answers(person, SUBJECT, NOON)
    yield resources.consent(person, SUBJECT, NOON, "Organization/1")
    yield resources.plan(person, SUBJECT, NOON)
    for kind, days in resources.DAYS.items():
        for index in range(len(days)):
            yield resources.appointment(person, kind, index, SUBJECT, NOON, TEAM, "MedicationRequest/1")
    for index, session in enumerate(person.sessions):
        yield resources.order(person, SUBJECT, NOON, TEAM, index)
        yield resources.given_dose(person, index, SUBJECT, "Encounter/1", "MedicationRequest/1", TEAM.nurse, NOON)
        yield resources.session_note(person, index, SUBJECT, "Encounter/1", TEAM.therapist, NOON)
        for reading in (session.baseline, *session.readings):
            yield from resources.vitals(f"{person.key}-{index}", SUBJECT, "Encounter/1", reading, NOON, TEAM.nurse)
    for index in range(len(person.phq9)):
        yield resources.phq9(person, index, SUBJECT, NOON)


def name_of(resource: Resource) -> tuple[str, str]:
    named = resource["identifier"]
    return resource["resourceType"], (named[0] if isinstance(named, list) else named)["value"]


@pytest.mark.parametrize("number", range(5))
def test_everything_a_course_sends_is_valid_fhir(number: int) -> None:
    for resource in everything(generate(1, 5)[number]):
        require_valid(parse(dump(resource)))


def test_the_clinic_is_valid_fhir() -> None:
    for resource in (
        resources.clinic(),
        resources.room("1-1", "Organization/1"),
        *(resources.practitioner("1-1", member) for member in staff("1-1")),
    ):
        require_valid(resource)


def test_no_two_resources_of_a_run_share_a_name() -> None:
    names = [name_of(resource) for person in generate(1, 10) for resource in everything(person)]

    assert len(names) == len(set(names))


def test_the_start_of_a_dose_is_valid_fhir() -> None:
    session = generate(1, 1)[0].sessions[0]

    require_valid(resources.start_parameters("MedicationRequest/1", session, "Practitioner/3", NOON))


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

    assert max(last_visit, *resources.PHQ9_DAYS) < resources.COURSE_DAYS
