"""Leaving after a dose: home only when its conditions hold, by any path; against advice always recorded."""

from __future__ import annotations

from datetime import timedelta

import pytest

from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.outcome import BadRequest, NotFound, Unprocessable
from shared.runtime.timers import run_once
from tests.integration.services.bedside import pre_dose, rules_of, vital
from tests.integration.services.course import about, appointment, milligrams

READY = {
    **{f"aldrete-{part}": 2 for part in ("activity", "respiration", "circulation", "consciousness", "saturation")},
    "sedation": False,
    **dict.fromkeys(("oriented", "gait", "fluids", "escort-present", "taught-driving", "taught-alcohol", "safe"), True),
    "escort-name": "Her brother",
    "escort-identity": "Passport seen",
}
DISPOSITION = "http://terminology.hl7.org/CodeSystem/discharge-disposition"


async def ready(bedside, **answers):
    kinds = {bool: "valueBoolean", int: "valueInteger", str: "valueString"}
    given = {**READY, **{name.replace("_", "-"): value for name, value in answers.items()}}
    return await bedside.sessions.create(
        {
            "resourceType": "QuestionnaireResponse",
            "questionnaire": codes.DISCHARGE_QUESTIONNAIRE,
            "status": "completed",
            "subject": about(bedside.who),
            "encounter": about(bedside.visit),
            "authored": zulu(bedside.clock.now),
            "item": [
                {"linkId": link, "answer": [{kinds[type(value)]: value}]}
                for link, value in given.items()
                if value is not None
            ],
        }
    )


async def leave(bedside, **given):
    forms = {"disposition": "valueCode", "left": "valueDateTime", "attempt": "valueString"}
    parameters = [{"name": name, forms[name]: value} for name, value in given.items() if name in forms]
    if "witness" in given:
        parameters.append({"name": "witness", "valueReference": {"reference": given["witness"]}})
    return await bedside.sessions.call("discharge", bedside.visit, *parameters)


def with_disposition(visit, code, end):
    return {
        **visit,
        "status": "finished",
        "period": {**visit["period"], "end": zulu(end)},
        "hospitalization": {"dischargeDisposition": {"coding": [{"system": DISPOSITION, "code": code}]}},
    }


@pytest.fixture
async def dosed(bedside):
    await bedside.chart()
    given = await bedside.start(70)
    end = {**given["effectivePeriod"], "end": zulu(bedside.clock.now)}
    await bedside.sessions.update({**given, "status": "completed", "effectivePeriod": end})
    return bedside


async def test_home_after_the_least_stay_with_checklist_pressure_and_escort(dosed):
    dosed.clock.forward(minutes=120)
    await dosed.chart()
    await ready(dosed)
    visit = await leave(dosed)
    assert visit["status"] == "finished"
    assert visit["hospitalization"]["dischargeDisposition"]["coding"][0]["code"] == "home"
    escorts = [one for one in visit["participant"] if one["type"][0]["coding"][0]["code"] == "ESC"]
    assert [one["individual"]["display"] for one in escorts] == ["Her brother"]
    assert await dosed.rules() == set()


async def test_nobody_goes_home_before_the_least_stay_by_any_path(dosed):
    dosed.clock.forward(minutes=119)
    await dosed.chart()
    await ready(dosed)
    later = dosed.clock.now + timedelta(minutes=60)
    paths = [
        leave(dosed),
        leave(dosed, left=zulu(later)),
        dosed.sessions.update(with_disposition(dosed.visit, "home", dosed.clock.now)),
        dosed.sessions.update(with_disposition(dosed.visit, "home", later)),
    ]
    for path in paths:
        with pytest.raises(Unprocessable) as error:
            await path
        assert rules_of(error) & {"L-STAY", "L-TIME"}


async def test_a_disposition_is_not_moved_to_an_earlier_time(dosed):
    dosed.clock.forward(minutes=121)
    await dosed.chart()
    await ready(dosed)
    visit = await leave(dosed)
    with pytest.raises(Unprocessable) as error:
        await dosed.sessions.update(with_disposition(visit, "home", dosed.clock.now - timedelta(minutes=60)))
    assert "L-STAY" in rules_of(error)


@pytest.mark.parametrize(
    ("answers", "rule"),
    [
        ({"aldrete_activity": 0}, "L-ALDRETE"),
        ({"aldrete_activity": None}, "L-ALDRETE"),
        ({"aldrete_activity": 3}, "L-ALDRETE"),
        ({"sedation": True}, "L-STATE"),
        ({"gait": None}, "L-STATE"),
        ({"escort_present": False}, "L-ESCORT"),
        ({"escort_name": None}, "L-ESCORT"),
        ({"escort_identity": ""}, None),
        ({"taught_driving": False}, "L-TAUGHT"),
        ({"safe": None}, "L-RISK"),
    ],
)
async def test_what_is_lacking_is_named(dosed, answers, rule):
    dosed.clock.forward(minutes=130)
    await dosed.chart()
    if rule is None:
        with pytest.raises(BadRequest):
            await ready(dosed, **answers)
        return
    await ready(dosed, **answers)
    with pytest.raises(Unprocessable) as error:
        await leave(dosed)
    assert rules_of(error) == {rule}


async def test_a_low_score_that_is_the_patient_s_own_baseline_is_enough(dosed):
    dosed.clock.forward(minutes=130)
    await dosed.chart()
    await ready(dosed, aldrete_activity=0, aldrete_baseline=8)
    with pytest.raises(Unprocessable) as error:  # what is said at leaving is no baseline
        await leave(dosed)
    assert rules_of(error) == {"L-ALDRETE"}
    before = zulu(dosed.clock.now - timedelta(minutes=130))
    await dosed.sessions.create(pre_dose(dosed.who, dosed.visit, before, aldrete_baseline=8))
    assert (await leave(dosed))["status"] == "finished"


async def test_nobody_goes_home_while_a_flag_of_high_risk_is_up(dosed):
    high = codes.Code(codes.KAP, "suicide-risk-high")
    up = {"resourceType": "Flag", "id": "high", "status": "active", "subject": about(dosed.who)}
    up |= {"code": codes.SUICIDE_RISK.concept(high), "period": {"start": zulu(dosed.clock.now)}}
    await dosed.tell("outcomes", up)
    dosed.clock.forward(minutes=130)
    await dosed.chart()
    await ready(dosed)
    with pytest.raises(Unprocessable) as error:
        await leave(dosed)
    assert rules_of(error) == {"L-RISK"}
    await dosed.tell("outcomes", {**up, "status": "inactive"})
    assert (await leave(dosed))["status"] == "finished"


@pytest.mark.parametrize(("systolic", "allowed"), [(159, True), (160, False), (144, True)])
async def test_the_pressure_is_safe_or_near_its_baseline(dosed, systolic, allowed):
    dosed.clock.forward(minutes=130)
    await ready(dosed)
    with pytest.raises(Unprocessable) as error:
        await leave(dosed)
    assert rules_of(error) == {"L-BP"}
    await dosed.chart(systolic, 80)
    if allowed:
        await leave(dosed)
        return
    with pytest.raises(Unprocessable) as error:
        await leave(dosed)
    assert rules_of(error) == {"L-BP"}


@pytest.mark.parametrize(
    ("readings", "rules"),
    [
        ([{codes.OXYGEN_SATURATION: 80}], {"L-ALARM"}),
        ([{codes.SYSTOLIC: ">240"}], {"L-ALARM", "L-BP"}),
        ([{codes.SYSTOLIC: 135, codes.DIASTOLIC: 80}, {codes.SYSTOLIC: 159, codes.DIASTOLIC: 80}], {"L-BP"}),
    ],
)
async def test_nobody_goes_home_on_a_reading_that_alarms_or_a_pressure_that_rises(dosed, readings, rules):
    dosed.clock.forward(minutes=125)
    await dosed.chart()
    units = {codes.OXYGEN_SATURATION: "%"}
    for said in readings:
        dosed.clock.forward(minutes=2)
        parts = [vital(code, value, units.get(code, "mm[Hg]")) for code, value in said.items()]
        await dosed.sessions.create(dosed.reading(*parts))
    await ready(dosed)
    with pytest.raises(Unprocessable) as error:
        await leave(dosed)
    assert rules_of(error) == rules


async def test_while_a_dose_of_an_infusion_goes_on_nobody_goes_home(bench, clock, bedside):
    await bedside.chart()
    route = {"coding": [codes.ROUTE_IV.coding()]}
    dose = bedside.dose(35, minutes=6)
    await bedside.sessions.create({**dose, "dosage": {**dose["dosage"], "route": route}})
    bedside.clock.forward(hours=5)
    await bedside.chart()
    await ready(bedside)
    with pytest.raises(Unprocessable) as error:
        await leave(bedside)
    assert rules_of(error) == {"L-STAY"}


async def test_a_dose_recorded_after_the_visit_said_home_too_early_is_recorded_and_calls_a_person(bedside):
    await leave(bedside)
    await bedside.sessions.create(bedside.dose(70, "completed", minutes=30))
    assert "L-STAY" in await bedside.rules()
    (call,) = await bedside.sessions.search("Task", patient=bedside.who["id"], code=codes.LEFT_TOO_EARLY.token())
    assert (call["priority"], call["focus"]) == ("stat", about(bedside.visit))
    assert "least stay is over" in call["description"]


async def test_a_dose_that_is_moved_into_a_visit_left_too_early_is_found(bedside):
    elsewhere = {"reference": "Encounter/of-another-day"}
    dose = await bedside.sessions.create(bedside.dose(70, "completed", minutes=130, context=elsewhere))
    await leave(bedside)
    assert "L-STAY" not in await bedside.rules()
    period = {"start": zulu(bedside.clock.now - timedelta(minutes=119)), "end": zulu(bedside.clock.now)}
    await bedside.sessions.update({**dose, "context": about(bedside.visit), "effectivePeriod": period})
    assert "L-STAY" in await bedside.rules()


async def test_a_dose_whose_stay_was_over_calls_nobody_when_it_is_recorded_late(bedside):
    await leave(bedside)
    await bedside.sessions.create(bedside.dose(70, "completed", minutes=125))
    assert "L-STAY" not in await bedside.rules()


async def test_home_said_beside_another_disposition_is_home(dosed):
    visit = with_disposition(dosed.visit, "oth", dosed.clock.now)
    visit["hospitalization"]["dischargeDisposition"]["coding"].append({"system": DISPOSITION, "code": "home"})
    with pytest.raises(Unprocessable) as error:
        await dosed.sessions.update(visit)
    assert "L-STAY" in rules_of(error)


async def test_a_dose_that_says_it_is_part_of_something_else_counts_for_the_stay(bedside):
    await bedside.chart()
    part = [{"reference": "Procedure/session"}]
    await bedside.sessions.create(bedside.dose(70, "completed", partOf=part))
    bedside.clock.forward(minutes=30)
    await bedside.chart()
    await ready(bedside)
    with pytest.raises(Unprocessable) as error:
        await leave(bedside)
    assert rules_of(error) == {"L-STAY"}


async def test_a_step_recorded_after_the_end_of_an_infusion_moves_the_stay(bedside):
    route = {"coding": [codes.ROUTE_IV.coding()]}
    dose = bedside.dose(35, "completed", minutes=5)
    dose["effectivePeriod"]["end"] = zulu(bedside.clock.now)
    parent = await bedside.sessions.create({**dose, "dosage": {**dose["dosage"], "route": route}})
    bedside.clock.forward(minutes=130)
    step = {
        **bedside.dose(35, "completed"),
        "partOf": [about(parent)],
        "dosage": {"route": route, "dose": milligrams(1)},
    }
    await bedside.sessions.create(step)
    await bedside.chart()
    await ready(bedside)
    with pytest.raises(Unprocessable) as error:
        await leave(bedside)
    assert rules_of(error) == {"L-STAY"}


@pytest.mark.parametrize("disposition", [None, "exp"])
async def test_a_visit_that_ends_before_the_least_stay_calls_a_person_whatever_it_says(dosed, disposition):
    dosed.clock.forward(minutes=5)
    ended = with_disposition(dosed.visit, disposition, dosed.clock.now)
    if disposition is None:
        del ended["hospitalization"]
    await dosed.sessions.update(ended)
    (call,) = await dosed.sessions.search("Task", patient=dosed.who["id"], code=codes.LEFT_TOO_EARLY.token())
    assert (call["status"], call["priority"]) == ("requested", "stat")


@pytest.mark.parametrize("disposition", ["other-hcf", "hosp"])
async def test_a_patient_handed_over_before_the_least_stay_is_reviewed_and_nobody_is_called(dosed, disposition):
    dosed.clock.forward(minutes=5)
    await dosed.sessions.update(with_disposition(dosed.visit, disposition, dosed.clock.now))
    assert await dosed.rules() == {"L-HANDOVER"}
    tasks = await dosed.sessions.search("Task", patient=dosed.who["id"])
    (review,) = [one for one in tasks if "handed over" in one.get("description", "")]
    assert (review["priority"], review["code"]["coding"][0]["code"]) == ("urgent", codes.REVIEW.code)
    assert "least stay is over" in review["description"]


async def test_every_disposition_that_names_no_other_hands_is_judged_as_home(dosed):
    dosed.clock.forward(minutes=5)
    for disposition in ("alt-home", "oth"):
        with pytest.raises(Unprocessable) as error:
            await dosed.sessions.update(with_disposition(dosed.visit, disposition, dosed.clock.now))
        assert "L-STAY" in rules_of(error)


async def test_a_visit_in_which_a_dose_stands_is_neither_withdrawn_nor_deleted(dosed):
    dosed.clock.forward(minutes=5)
    with pytest.raises(Unprocessable) as error:
        await dosed.sessions.update({**dosed.visit, "status": "entered-in-error"})
    assert rules_of(error) == {"D-KEEP"}
    (dose,) = await dosed.sessions.search("MedicationAdministration")
    await dosed.sessions.update({**dose, "status": "entered-in-error"})
    assert (await dosed.sessions.update({**dosed.visit, "status": "entered-in-error"}))["status"] == "entered-in-error"


async def test_leaving_against_advice_is_always_recorded_with_attempt_witness_and_escalation(dosed):
    tried = "Asked to stay twice; called the escort."
    visit = await leave(dosed, disposition="aadvice", attempt=tried, witness="Practitioner/nurse")
    assert visit["hospitalization"]["dischargeDisposition"]["text"] == tried
    assert [one["individual"]["reference"] for one in visit["participant"]][-1] == "Practitioner/nurse"
    assert await dosed.rules() == {"L-AGAINST"}
    found = await dosed.sessions.search("Task", patient=dosed.who["id"], code=codes.LEFT_AGAINST_ADVICE.token())
    assert [(one["priority"], one["status"]) for one in found] == [("stat", "requested")]
    assert "witness" not in found[0]["description"]


async def test_leaving_against_advice_without_a_witness_is_recorded_and_asked_for(dosed):
    await dosed.sessions.update(with_disposition(dosed.visit, "aadvice", dosed.clock.now))
    found = await dosed.sessions.search("Task", patient=dosed.who["id"], code=codes.LEFT_AGAINST_ADVICE.token())
    assert "witness" in found[0]["description"]


async def test_a_visit_that_ends_after_a_dose_without_a_word_is_reviewed_and_one_without_a_dose_is_not(dosed):
    await dosed.sessions.update({**dosed.visit, "status": "finished"})
    assert await dosed.rules() == {"L-UNKNOWN", "L-STAY"}


async def test_without_a_dose_everybody_goes_home(bedside):
    assert (await leave(bedside))["status"] == "finished"
    assert await bedside.raised() == [0, 0, 0]


async def test_the_operation_says_what_it_needs(bedside):
    for given in ({"disposition": "moon"}, {"left": "soon"}):
        with pytest.raises(BadRequest):
            await leave(bedside, **given)
    with pytest.raises(NotFound):
        await bedside.sessions.call("discharge", {"resourceType": "Encounter", "id": "none"})
    with pytest.raises(BadRequest, match="home"):
        await bedside.sessions.call("discharge", bedside.visit, {"name": "home", "valueBoolean": True})


# -- integration after the dose


async def integration(bedside, hours, **more):
    when = bedside.clock.now + timedelta(hours=hours)
    return await bedside.tell("scheduling", appointment(bedside.who, None, when, visit=codes.VISIT_INTEGRATION, **more))


@pytest.mark.parametrize(
    ("hours", "status", "asked"),
    [(48, "booked", 0), (24, "booked", 0), (23, "booked", 1), (73, "booked", 1), (48, "cancelled", 1)],
)
async def test_who_goes_home_without_an_integration_session_in_time_has_one_booked(dosed, hours, status, asked):
    dosed.clock.forward(minutes=120)
    await dosed.chart()
    await ready(dosed)
    await integration(dosed, hours, status=status)
    visit = await leave(dosed)
    assert visit["status"] == "finished"
    found = await dosed.sessions.search("Task", patient=dosed.who["id"], code=codes.BOOK_INTEGRATION.token())
    assert len(found) == asked


async def test_a_visit_without_a_dose_asks_for_no_integration(bedside):
    await bedside.sessions.update({**bedside.visit, "status": "finished"})
    assert await bedside.sessions.search("Task", code=codes.BOOK_INTEGRATION.token()) == []


async def test_an_integration_session_that_is_booked_after_leaving_closes_what_was_asked(dosed):
    dosed.clock.forward(minutes=120)
    await leave(dosed, disposition="aadvice", attempt="Asked to stay")
    task = {"patient": dosed.who["id"], "code": codes.BOOK_INTEGRATION.token()}
    await integration(dosed, 80)
    assert [one["status"] for one in await dosed.sessions.search("Task", **task)] == ["requested"]
    await integration(dosed, 48)
    assert [one["status"] for one in await dosed.sessions.search("Task", **task)] == ["completed"]


async def test_a_start_that_is_said_afterwards_to_have_been_earlier_shortens_no_stay(bedside):
    await bedside.chart()
    given = await bedside.start(70)
    bedside.clock.forward(minutes=20)
    await bedside.chart()
    await ready(bedside)
    now = bedside.clock.now
    moved = {"start": zulu(now - timedelta(minutes=125)), "end": zulu(now)}
    await bedside.sessions.update({**given, "status": "completed", "effectivePeriod": moved})
    with pytest.raises(Unprocessable) as error:
        await leave(bedside)
    assert rules_of(error) == {"L-STAY"}


async def test_a_dose_that_was_charted_afterwards_is_believed_to_have_begun_when_it_says(bedside):
    bedside.clock.forward(minutes=125)
    await bedside.sessions.create(bedside.dose(70, "completed", minutes=125))
    await bedside.chart()
    await ready(bedside)
    await leave(bedside)


# -- finished by mistake ----------------------------------------------------------------------------------------------


async def resume(bedside, reason="The wrong patient's visit was closed", performer="Practitioner/nurse"):
    said = [
        {"name": "reason", "valueString": reason},
        {"name": "performer", "valueReference": {"reference": performer}},
    ]
    return await bedside.sessions.call("resume", bedside.visit, *said)


async def due(bedside, status="requested"):
    kinds = ",".join(one.token() for one in codes.DUE_AT_BEDSIDE)
    return await bedside.sessions.search("Task", patient=bedside.who["id"], code=kinds, status=status)


async def test_a_visit_finished_by_mistake_goes_on_with_reason_and_is_watched_from_its_due_times(dosed):
    waiting = {one["id"] for one in await due(dosed)}
    dosed.clock.forward(minutes=14)
    await dosed.sessions.update({**dosed.visit, "status": "finished"})
    assert await due(dosed) == []
    dosed.clock.forward(minutes=3)
    back = await resume(dosed)
    assert (back["status"], [one["status"] for one in back["statusHistory"]][-1]) == ("in-progress", "finished")
    assert {one["id"] for one in await due(dosed)} == waiting
    (why,) = await dosed.sessions.search("Provenance", target=f"Encounter/{dosed.visit['id']}")
    assert why["reason"][0]["text"] == "The wrong patient's visit was closed"
    assert why["agent"][0]["who"] == {"reference": "Practitioner/nurse"}
    dosed.clock.forward(minutes=4)
    service = dosed.sessions.service
    (timer,) = [one for one in service.timers if one.name == "missed-vital-signs"]
    await run_once(timer, service, dosed.sessions.store, dosed.clock.now, lambda: None)
    assert len(await dosed.sessions.search("Task", code=codes.VITALS_MISSED.token(), status="requested")) == 1


async def test_what_was_raised_because_the_patient_had_left_is_taken_back_and_raised_anew_by_the_next_end(dosed):
    dosed.clock.forward(minutes=20)
    await leave(dosed, disposition="aadvice")
    left = f"{codes.LEFT_AGAINST_ADVICE.token()},{codes.BOOK_INTEGRATION.token()},{codes.CHECK_IN.token()}"
    raised = await dosed.sessions.search("Task", code=left, status="requested")
    assert len(raised) == 4
    back = await resume(dosed)
    assert ("end" in back["period"], "hospitalization" in back) == (False, False)
    assert await dosed.sessions.search("Task", code=left, status="requested") == []
    assert {one["status"] for one in await dosed.sessions.search("Flag", patient=dosed.who["id"])} == {"inactive"}
    await leave(dosed, disposition="aadvice")
    again = await dosed.sessions.search("Task", code=left, status="requested")
    assert {one["id"] for one in again} == {one["id"] for one in raised}
    assert {one["status"] for one in await dosed.sessions.search("Flag", patient=dosed.who["id"])} == {"active"}


@pytest.mark.parametrize(
    ("given", "error"),
    [({"reason": " "}, BadRequest), ({"performer": "Patient/1"}, BadRequest), ({}, Unprocessable)],
    ids=["no reason", "nobody who may say so", "it is not finished"],
)
async def test_who_lets_a_visit_go_on_says_why_and_only_one_that_is_finished_does(dosed, given, error):
    if error is BadRequest:
        await dosed.sessions.update({**dosed.visit, "status": "finished"})
    with pytest.raises(error):
        await resume(dosed, **given)


async def test_a_visit_that_ended_days_ago_is_not_gone_on_with(dosed):
    period = {**dosed.visit["period"], "end": zulu(dosed.clock.now)}
    await dosed.sessions.update({**dosed.visit, "status": "finished", "period": period})
    dosed.clock.forward(hours=25)
    with pytest.raises(Unprocessable) as error:
        await resume(dosed)
    assert rules_of(error) == {"N-STATE"}


async def test_home_that_was_said_before_the_visit_ended_is_judged_again_at_its_end(dosed):
    dosed.clock.forward(minutes=121)
    await dosed.chart()
    await ready(dosed)
    said = {"dischargeDisposition": {"coding": [{"system": DISPOSITION, "code": "home"}]}}
    visit = await dosed.sessions.update({**dosed.visit, "hospitalization": said})
    dosed.clock.forward(minutes=2)
    await dosed.chart(200, 120)
    with pytest.raises(Unprocessable) as error:
        await dosed.sessions.update({**visit, "status": "finished"})
    assert "L-ALARM" in rules_of(error)


# -- integration that falls away ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [True, False], ids=["booked before leaving", "booked after leaving"])
async def test_an_integration_session_that_falls_away_after_leaving_is_asked_for_again(dosed, before):
    async def asked():
        about = {"patient": dosed.who["id"], "code": codes.BOOK_INTEGRATION.token()}
        return [one["status"] for one in await dosed.sessions.search("Task", **about)]

    dosed.clock.forward(minutes=120)
    made = await integration(dosed, 30) if before else None
    await leave(dosed, disposition="aadvice", attempt="Asked to stay")
    made = made or await integration(dosed, 30)
    assert await asked() == ([] if before else ["completed"])
    await dosed.tell("scheduling", {**made, "status": "fulfilled"})
    assert await asked() == ([] if before else ["completed"])
    await dosed.tell("scheduling", {**made, "status": "cancelled"})
    assert await asked() == ["requested"]
    again = await integration(dosed, 40)
    assert await asked() == ["completed"]
    await dosed.tell("scheduling", {**again, "start": zulu(dosed.clock.now + timedelta(hours=90))})
    assert await asked() == ["requested"]
    (task,) = await dosed.sessions.search("Task", patient=dosed.who["id"], code=codes.BOOK_INTEGRATION.token())
    await dosed.sessions.update({**task, "status": "cancelled", "statusReason": {"text": "The patient wants none."}})
    await dosed.tell("scheduling", {**again, "status": "cancelled"})
    assert await asked() == ["cancelled"]
    dosed.clock.forward(hours=80)
    await dosed.tell("scheduling", {**made, "id": "late", "status": "noshow"})
    assert await asked() == ["cancelled"]


async def test_a_checklist_that_the_patient_answered_sends_nobody_home(dosed):
    dosed.clock.forward(minutes=121)
    await dosed.chart()
    said = await ready(dosed)
    await dosed.sessions.update({**said, "author": about(dosed.who)})
    with pytest.raises(Unprocessable) as error:
        await leave(dosed)
    assert {"L-ALDRETE", "L-STATE"} <= rules_of(error)


@pytest.mark.parametrize("end", ["9999-12-31T23:59:59Z", "0001-01-01"])
async def test_an_end_in_another_age_is_recorded_and_raised_or_refused_and_breaks_nothing(dosed, end):
    period = {**dosed.visit["period"], "start": "0001-01-01", "end": end}
    await dosed.sessions.update({**with_disposition(dosed.visit, "aadvice", dosed.clock.now), "period": period})
    assert "L-AGAINST" in await dosed.rules()
