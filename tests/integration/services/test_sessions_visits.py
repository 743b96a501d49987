"""Visits and the psychotherapy in them: states with history, content recorded once, asked for, check-ins between."""

from __future__ import annotations

import pytest

from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.outcome import BadRequest, Unprocessable
from shared.runtime.timers import run_once
from tests.integration.services.bedside import Bedside, pre_dose, rules_of
from tests.integration.services.course import about, appointment, patient

THERAPIST = {"reference": "Practitioner/therapist"}


async def visit_of(bedside, kind, **more):
    """Return a visit of a kind, in progress, as its booking planned it."""
    booked = await bedside.tell("scheduling", appointment(bedside.who, None, bedside.clock.now, visit=kind, **more))
    (visit,) = await bedside.sessions.search("Encounter", appointment=f"Appointment/{booked['id']}")
    visit = await bedside.sessions.update({**visit, "status": "arrived"})
    return await bedside.sessions.update(
        {**visit, "status": "in-progress", "period": {"start": zulu(bedside.clock.now)}}
    )


def said(**values):
    forms = {bool: "valueBoolean", str: "valueString"}
    found = []
    for name, value in values.items():
        for one in value if isinstance(value, list) else [value]:
            form = "valueCode" if name == "technique" else forms[type(one)]
            found.append({"name": name.replace("_", "-"), form: one})
    return found


async def record(bedside, visit, **values):
    performer = {"name": "performer", "valueReference": THERAPIST}
    return await bedside.sessions.call("record-psychotherapy", visit, performer, *said(**values))


async def test_a_visit_keeps_the_states_it_had(bedside):
    held = await bedside.sessions.get("Encounter", bedside.visit["id"])
    assert [one["status"] for one in held["statusHistory"]] == ["planned", "arrived"]
    forgot = {key: value for key, value in held.items() if key != "statusHistory"}
    kept = await bedside.sessions.update({**forgot, "status": "onleave"})
    assert [one["status"] for one in kept["statusHistory"]] == ["planned", "arrived", "in-progress"]


async def test_the_setting_the_techniques_and_what_came_up_are_recorded_once(bedside):
    values = {
        "room": "Quiet room 2, lying down",
        "music": "Soft, no words",
        "eye_mask": True,
        "technique": ["talk", "breathwork"],
        "intention": ["To grieve"],
        "theme": ["Loss of the father", "Forgiveness"],
    }
    for _ in range(2):
        told = await record(bedside, bedside.visit, **values)
        assert len(told["parameter"]) == 8
    about_it = {"encounter": f"Encounter/{bedside.visit['id']}"}
    found = [one for one in await bedside.sessions.search("Observation", **about_it) if "identifier" in one]
    assert len(found) == 6
    assert {one["performer"][0]["reference"] for one in found} == {"Practitioner/therapist"}
    techniques = await bedside.sessions.search("Procedure", **about_it)
    assert {one["code"]["text"] for one in techniques} == {"Talk therapy", "Breathwork"}


async def test_what_is_said_once_is_corrected_by_a_new_version(bedside):
    await record(bedside, bedside.visit, room="Room 1")
    await record(bedside, bedside.visit, room="Room 2")
    code = codes.Code(codes.KAP, "session-room").token()
    (room,) = await bedside.sessions.search("Observation", code=code)
    assert (room["valueString"], room["meta"]["versionId"]) == ("Room 2", "2")


async def test_preparation_and_integration_have_content_of_their_own_which_is_asked_for_at_their_end(bedside):
    preparing = await visit_of(bedside, codes.VISIT_PREP)
    await record(bedside, preparing, intention="To sleep again", expectation="Not a cure", worry="Losing control")
    await bedside.sessions.update({**preparing, "status": "finished"})
    (asked,) = await bedside.sessions.search("Task", encounter=about(preparing)["reference"])
    assert "Supportive touch agreed" in asked["description"]
    integrating = await visit_of(bedside, codes.VISIT_INTEGRATION)
    await record(bedside, integrating, discussed="The images of the session", strategy="A walk each morning")
    await bedside.sessions.update({**integrating, "status": "finished"})
    assert await bedside.sessions.search("Task", encounter=about(integrating)["reference"]) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "Nothing is said"),
        ({"strategy": "A walk"}, "does not have the parameter 'strategy'"),
        ({"technique": "hypnosis"}, "A technique is one of talk"),
        ({"room": True}, "does not have the parameter 'room' in this form"),
        ({"occurred": "soon"}, "does not have the parameter 'occurred'"),
    ],
)
async def test_what_does_not_belong_to_a_visit_is_refused_with_what_does(bedside, values, message):
    with pytest.raises(BadRequest) as refused:
        await bedside.sessions.call("record-psychotherapy", bedside.visit, *said(**values))
    assert message in refused.value.issues[0].diagnostics


async def test_nothing_is_recorded_of_a_visit_that_has_not_begun_or_of_what_is_to_come(bedside):
    booked = await bedside.tell("scheduling", appointment(bedside.who, None, bedside.clock.now, visit=codes.VISIT_PREP))
    (visit,) = await bedside.sessions.search("Encounter", appointment=f"Appointment/{booked['id']}")
    with pytest.raises(Unprocessable):
        await record(bedside, visit, intention="To sleep")
    later = {"name": "occurred", "valueDateTime": "2027-01-01T10:00:00Z"}
    with pytest.raises(BadRequest):
        await bedside.sessions.call("record-psychotherapy", bedside.visit, later, *said(room="Room 1"))


async def check_ins(bedside):
    return await bedside.sessions.search("Task", patient=bedside.who["id"], code=codes.CHECK_IN.token())


async def left(bedside):
    """Give a dose, and have the patient leave two hours later."""
    await bedside.chart()
    await bedside.start()
    bedside.clock.forward(minutes=125)
    gone = [{"name": "disposition", "valueCode": "aadvice"}]
    return await bedside.sessions.call("discharge", bedside.visit, *gone)


async def test_after_a_dose_somebody_asks_how_the_patient_is_and_what_he_says_closes_it(bedside):
    await left(bedside)
    assert [one["status"] for one in await check_ins(bedside)] == ["requested", "requested"]
    bedside.clock.forward(hours=25)
    await record(bedside, bedside.visit, check_in="Slept well, tired")
    assert [one["status"] for one in await check_ins(bedside)] == ["completed", "requested"]


async def test_a_check_in_that_nobody_makes_is_asked_after_once(bedside):
    await left(bedside)
    service = bedside.sessions.service
    (timer,) = [one for one in service.timers if one.name == "check-ins"]
    for hours, asked in ((35, 0), (2, 1), (1, 1)):
        bedside.clock.forward(hours=hours)
        await run_once(timer, service, bedside.sessions.store, bedside.clock.now, lambda: None)
        found = await bedside.sessions.search("Task", patient=bedside.who["id"], code=codes.REVIEW.token())
        assert len([one for one in found if "Nobody has asked" in one["description"]]) == asked


async def test_a_visit_without_a_dose_has_no_check_ins(bedside):
    await bedside.sessions.update({**bedside.visit, "status": "finished"})
    assert await check_ins(bedside) == []


@pytest.mark.parametrize("make", [Bedside.vitals, lambda at: pre_dose(at.who, at.visit, zulu(at.clock.now))])
async def test_what_is_about_another_patient_than_its_visit_is_refused(bedside, make):
    other = await bedside.tell("intake", patient())
    with pytest.raises(Unprocessable) as error:
        await bedside.sessions.create({**make(bedside), "subject": about(other)})
    assert rules_of(error) == {"V-SUBJECT"}
