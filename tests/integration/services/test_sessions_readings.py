"""Readings: an alarm is written with the reading, once; what is not understood is asked about."""

from __future__ import annotations

import pytest

from shared.fhir import codes
from tests.integration.services.three_services import (
    pressure,
    raised,
    saturation,
)


@pytest.mark.parametrize(
    ("systolic", "diastolic", "alarms"), [(179, 109, 0), (180, 80, 1), (120, 110, 1), (200, 120, 1)]
)
async def test_an_alarm_is_written_with_the_reading_once(at_bedside, clock, sessions, systolic, diastolic, alarms):
    who, _, _, visit = at_bedside
    reading = await sessions.create(pressure(who, visit, clock.now, systolic, diastolic))
    assert await raised(sessions, who) == [alarms] * 3
    await sessions.update({**reading, "status": "amended"})
    assert await raised(sessions, who) == [alarms] * 3


@pytest.mark.parametrize(("value", "alarms"), [(90, 0), (89, 1)])
async def test_a_low_saturation_alarms(at_bedside, clock, sessions, value, alarms):
    who, _, _, visit = at_bedside
    await sessions.create(saturation(who, visit, clock.now, value))
    assert await raised(sessions, who) == [alarms] * 3


async def test_a_reading_in_a_strange_unit_is_kept_and_asked_about(at_bedside, clock, sessions):
    who, _, _, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now, 25, 15, unit="kPa"))
    assert await raised(sessions, who) == [1, 0, 1]


async def test_a_reading_entered_in_error_alarms_nobody(at_bedside, clock, sessions):
    who, _, _, visit = at_bedside
    await sessions.create({**pressure(who, visit, clock.now, 220), "status": "entered-in-error"})
    assert await raised(sessions, who) == [0, 0, 0]


async def test_an_alarm_tells_every_value_beyond_its_limit_and_sounds_again_when_a_correction_is_worse(
    at_bedside, clock, sessions
):
    who, _, _, visit = at_bedside
    reading = await sessions.create(pressure(who, visit, clock.now, 185, 125))
    (alarm,) = await sessions.search("Task", patient=who["id"], code=codes.VITAL_ALARM.token())
    assert "185" in alarm["description"]
    assert "125" in alarm["description"]
    await sessions.update({**alarm, "status": "completed", "owner": {"reference": "Practitioner/prescriber"}})
    amended = pressure(who, visit, clock.now, 230, 125)
    await sessions.update({**amended, "id": reading["id"], "status": "corrected"})
    (alarm,) = await sessions.search("Task", patient=who["id"], code=codes.VITAL_ALARM.token())
    assert alarm["status"] == "requested"
    assert "230" in alarm["description"]
    await sessions.update({**alarm, "status": "completed", "owner": {"reference": "Practitioner/prescriber"}})
    await sessions.update({**amended, "id": reading["id"], "status": "corrected", "note": [{"text": "left arm"}]})
    (alarm,) = await sessions.search("Task", patient=who["id"], code=codes.VITAL_ALARM.token())
    assert alarm["status"] == "completed"


async def test_a_reading_that_names_its_visit_alone_alarms_for_the_visits_patient(at_bedside, clock, sessions):
    who, _, _, visit = at_bedside
    reading = saturation(who, visit, clock.now, 80)
    del reading["subject"]
    await sessions.create(reading)
    assert await raised(sessions, who) == [1, 1, 1]


@pytest.mark.parametrize(
    ("system", "code", "value", "raised_"),
    [
        (codes.LOINC, "8889-8", {"value": 28, "unit": "bpm"}, codes.VITAL_ALARM),
        (codes.SNOMED, "431314004", {"value": 61, "unit": "%", "system": codes.UCUM, "code": "%"}, codes.REVIEW),
        (codes.LOINC, "8310-5", {"value": 37, "unit": "Cel", "system": codes.UCUM, "code": "Cel"}, None),
    ],
)
async def test_a_vital_sign_under_another_code_alarms_or_is_asked_about(bedside, system, code, value, raised_):
    charted = bedside.reading(code=codes.Code(system, code, "as a device says it").concept(), valueQuantity=value)
    del charted["component"]
    await bedside.sessions.create(charted)
    known = {one.token() for one in (codes.VITAL_ALARM, codes.REVIEW)}
    found = [token for token in known if await bedside.sessions.search("Task", code=token)]
    assert found == ([] if raised_ is None else [raised_.token()])
