"""Watching a session: due vital signs as Tasks, missed by the clock, closed by readings; slips asked about; feeds."""

from __future__ import annotations

import pytest

from shared.fhir import codes
from shared.runtime.timers import run_once
from tests.integration.services.bedside import vital


async def tasks(bedside, code, status=None):
    found = await bedside.sessions.search("Task", patient=bedside.who["id"], code=code.token())
    return [one for one in found if status is None or one["status"] == status]


async def pass_time(bedside, minutes=0.0):
    """Let time pass, and the clock look at what is missed."""
    bedside.clock.forward(minutes=minutes)
    service = bedside.sessions.service
    (timer,) = [one for one in service.timers if one.name == "missed-vital-signs"]
    await run_once(timer, service, bedside.sessions.store, bedside.clock.now, lambda: None)


@pytest.fixture
async def dosed(bedside):
    await bedside.chart()
    await bedside.start(40)
    return bedside


async def test_the_first_dose_sets_what_is_due_and_a_booster_sets_none_anew(dosed):
    due = await tasks(dosed, codes.VITALS_DUE)
    assert [one["identifier"][0]["value"].rpartition(":")[2] for one in due] == ["15", "30", "45", "60", "90", "120"]
    await dosed.start(30)
    assert len(await tasks(dosed, codes.VITALS_DUE)) == 6


async def test_vital_signs_in_time_close_what_was_due_and_nothing_is_raised(dosed):
    dosed.clock.forward(minutes=15)
    taken = await dosed.chart()
    (done,) = await tasks(dosed, codes.VITALS_DUE, "completed")
    assert done["businessStatus"]["text"] == "in time"
    assert done["output"][0]["valueReference"]["reference"] == f"Observation/{taken['id']}"
    await pass_time(dosed, 5.5)
    assert await dosed.raised() == [0, 0, 0]


async def test_a_missed_reading_is_flagged_once_climbs_and_is_closed_by_a_late_one(dosed):
    await pass_time(dosed, 20)
    assert await tasks(dosed, codes.VITALS_MISSED) == []
    await pass_time(dosed, 0.5)
    await pass_time(dosed, 0.5)
    (call,) = await tasks(dosed, codes.VITALS_MISSED)
    assert (call["status"], call["priority"]) == ("requested", "stat")
    assert "M-MISSED" in await dosed.rules()
    await dosed.chart(minutes=5)
    (done,) = await tasks(dosed, codes.VITALS_DUE, "completed")
    assert done["businessStatus"]["text"] == "charted late"
    (call,) = await tasks(dosed, codes.VITALS_MISSED)
    assert call["status"] == "completed"


async def test_half_a_set_does_not_close_what_is_due(dosed):
    dosed.clock.forward(minutes=15)
    await dosed.sessions.create(dosed.reading(vital(codes.HEART_RATE, 70, "/min")))
    assert await tasks(dosed, codes.VITALS_DUE, "completed") == []
    await dosed.chart()
    assert len(await tasks(dosed, codes.VITALS_DUE, "completed")) == 1


async def test_what_is_over_is_not_watched(dosed):
    await dosed.sessions.update({**dosed.visit, "status": "finished"})
    assert {one["status"] for one in await tasks(dosed, codes.VITALS_DUE)} == {"cancelled"}
    await pass_time(dosed, 600)
    assert await tasks(dosed, codes.VITALS_MISSED) == []


async def test_a_dose_charted_hours_later_calls_nobody_for_readings_that_were_due(bedside):
    await bedside.sessions.create(bedside.dose(70, "completed", minutes=600))
    assert await tasks(bedside, codes.VITALS_DUE) == []


async def test_a_slip_is_kept_and_asked_about(bedside):
    kept = await bedside.chart(1200, 80)
    assert kept["component"][0]["valueQuantity"]["value"] == 1200
    (asked,) = await tasks(bedside, codes.REVIEW)
    assert "Is this a slip?" in asked["description"]


async def test_a_feed_alarms_on_arrival_once_as_long_as_it_lasts_and_opens_no_gate(bedside):
    feed = bedside.reading(code=codes.OXYGEN_SATURATION.concept())
    del feed["component"]
    origin = {"value": 0, "unit": "%", "system": codes.UCUM, "code": "%"}
    feed["valueSampledData"] = {"origin": origin, "period": 1000, "dimensions": 1, "data": "97 88 96"}
    for _ in range(3):
        await bedside.sessions.create(feed)
    (call,) = await tasks(bedside, codes.VITAL_ALARM)
    assert call["priority"] == "stat"
    assert await bedside.raised() == [1, 1, 1]
    taken = {**call, "status": "completed", "owner": {"reference": "Practitioner/prescriber"}}
    await bedside.sessions.update(taken)
    await bedside.sessions.create(feed)
    (call,) = await tasks(bedside, codes.VITAL_ALARM)
    assert call["status"] == "requested"
