"""An alarm's whole life: repeated, treated, over; and what nobody but the service may call its own."""

from __future__ import annotations

import pytest

from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.outcome import Unprocessable
from shared.fhir.raised import identifier
from tests.integration.services.bedside import rules_of, vital
from tests.integration.services.course import about
from tests.integration.services.test_sessions_watching import pass_time

LABETALOL = codes.Code(codes.RXNORM, "6185", "labetalol")
NURSE = {"reference": "Practitioner/nurse"}


async def tasks(bedside, code):
    return await bedside.sessions.search("Task", patient=bedside.who["id"], code=code.token())


async def issue_of(bedside, rule):
    found = await bedside.sessions.search("DetectedIssue", patient=bedside.who["id"])
    return [one for one in found if rule in {coding["code"] for coding in one["code"]["coding"]}]


def rescue(bedside, reading, **more):
    return {
        "resourceType": "MedicationAdministration",
        "status": "completed",
        "medicationCodeableConcept": LABETALOL.concept(),
        "subject": about(bedside.who),
        "context": about(bedside.visit),
        "effectiveDateTime": zulu(bedside.clock.now),
        "performer": [{"actor": NURSE}],
        "reasonReference": [about(reading)],
        "dosage": {"dose": {"value": 10, "unit": "mg", "system": codes.UCUM, "code": "mg"}},
        **more,
    }


async def test_a_high_pressure_calls_and_is_due_again_and_the_second_is_sustained(bedside):
    await bedside.chart(185, 100)
    assert len(await tasks(bedside, codes.VITAL_ALARM)) == 1
    (again,) = await tasks(bedside, codes.PRESSURE_AGAIN)
    assert again["status"] == "requested"
    assert await tasks(bedside, codes.SUSTAINED_PRESSURE) == []
    bedside.clock.forward(minutes=5)
    await bedside.sessions.create(
        bedside.reading(vital(codes.SYSTOLIC, 182, "mm[Hg]"), vital(codes.DIASTOLIC, 95, "mm[Hg]"))
    )
    (sustained,) = await tasks(bedside, codes.SUSTAINED_PRESSURE)
    assert (sustained["priority"], sustained["status"]) == ("stat", "requested")
    assert "AdverseEvent" in sustained["description"]
    again = await tasks(bedside, codes.PRESSURE_AGAIN)
    assert [one["status"] for one in again] == ["completed", "requested"]


async def test_a_pressure_that_came_down_in_between_is_not_sustained(bedside):
    await bedside.chart(185, 100)
    bedside.clock.forward(minutes=5)
    await bedside.chart(150, 90)
    bedside.clock.forward(minutes=5)
    await bedside.chart(185, 100)
    assert await tasks(bedside, codes.SUSTAINED_PRESSURE) == []


async def test_a_sustained_pressure_charted_late_is_reviewed_and_calls_nobody(bedside):
    await bedside.chart(185, 100, minutes=40)
    await bedside.chart(185, 100, minutes=30)
    assert await tasks(bedside, codes.SUSTAINED_PRESSURE) == []
    assert len(await issue_of(bedside, "A-BP-SUSTAINED")) == 1
    assert await tasks(bedside, codes.PRESSURE_AGAIN) == []


async def test_what_was_given_for_an_alarm_and_how_it_ended_are_joined_to_it(bedside):
    reading = await bedside.chart(185, 100)
    bedside.clock.forward(minutes=2)
    given = await bedside.sessions.create(rescue(bedside, reading))
    (issue,) = await issue_of(bedside, "A-BP")
    (done,) = issue["mitigation"]
    assert (done["action"]["text"], done["author"]) == ("labetalol", NURSE)
    bedside.clock.forward(minutes=5)
    fine = await bedside.chart(150, 90)
    (task,) = await tasks(bedside, codes.VITAL_ALARM)
    said = [(one["type"]["coding"][0]["code"], one["valueReference"]["reference"]) for one in task["output"]]
    assert said == [
        ("treatment", f"MedicationAdministration/{given['id']}"),
        ("back-within-limits", f"Observation/{fine['id']}"),
    ]
    assert task["status"] == "requested"
    (flag,) = await bedside.sessions.search("Flag", patient=bedside.who["id"])
    assert flag["status"] == "inactive"
    await bedside.chart(140, 80)
    (task,) = await tasks(bedside, codes.VITAL_ALARM)
    assert len(task["output"]) == 2


async def test_a_correction_of_the_alarming_value_keeps_what_was_done_about_it(bedside):
    reading = await bedside.chart(185, 100)
    await bedside.sessions.create(rescue(bedside, reading))
    worse = bedside.vitals(200, 100)["component"]
    await bedside.sessions.update({**reading, "status": "corrected", "component": worse})
    (issue,) = await issue_of(bedside, "A-BP")
    assert "200" in issue["detail"]
    assert len(issue["mitigation"]) == 1


@pytest.mark.parametrize("status", ["not-done", "entered-in-error"])
async def test_what_was_not_given_treats_nothing(bedside, status):
    reading = await bedside.chart(185, 100)
    await bedside.sessions.create(rescue(bedside, reading, status=status))
    (issue,) = await issue_of(bedside, "A-BP")
    assert "mitigation" not in issue


async def test_an_earlier_reading_or_one_that_says_less_ends_no_alarm(bedside):
    await bedside.chart(185, 100)
    await bedside.chart(120, 80, minutes=5)
    bedside.clock.forward(minutes=5)
    await bedside.sessions.create(bedside.reading(vital(codes.SYSTOLIC, 120, "mm[Hg]")))
    await bedside.chart(120, 80, status="registered")
    (flag,) = await bedside.sessions.search("Flag", patient=bedside.who["id"])
    assert flag["status"] == "active"


@pytest.mark.parametrize("status", ["registered", "unknown", "preliminary"])
async def test_a_value_beyond_its_limit_calls_whatever_its_status_says(bedside, status):
    await bedside.chart(185, 100, status=status)
    assert len(await tasks(bedside, codes.VITAL_ALARM)) == 1


@pytest.mark.parametrize(
    ("value", "rules", "asked"), [("<70", {"A-SPO2"}, 0), ("<95", set(), 1), (">70", set(), 1), (">=90", set(), 0)]
)
async def test_a_value_with_a_comparator_never_passes_in_silence(bedside, value, rules, asked):
    await bedside.sessions.create(bedside.reading(vital(codes.OXYGEN_SATURATION, value, "%")))
    assert await bedside.rules() == rules
    assert len(await tasks(bedside, codes.REVIEW)) == asked


async def test_nobody_gives_a_task_or_flag_the_name_of_an_alarm(bedside):
    reading = bedside.vitals(185, 100)
    planted = {
        "resourceType": "Task",
        "identifier": [identifier(codes.ID_TASK, "alarm", "x", "A-BP")],
        "status": "completed",
        "intent": "order",
        "code": codes.VITAL_ALARM.concept(),
        "for": about(bedside.who),
        "encounter": about(bedside.visit),
    }
    with pytest.raises(Unprocessable) as refused:
        await bedside.sessions.create(planted)
    assert rules_of(refused) == {"T-NAME"}
    await bedside.sessions.create(reading)
    (call,) = await tasks(bedside, codes.VITAL_ALARM)
    taken = {**call, "status": "accepted", "owner": {"reference": "Practitioner/prescriber"}}
    assert (await bedside.sessions.update(taken))["status"] == "accepted"


def feed(bedside, data):
    made = bedside.reading(code=codes.OXYGEN_SATURATION.concept())
    del made["component"]
    origin = {"value": 0, "unit": "%", "system": codes.UCUM, "code": "%"}
    return {**made, "valueSampledData": {"origin": origin, "period": 1000, "dimensions": 1, "data": data}}


async def take(bedside):
    """Have a nurse take the call of an alarm."""
    (call,) = await bedside.sessions.search("Task", code=codes.VITAL_ALARM.token())
    await bedside.sessions.update({**call, "status": "accepted", "owner": NURSE})


async def calls(bedside):
    found = await bedside.sessions.search("Task", code=codes.VITAL_ALARM.token(), status="requested")
    return [one["description"] for one in found]


async def test_an_alarm_that_begins_anew_after_it_was_taken_is_another_call(bedside):
    await bedside.sessions.create(feed(bedside, "97 75"))
    await take(bedside)
    bedside.clock.forward(minutes=3)
    await bedside.chart()
    bedside.clock.forward(minutes=40)
    for data in ("97 60", "97 60 61"):
        await bedside.sessions.create(feed(bedside, data))
    (call,) = await calls(bedside)
    assert "60" in call


@pytest.mark.parametrize(("value", "again"), [(59, 1), (89, 0)])
async def test_a_reading_that_is_corrected_to_worse_after_its_alarm_was_taken_calls_again(bedside, value, again):
    low = await bedside.sessions.create(bedside.reading(vital(codes.OXYGEN_SATURATION, 88, "%")))
    await take(bedside)
    worse = bedside.reading(vital(codes.OXYGEN_SATURATION, value, "%"))["component"]
    await bedside.sessions.update({**low, "status": "corrected", "component": worse})
    assert len(await calls(bedside)) == again


async def test_a_reading_that_ended_an_alarm_and_is_withdrawn_lets_it_stand_again(bedside):
    await bedside.sessions.create(bedside.reading(vital(codes.OXYGEN_SATURATION, 82, "%")))
    bedside.clock.forward(minutes=1)
    fine = await bedside.chart()
    (flag,) = await bedside.sessions.search("Flag", patient=bedside.who["id"])
    assert flag["status"] == "inactive"
    await bedside.sessions.update({**fine, "status": "entered-in-error"})
    (flag,) = await bedside.sessions.search("Flag", patient=bedside.who["id"])
    (call,) = await bedside.sessions.search("Task", code=codes.VITAL_ALARM.token())
    assert (flag["status"], "businessStatus" in call) == ("active", False)


async def called(bedside, **criteria):
    kinds = ",".join(one.token() for one in (codes.VITAL_ALARM, codes.SUSTAINED_PRESSURE))
    return await bedside.sessions.search("Task", patient=bedside.who["id"], code=kinds, **criteria)


async def test_a_crisis_that_lasts_is_one_call_of_each_rule_and_its_readings_belong_to_it(bedside):
    await bedside.chart()
    for taken in (False, False, True, True, True):
        bedside.clock.forward(minutes=5)
        await bedside.chart(190, 115)
        for one in await called(bedside, status="requested") if taken else ():
            await bedside.sessions.update({**one, "status": "accepted", "owner": {"reference": "Practitioner/nurse"}})
    assert len(await called(bedside)) == 2
    (issue,) = await issue_of(bedside, "A-BP")
    assert len(issue["implicated"]) == 5


async def test_a_crisis_that_deepens_after_somebody_came_is_another_call(bedside):
    await bedside.chart(185)
    (first,) = await called(bedside)
    await bedside.sessions.update({**first, "status": "accepted", "owner": {"reference": "Practitioner/nurse"}})
    bedside.clock.forward(seconds=30)
    await bedside.chart(204)
    assert len(await called(bedside)) == 1
    bedside.clock.forward(seconds=20)
    await bedside.chart(205)
    assert len(await called(bedside, status="requested")) == 1


async def test_a_crisis_is_not_over_by_a_reading_from_before_its_last(bedside):
    await bedside.chart(190)
    bedside.clock.forward(minutes=4)
    await bedside.chart(190)
    await bedside.chart(minutes=2)
    (flag, *_) = list(await bedside.sessions.search("Flag", patient=bedside.who["id"]))
    assert flag["status"] == "active"
    bedside.clock.forward(minutes=1)
    await bedside.chart()
    assert {one["status"] for one in await bedside.sessions.search("Flag", patient=bedside.who["id"])} == {"inactive"}


async def test_what_one_call_took_in_is_no_news_after_it_was_ended(bedside):
    await bedside.chart(190)
    bedside.clock.forward(seconds=30)
    second = await bedside.chart(190)
    (first,) = await called(bedside)
    await bedside.sessions.update({**first, "status": "completed", "owner": {"reference": "Practitioner/nurse"}})
    await bedside.sessions.update({**second, "note": [{"text": "left arm"}]})
    assert await called(bedside, status="requested") == []
    bedside.clock.forward(seconds=20)
    await bedside.chart(190)
    assert len(await called(bedside, status="requested")) == 1


async def test_a_low_pressure_closes_the_gate_calls_and_keeps_the_patient(bedside):
    await bedside.chart(70, 35)
    assert len(await called(bedside)) == 1
    with pytest.raises(Unprocessable) as error:
        await bedside.start()
    assert {issue.rule for issue in error.value.issues} == {"G-BP-HOLD"}
    bedside.clock.forward(minutes=1)
    await bedside.chart()
    assert {one["status"] for one in await bedside.sessions.search("Flag", patient=bedside.who["id"])} == {"inactive"}


# -- a slip: corrected or withdrawn, it calls nobody any more ---------------------------------------------------------


async def stand(bedside):
    """Return how DetectedIssues, Flags and calls stand."""
    who = bedside.who["id"]
    found = [await bedside.sessions.search(type_, patient=who) for type_ in ("DetectedIssue", "Flag")]
    return [{one["status"] for one in each} for each in (*found, await called(bedside))]


OVER = [{"entered-in-error"}, {"inactive"}, {"completed"}]
STANDS = [{"final"}, {"active"}, {"requested"}]


async def withdrawn(bedside, wrong):
    await bedside.sessions.update({**wrong, "status": "entered-in-error"})


async def corrected(bedside, wrong):
    await bedside.sessions.update({**wrong, "status": "corrected", "component": bedside.vitals()["component"]})


async def deleted(bedside, wrong):
    await bedside.sessions.delete(wrong)


@pytest.mark.parametrize("mend", [withdrawn, corrected, deleted])
async def test_a_slip_that_is_mended_takes_its_alarm_back(bedside, mend):
    wrong = await bedside.chart(210)
    assert await stand(bedside) == STANDS
    await mend(bedside, wrong)
    assert await stand(bedside) == OVER
    (call,) = await called(bedside)
    assert call["statusReason"]["text"].startswith("The reading was ")
    assert [one["status"] for one in await tasks(bedside, codes.PRESSURE_AGAIN)] == ["cancelled"]
    await bedside.chart(200)
    assert len(await called(bedside, status="requested")) == 1


async def test_a_reading_that_was_withdrawn_by_mistake_alarms_again(bedside):
    low = await bedside.sessions.create(bedside.reading(vital(codes.OXYGEN_SATURATION, 80, "%")))
    await withdrawn(bedside, low)
    assert await stand(bedside) == OVER
    await bedside.sessions.update({**low, "status": "corrected"})
    assert await stand(bedside) == STANDS


async def test_another_reading_that_still_alarms_keeps_the_alarm_up_and_the_second_no_more_sustains_it(bedside):
    wrong = await bedside.chart(210)
    bedside.clock.forward(minutes=5)
    await bedside.chart(185)
    assert len(await called(bedside, status="requested")) == 2
    await withdrawn(bedside, wrong)
    (call,) = await called(bedside, status="requested")
    (issue,) = [one for one in await issue_of(bedside, "A-BP") if one["status"] == "final"]
    assert ("185" in call["description"], "185" in issue["detail"], len(issue["implicated"])) == (True, True, 1)
    (sustained,) = await tasks(bedside, codes.SUSTAINED_PRESSURE)
    assert sustained["status"] == "completed"


async def test_a_minute_of_a_feed_that_is_withdrawn_leaves_the_alarm_to_the_other_that_is_low(bedside):
    first = await bedside.sessions.create(feed(bedside, "97 80"))
    bedside.clock.forward(minutes=1)
    second = await bedside.sessions.create(feed(bedside, "85 85"))
    await withdrawn(bedside, first)
    assert await stand(bedside) == STANDS
    await withdrawn(bedside, second)
    assert await stand(bedside) == OVER


async def test_a_question_whether_it_is_a_slip_ends_with_its_correction(bedside):
    wrong = await bedside.chart(1200, 80)
    await corrected(bedside, wrong)
    assert [one["status"] for one in await tasks(bedside, codes.REVIEW)] == ["completed"]


async def test_what_was_done_about_a_reading_that_is_withdrawn_stays_with_it(bedside):
    wrong = await bedside.chart(185, 100)
    await bedside.sessions.create(rescue(bedside, wrong))
    await withdrawn(bedside, wrong)
    (issue,) = await issue_of(bedside, "A-BP")
    assert (issue["status"], len(issue["mitigation"])) == ("entered-in-error", 1)
    bedside.clock.forward(minutes=1)
    await bedside.chart()
    (call,) = await called(bedside)
    assert "businessStatus" not in call


# -- charted late, and alarms beside it -------------------------------------------------------------------------------


async def reviews(bedside):
    return [one["status"] for one in await tasks(bedside, codes.REVIEW)]


async def test_what_a_feed_kept_back_is_reviewed_and_mutes_no_alarm_of_now(bedside):
    await bedside.sessions.create({**feed(bedside, "84 84"), "effectiveDateTime": "2026-11-22T08:40:00Z"})
    assert (await reviews(bedside), await calls(bedside)) == (["requested"], [])
    await bedside.sessions.create(feed(bedside, "97 60"))
    (call,) = await calls(bedside)
    assert "60" in call
    await bedside.sessions.create({**feed(bedside, "83 84"), "effectiveDateTime": "2026-11-22T08:41:00Z"})
    assert (len(await reviews(bedside)), len(await calls(bedside))) == (1, 1)


@pytest.mark.parametrize("systolic", [190, 200])
async def test_a_reading_whose_time_was_a_slip_calls_when_it_is_corrected_to_now(bedside, systolic):
    late = await bedside.chart(190, 100, minutes=60)
    assert (await reviews(bedside), await calls(bedside)) == (["requested"], [])
    at = zulu(bedside.clock.now)
    now = {"effectiveDateTime": at, "component": bedside.vitals(systolic, 100)["component"]}
    await bedside.sessions.update({**late, **now, "status": "corrected"})
    (call,) = await calls(bedside)
    assert (str(systolic) in call, await reviews(bedside)) == (True, ["completed"])


async def test_a_correction_to_worse_that_comes_late_leaves_the_call_climbing(bedside):
    reading = await bedside.chart(185, 100)
    bedside.clock.forward(minutes=20)
    worse = bedside.vitals(220, 100)["component"]
    await bedside.sessions.update({**reading, "status": "corrected", "component": worse})
    assert (len(await calls(bedside)), await reviews(bedside)) == (1, ["requested"])


async def test_a_normal_reading_dated_ahead_ends_no_alarm_and_an_alarming_one_dated_ahead_is_ended_by_the_next(bedside):
    await bedside.chart(190)
    await bedside.chart(minutes=-50)
    (flag,) = await bedside.sessions.search("Flag", patient=bedside.who["id"])
    assert flag["status"] == "active"
    await bedside.sessions.create(bedside.reading(vital(codes.OXYGEN_SATURATION, 80, "%"), minutes=-50))
    bedside.clock.forward(minutes=2)
    await bedside.chart()
    assert {one["status"] for one in await bedside.sessions.search("Flag", patient=bedside.who["id"])} == {"inactive"}


async def test_a_pressure_is_measured_again_as_long_as_it_is_beyond_whichever_side(bedside):
    async def again():
        return [one["status"] for one in await tasks(bedside, codes.PRESSURE_AGAIN)]

    for systolic, waiting in ((190, ["requested"]), (190, ["completed", "requested"]), (120, ["completed"] * 2)):
        await bedside.chart(systolic)
        assert sorted(await again()) == waiting
        bedside.clock.forward(minutes=5)
    await bedside.chart(70, 40)
    assert sorted(await again()) == ["completed", "completed", "requested"]


@pytest.mark.parametrize(
    ("due", "code", "unit", "beyond", "within"),
    [
        (codes.SATURATION_AGAIN, codes.OXYGEN_SATURATION, "%", 85, 97),
        (codes.HEART_RATE_AGAIN, codes.HEART_RATE, "/min", 140, 80),
        (codes.BREATHING_AGAIN, codes.RESPIRATORY_RATE, "/min", 6, 14),
    ],
)
async def test_what_was_beyond_a_limit_is_measured_again_until_it_is_back(bedside, due, code, unit, beyond, within):
    async def again():
        return sorted(one["status"] for one in await tasks(bedside, due))

    async def measured(value):
        bedside.clock.forward(minutes=2)
        return await bedside.sessions.create(bedside.reading(vital(code, value, unit), code=code.concept()))

    await measured(beyond)
    assert await again() == ["requested"]
    slip = await measured(beyond)
    assert await again() == ["completed", "requested"]
    await bedside.sessions.update({**slip, "status": "entered-in-error"})
    assert await again() == ["cancelled", "requested"]
    await bedside.sessions.update(slip)
    assert await again() == ["completed", "requested"]
    await measured(within)
    assert await again() == ["completed", "completed"]


async def test_a_reading_that_was_over_and_is_corrected_to_worse_is_over_by_the_next_within_the_limits(bedside):
    high = await bedside.chart(190)
    bedside.clock.forward(minutes=3)
    await bedside.chart()
    worse = bedside.vitals(195)["component"]
    await bedside.sessions.update({**high, "status": "corrected", "component": worse})
    assert (await stand(bedside))[1] == {"active"}
    bedside.clock.forward(minutes=1)
    await bedside.chart()
    assert (await stand(bedside))[1] == {"inactive"}


@pytest.mark.parametrize("how", [{"status": "inactive"}, {"status": "entered-in-error"}, None])
async def test_the_flag_of_an_alarm_comes_down_by_its_task_and_by_no_hand(bedside, how):
    await bedside.chart(190)
    (flag,) = await bedside.sessions.search("Flag", patient=bedside.who["id"])
    with pytest.raises(Unprocessable) as refused:
        await (bedside.sessions.delete(flag) if how is None else bedside.sessions.update({**flag, **how}))
    assert rules_of(refused) == {"T-KEEP"}
    (call,) = await called(bedside)
    await bedside.sessions.update({**call, "status": "completed", "owner": NURSE})
    assert (await stand(bedside))[1] == {"inactive"}


async def test_a_reading_that_called_in_time_and_is_sent_again_later_is_not_charted_late(bedside):
    told = await bedside.chart(190, 118)
    assert len(await tasks(bedside, codes.VITAL_ALARM)) == 1
    bedside.clock.forward(minutes=20)
    await bedside.sessions.update({**told, "status": "amended", "note": [{"text": "Left arm"}]})
    assert await tasks(bedside, codes.REVIEW) == []
    assert await bedside.sessions.search("DetectedIssue", code=codes.CHARTED_LATE.token()) == []
    late = await bedside.chart(190, 118, minutes=18)
    assert [one["focus"] for one in await tasks(bedside, codes.REVIEW)][:1] == [about(late)]


async def test_a_slip_whose_repeat_was_missed_calls_nobody_any_more(bedside):
    slip = await bedside.chart(190)
    await pass_time(bedside, 11)
    (call,) = await tasks(bedside, codes.VITALS_MISSED)
    await bedside.sessions.update({**slip, "status": "entered-in-error"})
    assert (call["status"], [one["status"] for one in await tasks(bedside, codes.VITALS_MISSED)]) == (
        "requested",
        ["cancelled"],
    )
