"""What is kept here, and what belongs to another service."""

from __future__ import annotations

import pytest

from shared.fhir import codes
from shared.fhir.outcome import Unprocessable
from tests.integration.services.at_intake import (
    visit_elsewhere,
)
from tests.integration.services.course import (
    about,
    patient,
    screening,
    weight,
)


async def test_a_dose_of_this_clinic_is_not_kept_here_but_history_is(intake):
    who = await intake.create(patient())
    dose = {
        "resourceType": "MedicationAdministration",
        "status": "in-progress",
        "medicationCodeableConcept": codes.KETAMINE.concept(),
        "subject": about(who),
        "effectiveDateTime": "2026-11-22T09:00:00Z",
    }
    for status in ("in-progress", "completed"):
        with pytest.raises(Unprocessable, match="belongs to sessions"):
            await intake.create({**dose, "status": status})
    await intake.create({**dose, "meta": {"source": "urn:hospital"}})


async def test_an_update_never_changes_the_owner(intake):
    who = await intake.create(patient())
    held = await intake.create(visit_elsewhere(who))
    with pytest.raises(Unprocessable, match="as changed it would belong to sessions"):
        await intake.update({**held, "appointment": [{"reference": "Appointment/a"}]})
    answers = await intake.create(screening(who))
    with pytest.raises(Unprocessable, match="outcomes"):
        await intake.update({**answers, "questionnaire": codes.PHQ9_QUESTIONNAIRE})


async def test_what_belongs_to_another_service_is_not_kept_here_unless_it_comes_from_elsewhere(intake):
    who = await intake.create(patient())
    theirs = visit_elsewhere(who, appointment=[{"reference": "Appointment/a"}])
    with pytest.raises(Unprocessable, match="belongs to sessions"):
        await intake.create(theirs)
    history = await intake.create({**theirs, "meta": {"source": "urn:hospital"}})
    await intake.update({**history, "status": "entered-in-error"})


async def test_a_bedside_reading_does_not_become_history(intake):
    who = await intake.create(patient())
    reading = weight(who)
    await intake.create(reading)
    with pytest.raises(Unprocessable, match="intake-measurement"):
        await intake.create({key: value for key, value in reading.items() if key != "meta"})
