"""Sessions: visits planned by bookings, the gate before a dose on every path, doses that were given, alarms."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.intake.service import intake as intake_service
from services.scheduling.service import scheduling as scheduling_service
from services.sessions.service import sessions as sessions_service
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.outcome import BadRequest, NotFound, Unprocessable
from tests.integration.services.bedside import pre_dose
from tests.integration.services.course import (
    about,
    appointment,
    consent,
    milligrams,
    order,
    planned,
)


@pytest.fixture
async def intake(bench):
    return await bench.open(intake_service)


@pytest.fixture
async def scheduling(bench):
    return await bench.open(scheduling_service)


@pytest.fixture
async def sessions(bench):
    return await bench.open(sessions_service)


def rules_of(error):
    return {issue.rule for issue in error.value.issues}


async def booked(bench, clock, intake, scheduling, sessions):
    """Return patient, consent, order, appointment and the visit that was planned."""
    who, signed, ordered = await planned(intake, clock)
    await bench.deliver(intake, scheduling)
    made = await scheduling.create(appointment(who, ordered, clock.now + timedelta(minutes=30)))
    await bench.deliver(intake, sessions)
    await bench.deliver(scheduling, sessions)
    (visit,) = await sessions.search("Encounter", appointment=f"Appointment/{made['id']}")
    return who, signed, ordered, made, visit


@pytest.fixture
async def at_bedside(bench, clock, intake, scheduling, sessions):
    """Return patient, consent, order and a dosing visit in progress."""
    who, signed, ordered, _, visit = await booked(bench, clock, intake, scheduling, sessions)
    visit = await sessions.update({**visit, "status": "arrived"})
    visit = await sessions.update({**visit, "status": "in-progress", "period": {"start": zulu(clock.now)}})
    clock.forward(minutes=10)
    await sessions.create(pre_dose(who, visit, zulu(clock.now)))
    return who, signed, ordered, visit


def pressure(who, visit, when, systolic=120, diastolic=80, unit="mm[Hg]"):
    def component(code, value, unit=unit):
        quantity = {"value": value, "unit": unit, "system": codes.UCUM, "code": unit}
        return {"code": code.concept(), "valueQuantity": quantity}

    return {
        "resourceType": "Observation",
        "status": "final",
        "category": [codes.Code(codes.OBSERVATION_CATEGORY, "vital-signs").concept()],
        "code": codes.BLOOD_PRESSURE.concept(),
        "subject": about(who),
        "encounter": about(visit),
        "effectiveDateTime": zulu(when),
        "component": [
            component(codes.SYSTOLIC, systolic),
            component(codes.DIASTOLIC, diastolic),
            component(codes.HEART_RATE, 72, "/min"),
            component(codes.OXYGEN_SATURATION, 98, "%"),
        ],
    }


def saturation(who, visit, when, value):
    made = pressure(who, visit, when)
    del made["component"]
    quantity = {"value": value, "unit": "%", "system": codes.UCUM, "code": "%"}
    return {**made, "code": codes.OXYGEN_SATURATION.concept(codes.OXYGEN_SATURATION_ANY), "valueQuantity": quantity}


def start_parameters(ordered, **more):
    given = [
        {"name": "medicationRequest", "valueReference": about(ordered)},
        {"name": "dose", "valueQuantity": milligrams(70)},
        {"name": "performer", "valueReference": {"reference": "Practitioner/nurse"}},
    ]
    return [*given, *({"name": name, "valueDateTime": value} for name, value in more.items())]


def dose(who, visit, status, start, **more):
    return {
        "resourceType": "MedicationAdministration",
        "status": status,
        "medicationCodeableConcept": codes.KETAMINE.concept(),
        "subject": about(who),
        "context": about(visit),
        "effectivePeriod": {"start": zulu(start)},
        "dosage": {"route": codes.ROUTE_IM.concept(), "dose": milligrams(70)},
        **more,
    }


async def raised(sessions, who):
    """Return how many DetectedIssues, Flags and Tasks stand for the patient, besides the vital signs that are due."""
    found = {type_: await sessions.search(type_, patient=who["id"]) for type_ in ("DetectedIssue", "Flag", "Task")}
    due = [one for one in found["Task"] if one["code"]["coding"][0]["code"] == codes.VITALS_DUE.code]
    return [len(found["DetectedIssue"]), len(found["Flag"]), len(found["Task"]) - len(due)]


# -- visits -----------------------------------------------------------------------------------------------------------


async def test_a_booking_plans_one_visit_however_often_it_is_told(bench, clock, intake, scheduling, sessions):
    who, _, _, made, visit = await booked(bench, clock, intake, scheduling, sessions)
    (course,) = await intake.search("EpisodeOfCare", patient=who["id"])
    assert visit["status"] == "planned"
    assert visit["class"]["code"] == "AMB"
    assert visit["episodeOfCare"] == [about(course)]
    assert visit["subject"] == about(who)
    assert [one["individual"] for one in visit["participant"]] == [{"reference": "Practitioner/therapist"}]
    assert visit["location"] == [{"location": {"reference": "Location/room"}}]
    before = await sessions.count()
    await bench.deliver(scheduling, sessions, again=True)
    await bench.react_again(scheduling, sessions)
    await bench.react_again(intake, sessions)
    assert await sessions.count() == before
    await scheduling.update({**made, "comment": "brings her sister"})
    await bench.deliver(scheduling, sessions)
    assert await sessions.count() == before


async def test_the_course_may_become_known_after_the_booking(bench, clock, intake, scheduling, sessions):
    who, _, ordered = await planned(intake, clock)
    await bench.deliver(intake, scheduling)
    await scheduling.create(appointment(who, ordered, clock.now + timedelta(days=1)))
    await bench.deliver(scheduling, sessions)
    (visit,) = await sessions.search("Encounter", patient=who["id"])
    assert "episodeOfCare" not in visit
    await bench.deliver(intake, sessions)
    (visit,) = await sessions.search("Encounter", patient=who["id"])
    assert "episodeOfCare" in visit


async def test_a_cancelled_booking_cancels_the_visit_and_a_new_booking_plans_it_again(
    bench, clock, intake, scheduling, sessions
):
    _, _, _, made, visit = await booked(bench, clock, intake, scheduling, sessions)
    off = await scheduling.update({**made, "status": "cancelled"})
    await bench.deliver(scheduling, sessions)
    assert (await sessions.get("Encounter", visit["id"]))["status"] == "cancelled"
    await scheduling.update({**off, "status": "booked"})
    await bench.deliver(scheduling, sessions)
    assert (await sessions.get("Encounter", visit["id"]))["status"] == "planned"


async def test_a_visit_under_way_is_no_longer_the_bookings(bench, clock, intake, scheduling, sessions):
    _, _, _, made, visit = await booked(bench, clock, intake, scheduling, sessions)
    await sessions.update({**visit, "status": "in-progress"})
    await scheduling.update({**made, "status": "cancelled"})
    await bench.deliver(scheduling, sessions)
    assert (await sessions.get("Encounter", visit["id"]))["status"] == "in-progress"


async def test_a_visit_begun_before_the_news_of_its_booking_is_that_bookings(
    bench, clock, intake, scheduling, sessions
):
    who, _, ordered = await planned(intake, clock)
    await bench.deliver(intake, scheduling)
    made = await scheduling.create(appointment(who, ordered, clock.now + timedelta(minutes=30)))
    begun = {
        "resourceType": "Encounter",
        "status": "in-progress",
        "class": codes.Code(codes.ACT_CODE, "AMB").coding(),
        "type": [codes.VISIT_DOSING.concept()],
        "subject": about(who),
        "appointment": [about(made)],
        "period": {"start": zulu(clock.now)},
    }
    begun = await sessions.create(begun)
    await bench.deliver(scheduling, sessions)
    (visit,) = await sessions.search("Encounter", appointment=f"Appointment/{made['id']}")
    assert (visit["id"], visit["status"]) == (begun["id"], "in-progress")


async def test_a_second_visit_of_one_booking_is_refused(bench, clock, intake, scheduling, sessions):
    _, _, _, _, visit = await booked(bench, clock, intake, scheduling, sessions)
    with pytest.raises(Unprocessable) as error:
        await sessions.create({key: value for key, value in visit.items() if key not in ("id", "identifier")})
    assert rules_of(error) == {"N-ONCE"}


async def test_a_finished_visit_is_not_begun_again(at_bedside, sessions):
    *_, visit = at_bedside
    done = await sessions.update({**visit, "status": "finished"})
    with pytest.raises(Unprocessable) as error:
        await sessions.update({**done, "status": "in-progress"})
    assert rules_of(error) == {"N-STATE"}
    await sessions.update({**done, "status": "entered-in-error"})


async def test_a_vital_sign_that_names_no_visit_is_not_kept_here(at_bedside, clock, sessions):
    who, *_ = at_bedside
    reading = pressure(who, {"resourceType": "Encounter", "id": "elsewhere"}, clock.now)
    del reading["encounter"]
    with pytest.raises(Unprocessable, match="Encounter"):
        await sessions.create(reading)


# -- the gate ---------------------------------------------------------------------------------------------------------


async def test_a_dose_starts_in_a_visit_with_a_baseline_consent_and_order(at_bedside, clock, sessions):
    who, _, ordered, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now - timedelta(minutes=5)))
    given = await sessions.call("start-dose", visit, *start_parameters(ordered))
    assert given["status"] == "in-progress"
    assert given["context"] == about(visit)
    assert given["request"] == about(ordered)
    assert given["dosage"]["route"]["coding"][0]["code"] == codes.ROUTE_IM.code
    assert await raised(sessions, who) == [0, 0, 0]
    done = {**given, "status": "completed", "effectivePeriod": {**given["effectivePeriod"], "end": zulu(clock.now)}}
    await sessions.update(done)
    assert await raised(sessions, who) == [0, 0, 0]


async def test_a_dose_charted_afterwards_by_the_operation_is_judged_by_its_time(at_bedside, clock, sessions):
    who, _, ordered, visit = at_bedside
    start = clock.now
    await sessions.create(pressure(who, visit, start - timedelta(minutes=5)))
    clock.forward(hours=3)
    given = await sessions.call("start-dose", visit, *start_parameters(ordered, effective=zulu(start)))
    assert given["effectivePeriod"]["start"] == zulu(start)
    assert await raised(sessions, who) == [0, 0, 0]
    with pytest.raises(Unprocessable) as error:
        await sessions.call("start-dose", visit, *start_parameters(ordered, effective=zulu(clock.now)))
    assert rules_of(error) == {"G-BP", "G-SPO2", "G-HR", "G-DOSE-ORDER"}
    later = zulu(clock.now + timedelta(minutes=2))
    with pytest.raises(Unprocessable) as error:
        await sessions.call("start-dose", visit, *start_parameters(ordered, effective=later))
    assert "G-TIME" in rules_of(error)


async def start_by_operation(sessions, who, ordered, visit, clock):
    return await sessions.call("start-dose", visit, *start_parameters(ordered))


async def start_by_create(sessions, who, ordered, visit, clock):
    return await sessions.create(dose(who, visit, "in-progress", clock.now))


async def start_by_update(sessions, who, ordered, visit, clock):
    held = await sessions.create(dose(who, visit, "not-done", clock.now))
    return await sessions.update({**held, "status": "in-progress"})


async def start_by_another_drug(sessions, who, ordered, visit, clock):
    saline = codes.Code(codes.RXNORM, "313002", "sodium chloride").concept()
    held = await sessions.create(dose(who, visit, "in-progress", clock.now, medicationCodeableConcept=saline))
    return await sessions.update({**held, "medicationCodeableConcept": codes.KETAMINE.concept()})


async def start_by_a_text_only(sessions, who, ordered, visit, clock):
    troche = {"text": "compounded KETAMINE troche"}
    return await sessions.create(dose(who, visit, "in-progress", clock.now, medicationCodeableConcept=troche))


async def start_by_a_contained_medication(sessions, who, ordered, visit, clock):
    made = dose(who, visit, "in-progress", clock.now, medicationReference={"reference": "#m"})
    del made["medicationCodeableConcept"]
    contained = [{"resourceType": "Medication", "id": "m", "code": codes.KETAMINE.concept()}]
    return await sessions.create({**made, "contained": contained})


async def start_by_its_order_alone(sessions, who, ordered, visit, clock):
    made = dose(who, visit, "in-progress", clock.now, medicationReference={"reference": "Medication/unknown"})
    del made["medicationCodeableConcept"]
    return await sessions.create({**made, "request": about(ordered)})


PATHS = [
    start_by_operation,
    start_by_create,
    start_by_update,
    start_by_another_drug,
    start_by_a_text_only,
    start_by_a_contained_medication,
    start_by_its_order_alone,
]


@pytest.mark.parametrize("start", PATHS)
async def test_no_path_starts_ketamine_without_a_baseline_pressure(at_bedside, clock, sessions, start):
    who, _, ordered, visit = at_bedside
    with pytest.raises(Unprocessable) as error:
        await start(sessions, who, ordered, visit, clock)
    assert rules_of(error) - {"G-DRUG"} == {"G-BP", "G-SPO2", "G-HR"}
    await sessions.create(pressure(who, visit, clock.now))
    await start(sessions, who, ordered, visit, clock)


@pytest.mark.parametrize(
    ("systolic", "diastolic", "rules"),
    [
        (159, 99, None),
        (160, 80, {"G-BP-HOLD"}),
        (120, 100, {"G-BP-HOLD"}),
        (180, 80, {"G-BP-HOLD", "G-BP-STOP"}),
        (120, 110, {"G-BP-HOLD", "G-BP-STOP"}),
    ],
)
async def test_a_pressure_at_the_hold_limit_keeps_the_gate_closed(
    at_bedside, clock, sessions, systolic, diastolic, rules
):
    who, _, ordered, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now, systolic, diastolic))
    if rules is None:
        await sessions.call("start-dose", visit, *start_parameters(ordered))
        return
    with pytest.raises(Unprocessable) as error:
        await sessions.call("start-dose", visit, *start_parameters(ordered))
    assert rules_of(error) == rules


async def test_the_newest_reading_counts_and_an_old_or_strange_one_does_not(at_bedside, clock, sessions):
    who, _, ordered, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now - timedelta(minutes=31)))
    with pytest.raises(Unprocessable):
        await sessions.call("start-dose", visit, *start_parameters(ordered))
    await sessions.create(pressure(who, visit, clock.now - timedelta(minutes=20), 170))
    await sessions.create(pressure(who, visit, clock.now - timedelta(minutes=9), 16, 10, unit="kPa"))
    with pytest.raises(Unprocessable) as error:
        await sessions.call("start-dose", visit, *start_parameters(ordered))
    assert rules_of(error) == {"G-BP"}
    await sessions.create(pressure(who, visit, clock.now - timedelta(minutes=1), 140))
    await sessions.call("start-dose", visit, *start_parameters(ordered))


@pytest.mark.parametrize(("value", "opens"), [(94, True), (93, False)])
async def test_a_low_saturation_that_was_measured_counts(at_bedside, clock, sessions, value, opens):
    who, _, ordered, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now))
    await sessions.create(saturation(who, visit, clock.now, value))
    if opens:
        await sessions.call("start-dose", visit, *start_parameters(ordered))
        return
    with pytest.raises(Unprocessable) as error:
        await sessions.call("start-dose", visit, *start_parameters(ordered))
    assert rules_of(error) == {"G-SPO2"}


async def test_outside_an_in_progress_dosing_visit_nothing_starts(at_bedside, clock, sessions):
    who, _, ordered, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now))
    away = await sessions.update({**visit, "status": "onleave"})
    with pytest.raises(Unprocessable) as error:
        await sessions.call("start-dose", away, *start_parameters(ordered))
    assert rules_of(error) == {"G-VISIT"}


async def test_without_consent_for_the_route_nothing_starts(bench, at_bedside, clock, intake, sessions):
    who, signed, ordered, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now))
    await intake.update({**signed, "status": "inactive"})
    await intake.create(consent(who, codes.ROUTE_IV))
    await bench.deliver(intake, sessions)
    with pytest.raises(Unprocessable) as error:
        await sessions.call("start-dose", visit, *start_parameters(ordered))
    assert rules_of(error) == {"G-CONSENT", "G-COURSE"}


async def test_without_an_active_order_nothing_starts(bench, at_bedside, clock, intake, sessions):
    who, _, ordered, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now))
    await intake.update({**ordered, "status": "stopped"})
    await bench.deliver(intake, sessions)
    with pytest.raises(Unprocessable) as error:
        await sessions.call("start-dose", visit, *start_parameters(ordered))
    assert "G-ORDER" in rules_of(error)


async def test_a_dose_on_hold_goes_on_only_through_an_open_gate(at_bedside, clock, sessions):
    who, _, ordered, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now))
    given = await sessions.call("start-dose", visit, *start_parameters(ordered))
    held = await sessions.update({**given, "status": "on-hold"})
    clock.forward(minutes=10)
    await sessions.create(pressure(who, visit, clock.now, 165))
    with pytest.raises(Unprocessable) as error:
        await sessions.update({**held, "status": "in-progress"})
    assert rules_of(error) == {"G-BP-HOLD"}
    await sessions.update({**held, "status": "stopped"})


async def test_a_dose_that_was_stopped_goes_on_only_through_an_open_gate(at_bedside, clock, sessions):
    who, _, ordered, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now))
    given = await sessions.call("start-dose", visit, *start_parameters(ordered))
    stopped = await sessions.update({**given, "status": "stopped"})
    clock.forward(minutes=10)
    await sessions.create(pressure(who, visit, clock.now, 190))
    with pytest.raises(Unprocessable) as error:
        await sessions.update({**stopped, "status": "in-progress"})
    assert rules_of(error) == {"G-BP-HOLD", "G-BP-STOP"}


async def test_in_a_visit_that_has_finished_nothing_starts(at_bedside, clock, sessions):
    who, _, ordered, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now))
    await sessions.update({**visit, "status": "finished"})
    with pytest.raises(Unprocessable) as error:
        await sessions.call("start-dose", visit, *start_parameters(ordered))
    assert rules_of(error) == {"G-VISIT"}


@pytest.mark.parametrize(
    "no_order",
    [{"doNotPerform": True}, {"intent": "proposal"}, {"reportedBoolean": True}, {"meta": {"source": "urn:hospital"}}],
)
async def test_what_is_no_order_opens_no_gate(bench, at_bedside, clock, intake, sessions, no_order):
    who, _, ordered, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now))
    await intake.update({**ordered, "status": "stopped"})
    other = await intake.create({**order(who), **no_order})
    await bench.deliver(intake, sessions)
    with pytest.raises(Unprocessable) as error:
        await sessions.call("start-dose", visit, *start_parameters(other))
    assert rules_of(error) == {"G-ORDER"}


@pytest.mark.parametrize(
    "refusal",
    [
        {"dateTime": "2026-11-21", "provision": {"type": "deny"}},
        {"dateTime": "2026-11-20", "provision": {"type": "deny"}},
    ],
)
async def test_a_consent_that_denies_the_route_keeps_the_gate_closed(
    bench, at_bedside, clock, intake, sessions, refusal
):
    who, _, ordered, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now))
    await intake.create(consent(who, **refusal))
    await bench.deliver(intake, sessions)
    with pytest.raises(Unprocessable) as error:
        await sessions.call("start-dose", visit, *start_parameters(ordered))
    assert "G-CONSENT" in rules_of(error)


async def test_while_the_course_is_on_hold_nothing_starts(bench, at_bedside, clock, intake, sessions):
    who, _, ordered, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now))
    (course,) = await intake.search("EpisodeOfCare", patient=who["id"])
    await intake.update({**course, "status": "onhold"})
    await bench.deliver(intake, sessions)
    with pytest.raises(Unprocessable) as error:
        await sessions.call("start-dose", visit, *start_parameters(ordered))
    assert rules_of(error) == {"G-COURSE"}


@pytest.mark.parametrize(
    ("status", "minutes"), [("completed", 0), ("completed", 40), ("stopped", 1), ("in-progress", 6)]
)
async def test_a_dose_that_was_given_past_a_closed_gate_is_recorded_and_raises_once(
    at_bedside, clock, sessions, status, minutes
):
    who, _, _, visit = at_bedside
    given = await sessions.create(dose(who, visit, status, clock.now - timedelta(minutes=minutes)))
    assert given["meta"]["versionId"] == "1"
    assert await raised(sessions, who) == [1, 1, 1]
    (issue,) = await sessions.search("DetectedIssue", patient=who["id"])
    assert issue["code"]["coding"][0]["code"] == "dose-past-closed-gate"
    assert "G-BP" in [one["code"] for one in issue["code"]["coding"]]
    assert issue["implicated"] == [about(given)]
    await sessions.update({**given, "status": "completed", "note": [{"text": "lot 7"}]})
    assert await raised(sessions, who) == [1, 1, 1]


async def test_a_given_dose_through_an_open_gate_raises_nothing(at_bedside, clock, sessions):
    who, _, _, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now))
    clock.forward(hours=2)
    await sessions.create(dose(who, visit, "completed", clock.now - timedelta(hours=2)))
    assert await raised(sessions, who) == [0, 0, 0]


async def test_a_dose_charted_after_the_visit_ended_is_judged_by_its_time(at_bedside, clock, sessions):
    who, _, _, visit = at_bedside
    start = clock.now
    await sessions.create(pressure(who, visit, start))
    clock.forward(hours=2)
    await sessions.update({**visit, "status": "finished", "period": {**visit["period"], "end": zulu(clock.now)}})
    await sessions.create(dose(who, visit, "completed", start))
    assert await raised(sessions, who) == [0, 0, 0]


async def test_a_rescue_drug_is_never_gated(at_bedside, clock, sessions):
    who, _, _, visit = at_bedside
    midazolam = codes.Code(codes.RXNORM, "6960", "midazolam").concept()
    await sessions.create(dose(who, visit, "in-progress", clock.now, medicationCodeableConcept=midazolam))
    assert await raised(sessions, who) == [0, 0, 0]


async def test_a_drug_the_record_cannot_name_is_recorded_and_asked_about(at_bedside, clock, sessions):
    who, _, _, visit = at_bedside
    unknown = dose(who, visit, "completed", clock.now, medicationReference={"reference": "Medication/unknown"})
    del unknown["medicationCodeableConcept"]
    await sessions.create(unknown)
    assert await raised(sessions, who) == [1, 0, 1]


async def test_the_record_of_a_dose_is_not_deleted(at_bedside, clock, sessions):
    who, _, _, visit = at_bedside
    given = await sessions.create(dose(who, visit, "completed", clock.now))
    with pytest.raises(Unprocessable) as error:
        await sessions.delete(given)
    assert rules_of(error) == {"D-KEEP"}
    await sessions.update({**given, "status": "entered-in-error"})


async def test_the_operation_says_what_it_needs(at_bedside, sessions, intake):
    who, _, ordered, visit = at_bedside
    with pytest.raises(BadRequest, match="medicationRequest, dose, performer"):
        await sessions.call("start-dose", visit)
    with pytest.raises(BadRequest, match="route"):
        await sessions.call("start-dose", visit, {"name": "route", "valueCode": "im"})
    millilitres = {"name": "dose", "valueQuantity": milligrams(1, "mL")}
    with pytest.raises(BadRequest, match="mg"):
        await sessions.call("start-dose", visit, *start_parameters(ordered), millilitres)
    with pytest.raises(NotFound):
        await sessions.call("start-dose", {"resourceType": "Encounter", "id": "none"}, *start_parameters(ordered))
    unknown = {**order(who), "id": "unknown"}
    with pytest.raises(Unprocessable) as error:
        await sessions.call("start-dose", visit, *start_parameters(unknown))
    assert rules_of(error) == {"G-ORDER"}


# -- alarms -----------------------------------------------------------------------------------------------------------


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
    (alarm,) = await sessions.search("Task", patient=who["id"])
    assert "185" in alarm["description"]
    assert "125" in alarm["description"]
    await sessions.update({**alarm, "status": "completed", "owner": {"reference": "Practitioner/prescriber"}})
    amended = pressure(who, visit, clock.now, 230, 125)
    await sessions.update({**amended, "id": reading["id"], "status": "corrected"})
    (alarm,) = await sessions.search("Task", patient=who["id"])
    assert alarm["status"] == "requested"
    assert "230" in alarm["description"]
    await sessions.update({**alarm, "status": "completed", "owner": {"reference": "Practitioner/prescriber"}})
    await sessions.update({**amended, "id": reading["id"], "status": "corrected", "note": [{"text": "left arm"}]})
    (alarm,) = await sessions.search("Task", patient=who["id"])
    assert alarm["status"] == "completed"


async def test_a_reading_that_names_its_visit_alone_alarms_for_the_visits_patient(at_bedside, clock, sessions):
    who, _, _, visit = at_bedside
    reading = saturation(who, visit, clock.now, 80)
    del reading["subject"]
    await sessions.create(reading)
    assert await raised(sessions, who) == [1, 1, 1]
