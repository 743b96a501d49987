"""Watching a session: due vital signs as Tasks, missed by the clock, closed by readings; slips asked about; feeds."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.sessions.service import sessions as sessions_service
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.kap import moment
from shared.fhir.outcome import Unprocessable
from shared.runtime.timers import run_once
from tests.integration.services.bedside import Bedside, rules_of, vital
from tests.integration.services.course import about, appointment


async def tasks(bedside, code, status=None):
    found = await bedside.sessions.search("Task", patient=bedside.who["id"], code=code.token())
    return [one for one in found if status is None or one["status"] == status]


async def seen(bedside, code, value, minutes=0.0, **more):
    """Record a score of a scale, or that somebody looked."""
    rated = bedside.reading(minutes=minutes, code=code.concept(), **value, **more)
    del rated["component"]
    return await bedside.sessions.create(rated)


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
    ratings = {code: len(await tasks(dosed, code)) for code in (codes.SEDATION_DUE, codes.DISSOCIATION_DUE)}
    assert set(ratings.values()) == {2}
    await dosed.start(30)
    assert len(await tasks(dosed, codes.VITALS_DUE)) == 6
    assert len(await tasks(dosed, codes.SEDATION_DUE)) == 2


async def due_at(bedside, status="requested"):
    """Return the minutes from now at which vital signs are due."""
    found = [moment(one["executionPeriod"]["start"]) for one in await tasks(bedside, codes.VITALS_DUE, status)]
    return sorted((one - bedside.clock.now) // timedelta(minutes=1) for one in found)


async def test_a_booster_is_watched_and_stayed_for_like_the_first_dose(dosed):
    dosed.clock.forward(minutes=105)
    await dosed.chart()
    await dosed.start(30)
    assert (await due_at(dosed))[-6:] == [15, 30, 45, 60, 90, 120]
    dosed.clock.forward(minutes=16)
    await dosed.chart()
    with pytest.raises(Unprocessable) as refused:
        await dosed.sessions.call("discharge", dosed.visit)
    assert "L-STAY" in rules_of(refused)


async def test_after_the_last_time_point_vital_signs_are_due_every_quarter_of_an_hour_until_the_patient_left(dosed):
    dosed.clock.forward(minutes=120)
    await dosed.chart()
    assert (await due_at(dosed))[-1] == 15
    await pass_time(dosed, 60)
    assert (await due_at(dosed))[-1] == 0
    await dosed.sessions.update({**dosed.visit, "status": "finished"})
    assert await due_at(dosed) == []


async def test_a_reading_that_is_withdrawn_opens_what_it_had_completed(dosed):
    dosed.clock.forward(minutes=15)
    wrong = await dosed.chart()
    assert await due_at(dosed, "completed") == [0]
    await dosed.sessions.update({**wrong, "status": "entered-in-error"})
    assert (await due_at(dosed, "completed"), (await due_at(dosed))[0]) == ([], 0)


async def test_a_reading_that_says_it_is_still_to_be_taken_completes_nothing(dosed):
    await dosed.chart(minutes=-30)
    assert await due_at(dosed, "completed") == []


async def test_a_dose_that_was_entered_in_error_and_given_again_sets_what_is_due_by_its_own_time(bedside):
    await bedside.chart()
    wrong = await bedside.start(70)
    await bedside.sessions.update({**wrong, "status": "entered-in-error"})
    assert await due_at(bedside) == []
    bedside.clock.forward(minutes=20)
    await bedside.start(70)
    assert await due_at(bedside) == [15, 30, 45, 60, 90, 120]


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
    assert [one >= 0 for one in await due_at(bedside)] == [True]
    await pass_time(bedside)
    assert await tasks(bedside, codes.VITALS_MISSED) == []


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


async def test_a_feed_that_is_low_again_is_flagged_again_while_nobody_has_taken_the_call(bedside):
    async def low():
        feed = bedside.reading(code=codes.OXYGEN_SATURATION.concept())
        del feed["component"]
        origin = {"value": 0, "unit": "%", "system": codes.UCUM, "code": "%"}
        feed["valueSampledData"] = {"origin": origin, "period": 1000, "dimensions": 1, "data": "97 85"}
        await bedside.sessions.create(feed)

    flags = []
    for do in (low, bedside.chart, low, low, bedside.chart):
        await do()
        (flag,) = await bedside.sessions.search("Flag", patient=bedside.who["id"])
        (call,) = await tasks(bedside, codes.VITAL_ALARM)
        flags.append((flag["status"], "businessStatus" in call))
        bedside.clock.forward(minutes=1)
    over, stands = ("inactive", True), ("active", False)
    assert flags == [stands, over, stands, stands, over]


# -- sedation, dissociation, the chaperone at home


async def test_a_rating_of_sedation_closes_what_was_due_and_a_missed_one_calls(dosed):
    dosed.clock.forward(minutes=30)
    await seen(dosed, codes.MOAA_S, {"valueInteger": 4})
    assert len(await tasks(dosed, codes.SEDATION_DUE, "completed")) == 1
    await dosed.chart()
    await pass_time(dosed, 95.5)
    missed = [one for one in await tasks(dosed, codes.VITALS_MISSED) if "Sedation" in one["description"]]
    assert [(one["status"], one["priority"]) for one in missed] == [("requested", "stat")]


async def test_a_score_of_outcomes_closes_the_dissociation_that_was_due_and_a_missed_one_is_reviewed(dosed):
    dosed.clock.forward(minutes=30)
    score = dosed.reading(code=codes.Code(codes.KAP, "cadss-6-total").concept(), valueInteger=9)
    del score["component"]
    await dosed.tell("outcomes", score)
    (done,) = await tasks(dosed, codes.DISSOCIATION_DUE, "completed")
    assert done["businessStatus"]["text"] == "in time"
    await pass_time(dosed, 95.5)
    asked = [one for one in await tasks(dosed, codes.REVIEW) if "Dissociation" in one["description"]]
    assert [one["priority"] for one in asked] == ["urgent"]


async def test_pain_is_due_understood_and_says_its_minutes_from_the_dose(dosed):
    dosed.clock.forward(minutes=30)
    quantity = {"value": 3, "unit": "{score}", "system": codes.UCUM, "code": "{score}"}
    pain = codes.Code(codes.LOINC, "72514-3")
    kept = await seen(dosed, pain, {"valueQuantity": quantity})
    assert len(await tasks(dosed, codes.PAIN_DUE, "completed")) == 1
    assert (await minutes_of(dosed, kept), await dosed.raised()) == ([30], [0, 0, 0])
    await seen(dosed, pain, {"valueQuantity": {**quantity, "value": 30}})
    assert "pain 30" in (await tasks(dosed, codes.REVIEW))[0]["description"]
    await dosed.chart()
    await seen(dosed, codes.MOAA_S, {"valueInteger": 5})
    await pass_time(dosed, 95.5)
    (missed,) = [one for one in await tasks(dosed, codes.REVIEW) if "Pain" in one["description"]]
    assert missed["priority"] == "urgent"


async def test_who_does_not_answer_to_voice_alarms_at_once(dosed):
    await seen(dosed, codes.MOAA_S, {"valueInteger": 1})
    (call,) = await tasks(dosed, codes.VITAL_ALARM)
    assert "A-SEDATION" in await dosed.rules()
    assert call["priority"] == "stat"


@pytest.fixture
async def at_home(bench, clock):
    bedside = Bedside(await bench.open(sessions_service), clock)
    await bedside.begin(codes.ROUTE_SUBLINGUAL, 100, virtual=True)
    return bedside


async def test_at_home_nothing_starts_without_a_chaperone_and_the_chaperone_looks_every_quarter_of_an_hour(at_home):
    await at_home.chart()
    with pytest.raises(Unprocessable) as refused:
        await at_home.start(100)
    assert rules_of(refused) == {"G-CHAPERONE"}
    chaperone = {"type": [codes.CHAPERONE.concept()], "individual": {"reference": "RelatedPerson/brother"}}
    people = [*at_home.visit["participant"], chaperone]
    await at_home.sessions.update({**at_home.visit, "participant": people})
    await at_home.start(100)
    assert len(await tasks(at_home, codes.CHAPERONE_DUE)) == 8
    assert await tasks(at_home, codes.SEDATION_DUE) == []
    at_home.clock.forward(minutes=15)
    await seen(at_home, codes.CHAPERONE_CHECK, {"valueString": "Lies quietly, answers"})
    assert len(await tasks(at_home, codes.CHAPERONE_DUE, "completed")) == 1
    await pass_time(at_home, 20.5)
    (missed,) = await tasks(at_home, codes.VITALS_MISSED)
    assert "chaperone" in missed["description"]


# -- minutes from the dose


async def minutes_of(bedside, reading):
    held = await bedside.sessions.get("Observation", reading["id"])
    return [one["valueInteger"] for one in held.get("extension", []) if one["url"] == codes.EXT_MINUTES]


async def test_each_reading_says_its_minutes_from_the_first_dose_those_before_it_too(bedside):
    before = await bedside.chart(minutes=8)
    assert await minutes_of(bedside, before) == []
    await bedside.start(40)
    assert await minutes_of(bedside, before) == [-8]
    bedside.clock.forward(minutes=20)
    await bedside.start(30)
    after = await bedside.chart()
    assert await minutes_of(bedside, after) == [20]
    corrected = await bedside.sessions.update(
        {**after, "effectiveDateTime": zulu(bedside.clock.now.replace(minute=25))}
    )
    assert await minutes_of(bedside, corrected) == [15]


async def test_when_the_time_of_the_dose_is_corrected_the_minutes_follow(bedside):
    reading = await bedside.chart(minutes=8)
    dose = await bedside.start(40)
    moved = {"start": zulu(bedside.clock.now.replace(minute=5))}
    await bedside.sessions.update({**dose, "status": "completed", "effectivePeriod": moved})
    assert await minutes_of(bedside, reading) == [-3]


async def test_a_reading_without_its_time_says_no_minutes(dosed):
    untimed = dosed.vitals()
    del untimed["effectiveDateTime"]
    assert await minutes_of(dosed, await dosed.sessions.create(untimed)) == []


# -- calls for what was missed: ended by who comes, and one as long as nobody comes ------------------------------------


async def missed(bedside, status=None):
    """Return the calls for vital signs that were missed."""
    found = await tasks(bedside, codes.VITALS_MISSED, status)
    return [one for one in found if one["description"].startswith("Vital signs")]


async def test_who_was_called_to_a_missed_set_and_takes_it_late_ends_the_call(dosed):
    await pass_time(dosed, 20.5)
    dosed.clock.forward(minutes=6)
    late = await dosed.chart()
    (call,) = await tasks(dosed, codes.VITALS_MISSED)
    assert call["status"] == "completed"
    done = await tasks(dosed, codes.VITALS_DUE, "completed")
    assert {one["businessStatus"]["text"] for one in done} == {"taken late", "in time"}
    await dosed.sessions.update({**late, "status": "entered-in-error"})
    assert len(await tasks(dosed, codes.VITALS_DUE, "completed")) == 0


async def test_a_pressure_that_is_repeated_late_ends_what_asked_for_it(dosed):
    dosed.clock.forward(minutes=1)
    await dosed.chart(185)
    await pass_time(dosed, 10.5)
    assert len(await tasks(dosed, codes.VITALS_MISSED, "requested")) == 1
    dosed.clock.forward(minutes=8)
    await dosed.chart(150)
    found = [*await tasks(dosed, codes.PRESSURE_AGAIN), *await tasks(dosed, codes.VITALS_MISSED)]
    assert [one["status"] for one in found] == ["completed", "completed"]


async def test_while_nobody_comes_what_is_missed_is_one_call(dosed):
    for _ in range(8):
        await pass_time(dosed, 16)
    (call,) = await missed(dosed)
    assert call["status"] == "requested"
    await dosed.chart()
    assert await missed(dosed, "requested") == []
    assert await tasks(dosed, codes.SEDATION_DUE, "requested") != []


async def test_who_has_come_and_does_not_measure_is_called_again(dosed):
    await pass_time(dosed, 21)
    (call,) = await missed(dosed)
    await dosed.sessions.update({**call, "status": "accepted", "owner": {"reference": "Practitioner/nurse"}})
    await pass_time(dosed, 15)
    assert len(await missed(dosed, "requested")) == 1


async def test_a_call_that_ends_by_what_was_charted_late_leaves_one_for_what_is_missing_still(dosed):
    await pass_time(dosed, 21)
    await pass_time(dosed, 15)
    (call,) = await missed(dosed)
    await dosed.chart(minutes=20)  # what was due first, and not what was due after it
    stand = {one["id"] == call["id"]: one["status"] for one in await missed(dosed)}
    assert stand == {True: "completed", False: "requested"}


async def test_a_dose_in_error_that_is_charted_again_at_its_own_time_is_watched(bedside):
    await bedside.chart()
    wrong = await bedside.start(70)
    bedside.clock.forward(minutes=2)
    await bedside.sessions.update({**wrong, "status": "entered-in-error"})
    assert await due_at(bedside) == []
    await bedside.sessions.create({key: value for key, value in wrong.items() if key not in ("id", "meta")})
    assert await due_at(bedside) == [13, 28, 43, 58, 88, 118]


async def test_a_dose_that_is_charted_after_the_visit_ended_makes_nothing_due(bedside):
    await bedside.chart()
    bedside.clock.forward(minutes=20)
    period = {**bedside.visit["period"], "end": zulu(bedside.clock.now)}
    await bedside.sessions.update({**bedside.visit, "status": "finished", "period": period})
    await bedside.sessions.create(bedside.dose(70, "completed", minutes=19))
    assert await due_at(bedside) == []


async def test_what_is_missed_again_after_its_late_reading_was_withdrawn_calls_again(dosed):
    await pass_time(dosed, 21)
    late = await dosed.chart(minutes=5)
    (call,) = await tasks(dosed, codes.VITALS_MISSED)
    assert call["status"] == "completed"
    await dosed.sessions.update({**late, "status": "entered-in-error"})
    await pass_time(dosed, 1)
    (call,) = await tasks(dosed, codes.VITALS_MISSED)
    assert call["status"] == "requested"


async def test_words_in_the_place_of_a_value_are_no_vital_signs(dosed):
    dosed.clock.forward(minutes=15)
    said = dosed.vitals()
    said["component"][0] = {"code": codes.SYSTOLIC.concept(), "valueString": "not measured"}
    await dosed.sessions.create(said)
    assert await due_at(dosed, "completed") == []
    await dosed.chart()
    assert await due_at(dosed, "completed") == [0]


async def test_a_dose_charted_hours_later_is_watched_from_then_on_while_the_patient_is_there(bedside):
    bedside.clock.forward(minutes=130)
    await bedside.sessions.create(bedside.dose(70, "completed", minutes=127))
    assert await due_at(bedside) == [8]
    await pass_time(bedside, 14)
    assert len(await missed(bedside, "requested")) == 1


async def test_a_start_that_is_corrected_to_earlier_leaves_no_stale_point_beside_the_right_one(dosed):
    (given,) = await dosed.sessions.search("MedicationAdministration", patient=dosed.who["id"])
    dosed.clock.forward(minutes=2)
    begun = {"start": zulu(dosed.clock.now - timedelta(minutes=32))}
    await dosed.sessions.update({**given, "effectivePeriod": begun})
    assert await due_at(dosed) == [13, 28, 58, 88]


async def test_a_start_that_is_corrected_by_a_minute_leaves_the_call_for_what_was_missed(dosed):
    (given,) = await dosed.sessions.search("MedicationAdministration", patient=dosed.who["id"])
    await pass_time(dosed, 22)
    (call,) = await missed(dosed, "requested")
    begun = {"start": zulu(dosed.clock.now - timedelta(minutes=21))}
    await dosed.sessions.update({**given, "effectivePeriod": begun})
    assert [(one["id"], one["status"]) for one in await missed(dosed)] == [(call["id"], "requested")]
    assert await due_at(dosed) == [-6, 9, 24, 39, 69, 99]
    await dosed.chart()
    assert await missed(dosed, "requested") == []


async def other_visit(bedside):
    booked = await bedside.tell("scheduling", appointment(bedside.who, None, bedside.clock.now, visit=codes.VISIT_PREP))
    (visit,) = await bedside.sessions.search("Encounter", appointment=f"Appointment/{booked['id']}")
    return visit


async def test_a_set_that_is_moved_to_the_other_visit_opens_what_it_completed_and_completes_it_where_it_belongs(dosed):
    second = await other_visit(dosed)
    dosed.clock.forward(minutes=15)
    astray = await dosed.sessions.create(dosed.vitals(encounter=about(second)))
    assert await due_at(dosed, "completed") == []
    there = await dosed.sessions.update({**astray, "encounter": about(dosed.visit), "status": "corrected"})
    assert (await due_at(dosed, "completed"), await minutes_of(dosed, there)) == ([0], [15])
    back = await dosed.sessions.update({**there, "encounter": about(second)})
    assert (await due_at(dosed, "completed"), await minutes_of(dosed, back)) == ([], [])


async def test_a_reading_that_alarms_and_is_moved_calls_in_the_visit_it_belongs_to(dosed):
    second = await other_visit(dosed)
    astray = await dosed.sessions.create(dosed.vitals(190, encounter=about(second)))
    await dosed.sessions.update({**astray, "encounter": about(dosed.visit)})
    (call,) = await tasks(dosed, codes.VITAL_ALARM)
    assert (call["status"], call["encounter"]) == ("requested", about(dosed.visit))


async def test_when_no_dose_stands_any_more_readings_say_no_minutes(dosed):
    after = await dosed.chart()
    (given,) = await dosed.sessions.search("MedicationAdministration", patient=dosed.who["id"])
    await dosed.sessions.update({**given, "status": "entered-in-error"})
    assert await minutes_of(dosed, after) == []


# -- charted late ------------------------------------------------------------------------------------------------------


async def late_by(bedside, reading):
    held = await bedside.sessions.get("Observation", reading["id"])
    return [one["valueInteger"] for one in held.get("extension", []) if one["url"] == codes.EXT_CHARTED_LATE]


async def test_a_reading_charted_late_closes_what_was_due_is_marked_late_and_is_reviewed(dosed):
    dosed.clock.forward(minutes=40)
    late = await dosed.chart(minutes=25)
    assert (await due_at(dosed, "completed"), await late_by(dosed, late)) == ([-25], [25])
    await dosed.chart(minutes=16)
    on_time = await dosed.chart(minutes=15)
    (asked,) = await tasks(dosed, codes.REVIEW)
    (issue,) = await dosed.sessions.search("DetectedIssue", code=codes.LATE_READING.token())
    assert (asked["focus"], len(issue["implicated"])) == (about(late), 2)
    assert (await late_by(dosed, on_time), await tasks(dosed, codes.VITAL_ALARM)) == ([], [])


async def test_who_has_looked_at_what_was_charted_late_is_asked_again_about_the_next(dosed):
    dosed.clock.forward(minutes=40)
    await dosed.chart(minutes=25)
    (asked,) = await tasks(dosed, codes.REVIEW)
    await dosed.sessions.update({**asked, "status": "completed"})
    second = await dosed.chart(minutes=20)
    (asked,) = await tasks(dosed, codes.REVIEW)
    assert (asked["status"], asked["focus"]) == ("requested", about(second))


async def test_a_correction_is_not_charted_late_by_it_and_what_says_when_it_was_issued_counts_from_then(dosed):
    taken = await dosed.chart()
    dosed.clock.forward(minutes=60)
    await dosed.sessions.update({**taken, "status": "corrected"})
    said = await dosed.chart(minutes=50, issued=zulu(dosed.clock.now - timedelta(minutes=45)))
    late = await dosed.chart(minutes=50, issued=zulu(dosed.clock.now - timedelta(minutes=20)))
    assert [await late_by(dosed, one) for one in (taken, said, late)] == [[], [], [30]]


# -- what is due is the service's own ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "silenced",
    [
        {"status": "completed"},
        {"status": "cancelled"},
        {"executionPeriod": {"start": "2031-01-01T00:00:00Z"}},
        {"businessStatus": {"text": "seen"}},
        None,
    ],
    ids=["ticked off", "cancelled", "moved", "said to be missed", "deleted"],
)
async def test_what_is_due_is_ended_by_no_hand(dosed, silenced):
    first, *_ = await tasks(dosed, codes.VITALS_DUE, "requested")
    with pytest.raises(Unprocessable) as refused:
        await (dosed.sessions.delete(first) if silenced is None else dosed.sessions.update({**first, **silenced}))
    assert rules_of(refused) == {"T-KEEP"}
    nurse = {"reference": "Practitioner/nurse"}
    taken = await dosed.sessions.update({**first, "status": "accepted", "owner": nurse, "note": [{"text": "mine"}]})
    dosed.clock.forward(minutes=15)
    await dosed.chart()
    (done,) = await tasks(dosed, codes.VITALS_DUE, "completed")
    assert (done["id"], done["owner"]) == (taken["id"], nurse)


@pytest.mark.parametrize(
    "said", [{"valueBoolean": False}, {"valueCodeableConcept": codes.Code(codes.KAP, "not-well").concept()}]
)
async def test_a_chaperone_who_says_that_the_patient_is_not_well_calls_at_once(at_home, said):
    await seen(at_home, codes.CHAPERONE_CHECK, {"valueBoolean": True})
    assert await at_home.raised() == [0, 0, 0]
    await seen(at_home, codes.CHAPERONE_CHECK, said)
    (call,) = await tasks(at_home, codes.SYMPTOM_ALARM)
    assert call["priority"] == "stat"


async def test_a_dose_that_says_only_its_end_began_by_then_and_no_other_dose_moves_what_is_due(bedside):
    end = {"effectivePeriod": {"end": zulu(bedside.clock.now)}}
    await bedside.sessions.create({**bedside.dose(35, "completed"), **end})
    assert await due_at(bedside) == [15, 30, 45, 60, 90, 120]
    bedside.clock.forward(minutes=14)
    await bedside.sessions.create(
        {**bedside.dose(4, "completed"), "medicationCodeableConcept": {"text": "Ondansetron"}}
    )
    await bedside.sessions.create(bedside.dose(10, "completed"))
    assert (await due_at(bedside))[0] == 1
