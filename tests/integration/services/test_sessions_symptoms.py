"""A symptom that calls: at once, once, with its record; beside a pressure; late; unreadable; its Flag goes down."""

from __future__ import annotations

import pytest

from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.outcome import Unprocessable
from tests.integration.services.test_sessions_events import event

PRESCRIBER = {"reference": "Practitioner/prescriber"}


def kap(code):
    return codes.Code(codes.KAP, code).concept()


async def complain(bedside, what, minutes=0.0, **more):
    told = bedside.reading(code=codes.SYMPTOM.concept(), minutes=minutes, valueCodeableConcept=kap(what), **more)
    del told["component"]
    return await bedside.sessions.create(told)


async def calls(bedside, code=codes.SYMPTOM_ALARM):
    return await bedside.sessions.search("Task", patient=bedside.who["id"], code=code.token())


async def flags(bedside):
    return [one["status"] for one in await bedside.sessions.search("Flag", patient=bedside.who["id"])]


async def test_chest_pain_calls_at_once_and_once_and_climbs_until_somebody_takes_it(bedside):
    told = await complain(bedside, "chest-pain")
    (call,) = await calls(bedside)
    assert (call["priority"], call["status"], call["focus"]["reference"]) == (
        "stat",
        "requested",
        f"Observation/{told['id']}",
    )
    assert await bedside.rules() == {"A-SYMPTOM"}
    assert any(one["url"] == codes.EXT_ESCALATION for one in call["extension"])
    await bedside.sessions.update({**told, "note": [{"text": "Left arm, too"}]})
    assert len(await calls(bedside)) == 1


async def test_an_adverse_event_of_such_a_code_calls_too_however_grave_it_is_said_to_be(bedside):
    await bedside.sessions.create(event(bedside, "non-serious", event=kap("seizure")))
    assert len(await calls(bedside)) == 1
    await bedside.sessions.create(event(bedside, "non-serious"))
    assert len(await calls(bedside)) == 1


async def test_a_headache_calls_beside_a_pressure_beyond_its_limit_only_whichever_came_first(bedside):
    await bedside.chart(179, 109)
    told = await complain(bedside, "headache")
    assert await calls(bedside) == []
    bedside.clock.forward(minutes=30)
    await bedside.chart(180, 100)
    (call,) = await calls(bedside)
    assert call["focus"]["reference"] == f"Observation/{told['id']}"
    bedside.clock.forward(minutes=10)
    await complain(bedside, "headache")
    assert len(await calls(bedside)) == 2
    bedside.clock.forward(minutes=31)
    await complain(bedside, "headache")
    assert len(await calls(bedside)) == 2


async def test_a_symptom_charted_late_is_reviewed_and_calls_nobody(bedside):
    bedside.clock.forward(minutes=60)
    await complain(bedside, "chest-pain", minutes=15)
    assert len(await calls(bedside)) == 1
    await complain(bedside, "dyspnoea", minutes=16)
    assert len(await calls(bedside)) == 1
    (review,) = await calls(bedside, codes.REVIEW)
    assert review["description"].startswith("Charted late")


async def test_a_symptom_that_cannot_be_read_is_asked_about_and_one_that_no_alarm_knows_is_kept(bedside):
    nausea = codes.Code(codes.SNOMED, "422587007").concept()
    told = bedside.reading(code=codes.SYMPTOM.concept(), valueCodeableConcept=nausea)
    del told["component"]
    await bedside.sessions.create(told)
    assert await bedside.raised() == [0, 0, 0]
    del told["valueCodeableConcept"]
    await bedside.sessions.create({**told, "valueString": "tight chest"})
    (review,) = await calls(bedside, codes.REVIEW)
    assert "cannot be read" in review["description"]


async def test_a_symptom_of_a_code_that_no_rule_knows_is_asked_about(bedside):
    told = bedside.reading(code=codes.SYMPTOM.concept())
    del told["component"]
    await bedside.sessions.create({**told, "valueCodeableConcept": codes.Code(codes.SNOMED, "24184005").concept()})
    assert len(await calls(bedside, codes.REVIEW)) == 1


async def test_a_symptom_of_nobody_is_refused(bedside):
    told = bedside.reading(code=codes.SYMPTOM.concept(), valueCodeableConcept=kap("chest-pain"))
    del told["component"], told["subject"]
    await bedside.sessions.create(told)
    assert len(await calls(bedside)) == 1  # its visit says whose it is
    del told["encounter"]
    with pytest.raises(Unprocessable):
        await bedside.sessions.create(told)


async def test_who_completes_a_call_takes_its_flag_down_and_what_comes_after_it_raises_another(bedside):
    await complain(bedside, "chest-pain")
    assert await flags(bedside) == ["active"]
    (call,) = await calls(bedside)
    taken = await bedside.sessions.update({**call, "status": "accepted", "owner": PRESCRIBER})
    assert await flags(bedside) == ["active"]
    await bedside.sessions.update({**taken, "status": "completed"})
    assert await flags(bedside) == ["inactive"]
    (flag,) = await bedside.sessions.search("Flag", patient=bedside.who["id"])
    assert "end" in flag["period"]
    await complain(bedside, "chest-pain")
    assert sorted(await flags(bedside)) == ["active", "inactive"]


async def test_a_headache_that_was_an_adverse_event_before_the_pressure_calls_with_it(bedside):
    await bedside.sessions.create(event(bedside, "non-serious", event=kap("headache")))
    assert await calls(bedside) == []
    bedside.clock.forward(minutes=2)
    await bedside.chart(190, 112)
    assert len(await calls(bedside)) == 1


async def test_a_symptom_whose_time_was_a_slip_calls_when_it_is_corrected_to_now(bedside):
    late = await complain(bedside, "chest-pain", minutes=60)
    assert await calls(bedside) == []
    at = bedside.reading()["effectiveDateTime"]
    now = await bedside.sessions.update({**late, "effectiveDateTime": at, "status": "corrected"})
    assert len(await calls(bedside)) == 1
    assert [one["status"] for one in await calls(bedside, codes.REVIEW)] == ["completed"]
    await bedside.sessions.update({**now, "status": "entered-in-error"})
    assert ([one["status"] for one in await calls(bedside)], await flags(bedside)) == (["completed"], ["inactive"])


async def test_a_headache_told_of_hours_before_a_pressure_without_its_date_does_not_call_beside_it(bedside):
    told = event(bedside, "non-serious", event=kap("headache"), recordedDate=zulu(bedside.clock.now))
    del told["date"]
    await bedside.sessions.create(told)
    bedside.clock.forward(minutes=120)
    await bedside.chart(185, 100)
    assert await calls(bedside) == []
    await bedside.sessions.create({**told, "recordedDate": zulu(bedside.clock.now)})
    assert len(await calls(bedside)) == 1
