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
    milligrams,
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
    await intake.create({**dose, "status": "completed", "meta": {"source": "urn:hospital"}})


def elsewhere(who, **more):
    """Return a dose of ketamine as a hospital's client brings it along."""
    return {
        "resourceType": "MedicationAdministration",
        "meta": {"source": "urn:hospital"},
        "status": "completed",
        "medicationCodeableConcept": codes.KETAMINE.concept(),
        "subject": about(who),
        "effectiveDateTime": "2026-11-22T09:00:00Z",
        "dosage": {"route": codes.ROUTE_IM.concept(), "dose": milligrams(500)},
        **more,
    }


@pytest.mark.parametrize("status", ["in-progress", "on-hold"])
@pytest.mark.parametrize("drug", [codes.KETAMINE.concept(), {"text": "Spravato nasal spray"}, None])
async def test_ketamine_that_is_given_now_is_no_history_whatever_its_source_says(intake, status, drug):
    who = await intake.create(patient())
    dose = elsewhere(who, medicationCodeableConcept=drug)
    if drug is None:
        del dose["medicationCodeableConcept"]
        dose["medicationReference"] = {"reference": "Medication/unknown"}
    with pytest.raises(Unprocessable, match="no history"):
        await intake.create({**dose, "status": status})
    over = await intake.create(dose)
    with pytest.raises(Unprocessable, match="no history"):
        await intake.update({**over, "status": status})


async def test_another_drug_that_is_given_elsewhere_now_is_recorded(intake):
    who = await intake.create(patient())
    await intake.create(elsewhere(who, status="in-progress", medicationCodeableConcept={"text": "Ondansetron"}))


async def test_a_dose_from_elsewhere_is_not_moved_into_a_visit_past_its_gate(intake):
    who = await intake.create(patient())
    dose = await intake.create(elsewhere(who))
    with pytest.raises(Unprocessable, match="record it in the visit"):
        await intake.update({**dose, "context": {"reference": "Encounter/visit-of-sessions"}})
    theirs = await intake.create(visit_elsewhere(who, meta={"source": "urn:hospital"}))
    await intake.update({**dose, "context": about(theirs)})


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
