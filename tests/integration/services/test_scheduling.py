"""Scheduling: a dosing session is booked on firm ground only, and nobody is booked twice."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from services.intake.service import intake as intake_service
from services.scheduling.service import scheduling as scheduling_service
from shared.fhir import codes
from shared.fhir.outcome import Unprocessable
from tests.integration.services.at_intake import condition
from tests.integration.services.course import (
    START,
    about,
    appointment,
    care_plan,
    consent,
    eligible,
    order,
    patient,
    planned,
    referral,
    screening,
    site,
    weight,
)

NEXT_DAY = START + timedelta(days=5)


@pytest.fixture
async def intake(bench):
    return await bench.open(intake_service)


@pytest.fixture
async def scheduling(bench):
    return await bench.open(scheduling_service)


def rules_of(error):
    return {issue.rule for issue in error.value.issues}


async def test_a_dosing_session_is_booked_for_an_eligible_consenting_patient_with_plan_and_order(
    bench, clock, intake, scheduling
):
    who, _, ordered = await planned(intake, clock)
    await bench.deliver(intake, scheduling)
    booked = await scheduling.create(appointment(who, ordered, NEXT_DAY))
    assert booked["status"] == "booked"


async def test_of_an_unknown_patient_everything_is_missing_at_once(scheduling):
    with pytest.raises(Unprocessable) as error:
        await scheduling.create(appointment({"resourceType": "Patient", "id": "x"}, None, NEXT_DAY))
    assert rules_of(error) == {"S-ELIGIBLE", "S-EPISODE", "S-ORDER", "S-CONSENT", "S-PLAN"}
    assert all(issue.source for issue in error.value.issues)


@pytest.mark.parametrize("status", ["booked", "pending"])
async def test_without_consent_for_the_route_it_is_refused(bench, clock, intake, scheduling, status):
    who = await eligible(intake, clock)
    await intake.create(consent(who, codes.ROUTE_IV))
    await intake.create(weight(who))
    await intake.create(care_plan(who))
    ordered = await intake.create(order(who))
    await bench.deliver(intake, scheduling)
    with pytest.raises(Unprocessable, match="78421000") as error:
        await scheduling.create(appointment(who, ordered, NEXT_DAY, status=status))
    assert rules_of(error) == {"S-CONSENT"}


async def test_a_proposal_and_another_kind_of_visit_need_no_such_ground(scheduling):
    who = {"resourceType": "Patient", "id": "x"}
    await scheduling.create(appointment(who, None, NEXT_DAY, status="proposed"))
    await scheduling.create(appointment(who, None, NEXT_DAY, visit=codes.VISIT_CONSULT))


async def test_another_patients_order_is_no_ground(bench, clock, intake, scheduling):
    who, _, _ = await planned(intake, clock)
    _, _, theirs = await planned(intake, clock)
    await bench.deliver(intake, scheduling)
    with pytest.raises(Unprocessable) as error:
        await scheduling.create(appointment(who, theirs, NEXT_DAY))
    assert "S-ORDER" in rules_of(error)


async def test_a_dosing_session_is_for_one_patient(bench, clock, intake, scheduling):
    who, _, ordered = await planned(intake, clock)
    await bench.deliver(intake, scheduling)
    made = appointment(who, ordered, NEXT_DAY)
    made["participant"].append({"actor": {"reference": "Patient/another"}, "status": "accepted"})
    with pytest.raises(Unprocessable) as error:
        await scheduling.create(made)
    assert {issue.rule for issue in error.value.issues} == {"S-PATIENT"}


@pytest.mark.parametrize(("hours", "allowed"), [(47, False), (48, True), (-47, False), (-48, True)])
async def test_two_dosing_sessions_keep_the_routes_spacing(bench, clock, intake, scheduling, hours, allowed):
    who, _, ordered = await planned(intake, clock, sessions=2)
    await bench.deliver(intake, scheduling)
    start = START + timedelta(days=7)
    await scheduling.create(appointment(who, ordered, start))
    second = appointment(who, ordered, start + timedelta(hours=hours))
    if allowed:
        await scheduling.create(second)
        return
    with pytest.raises(Unprocessable) as error:
        await scheduling.create(second)
    assert rules_of(error) == {"S-SPACING"}


async def test_nobody_is_booked_twice_at_one_time(scheduling):
    first = {"resourceType": "Patient", "id": "a"}
    second = {"resourceType": "Patient", "id": "b"}
    await scheduling.create(appointment(first, None, NEXT_DAY, visit=codes.VISIT_PREP))
    with pytest.raises(Unprocessable) as error:
        await scheduling.create(appointment(second, None, NEXT_DAY + timedelta(hours=2), visit=codes.VISIT_PREP))
    assert rules_of(error) == {"S-DOUBLE"}
    assert {issue.diagnostics.split()[0] for issue in error.value.issues} == {"Practitioner/therapist", "Location/room"}
    await scheduling.create(appointment(second, None, NEXT_DAY + timedelta(hours=3), visit=codes.VISIT_PREP))


async def test_of_many_bookings_of_one_room_that_race_one_wins(scheduling):
    async def book(number):
        who = {"resourceType": "Patient", "id": f"p{number}"}
        try:
            await scheduling.create(appointment(who, None, NEXT_DAY, visit=codes.VISIT_PREP))
        except Unprocessable:
            return False
        return True

    assert sum(await asyncio.gather(*(book(number) for number in range(20)))) == 1


async def test_a_cancelled_appointment_frees_its_time(scheduling):
    who = {"resourceType": "Patient", "id": "a"}
    first = await scheduling.create(appointment(who, None, NEXT_DAY, visit=codes.VISIT_PREP))
    await scheduling.update({**first, "status": "cancelled"})
    await scheduling.create(appointment(who, None, NEXT_DAY, visit=codes.VISIT_PREP))


async def test_a_booking_needs_a_start_before_its_end(scheduling):
    who = {"resourceType": "Patient", "id": "a"}
    wrong = appointment(who, None, NEXT_DAY, visit=codes.VISIT_PREP)
    with pytest.raises(Unprocessable) as error:
        await scheduling.create({**wrong, "end": wrong["start"]})
    assert rules_of(error) == {"S-TIME"}


async def raised(scheduling, who):
    flags = await scheduling.search("Flag", patient=who["id"])
    tasks = await scheduling.search("Task", patient=who["id"], code=codes.GROUND_LOST.code)
    return [one["status"] for one in flags], [one["status"] for one in tasks]


async def test_a_withdrawn_consent_flags_what_is_booked_and_a_new_one_clears_it(bench, clock, intake, scheduling):
    who, signed, ordered = await planned(intake, clock)
    await bench.deliver(intake, scheduling)
    booked = await scheduling.create(appointment(who, ordered, NEXT_DAY))
    await intake.update({**signed, "status": "inactive"})
    await bench.deliver(intake, scheduling)
    assert await raised(scheduling, who) == (["active"], ["requested"])
    (task,) = await scheduling.search("Task", patient=who["id"], code=codes.GROUND_LOST.code)
    assert task["focus"] == {"reference": f"Appointment/{booked['id']}"}
    assert (await scheduling.get("Appointment", booked["id"]))["meta"]["versionId"] == "1", "a fact stays"

    await bench.react_again(intake, scheduling)
    assert await raised(scheduling, who) == (["active"], ["requested"])

    await intake.create(consent(who))
    (course,) = await intake.search("EpisodeOfCare", patient=who["id"])
    await intake.update({**course, "status": "active"})
    await bench.deliver(intake, scheduling)
    assert await raised(scheduling, who) == (["inactive"], ["cancelled"])


async def test_a_ground_that_is_lost_again_is_raised_again(bench, clock, intake, scheduling):
    who, signed, ordered = await planned(intake, clock)
    await bench.deliver(intake, scheduling)
    await scheduling.create(appointment(who, ordered, NEXT_DAY))
    for status in ("inactive", "active", "inactive"):
        await intake.update({**signed, "status": status})
        (course,) = await intake.search("EpisodeOfCare", patient=who["id"])
        if status == "active":
            await intake.update({**course, "status": "active"})
        await bench.deliver(intake, scheduling)
    assert await raised(scheduling, who) == (["active"], ["requested"])


async def test_a_pregnancy_found_later_flags_what_is_booked(bench, clock, intake, scheduling):
    who, _, ordered = await planned(intake, clock)
    await bench.deliver(intake, scheduling)
    await scheduling.create(appointment(who, ordered, NEXT_DAY))
    clock.forward(hours=1)
    await intake.create(screening(who, clock.now, E12=True))
    await intake.call("screen", who)
    await bench.deliver(intake, scheduling)
    assert await raised(scheduling, who) == (["active"], ["requested"])


async def test_events_delivered_twice_change_nothing(bench, clock, intake, scheduling):
    who, signed, ordered = await planned(intake, clock)
    await bench.deliver(intake, scheduling)
    await scheduling.create(appointment(who, ordered, NEXT_DAY))
    await intake.update({**signed, "status": "inactive"})
    await bench.deliver(intake, scheduling)
    before = await scheduling.count()
    await bench.deliver(intake, scheduling, again=True)
    await bench.react_again(intake, scheduling)
    assert await scheduling.count() == before


async def test_what_happened_to_a_booking_is_recorded_whatever_its_ground(bench, clock, intake, scheduling):
    who, signed, ordered = await planned(intake, clock)
    await bench.deliver(intake, scheduling)
    booked = await scheduling.create(appointment(who, ordered, NEXT_DAY))
    await intake.update({**signed, "status": "inactive"})
    await bench.deliver(intake, scheduling)
    remarked = await scheduling.update({**booked, "comment": "called the patient"})
    clock.now = NEXT_DAY
    arrived = await scheduling.update({**remarked, "status": "arrived"})
    with pytest.raises(Unprocessable):
        await scheduling.update({**arrived, "status": "booked"})
    await scheduling.update({**arrived, "status": "noshow"})


async def test_a_booking_moved_to_another_time_is_judged_again(bench, clock, intake, scheduling):
    who, signed, ordered = await planned(intake, clock)
    await bench.deliver(intake, scheduling)
    booked = await scheduling.create(appointment(who, ordered, NEXT_DAY))
    await intake.update({**signed, "status": "inactive"})
    await bench.deliver(intake, scheduling)
    moved = appointment(who, ordered, NEXT_DAY + timedelta(days=1))
    with pytest.raises(Unprocessable):
        await scheduling.update({**booked, "start": moved["start"], "end": moved["end"]})


SPRAVATO = codes.Code(codes.RXNORM, "2201623", "esketamine nasal spray")


async def test_esketamine_is_booked_in_a_certified_setting_for_an_enrolled_patient_only(
    bench, clock, intake, scheduling
):
    who = await intake.create(patient())
    await intake.create(condition(who, "R45.851", codes.ICD10CM))
    await intake.create(referral(who))
    await intake.create(screening(who, clock.now))
    drug = {"name": "drug", "valueCode": "esketamine"}
    await intake.call("screen", who, drug, {"name": "route", "valueCode": codes.ROUTE_NASAL.code})
    signed = consent(who, codes.ROUTE_NASAL)
    await intake.create({**signed, "category": [*signed["category"], SPRAVATO.concept()]})
    await intake.create(care_plan(who))
    sprayed = SPRAVATO.concept()
    ordered = await intake.create(order(who, 56, codes.ROUTE_NASAL, medicationCodeableConcept=sprayed))
    room = await intake.create(
        site(identifier=[{"system": codes.ID_REMS_SITE, "value": "R", "period": {"end": "2026-11-30"}}])
    )
    plain = await intake.create({"resourceType": "Location", "name": "Not certified"})
    await bench.deliver(intake, scheduling)

    def wanted(where, start=NEXT_DAY):
        made = appointment(who, ordered, start)
        made["participant"][2]["actor"] = about(where)
        return made

    async def refused(made, *said):
        with pytest.raises(Unprocessable) as error:
            await scheduling.create(made)
        (issue,) = error.value.issues
        assert issue.rule == "S-REMS"
        assert all(one in issue.diagnostics for one in said)
        assert "spravatorems" in issue.source

    await refused(wanted(plain), "not certified", "not enrolled")
    await refused(wanted(room), "not enrolled")
    enrolled = {"system": codes.ID_REMS_PATIENT, "value": "P-1"}
    who = await intake.update({**who, "identifier": [*who["identifier"], enrolled]})
    await bench.deliver(intake, scheduling)
    await refused(wanted(plain), "not certified")
    await refused(wanted(room, START + timedelta(days=12)), "not certified")
    booked = await scheduling.create(wanted(room))
    assert booked["status"] == "booked"
    await intake.update({**room, "identifier": [{"system": "urn:other", "value": "1"}]})
    await bench.deliver(intake, scheduling)
    (flag,) = await scheduling.search("Flag", patient=who["id"])
    assert "S-REMS" in flag["code"]["text"]


async def test_a_referral_alone_is_no_course_that_a_dose_could_be_booked_in(bench, clock, intake, scheduling):
    who = await intake.create(patient())
    await intake.create(referral(who))
    await bench.deliver(intake, scheduling)
    with pytest.raises(Unprocessable) as error:
        await scheduling.create(appointment(who, None, NEXT_DAY))
    assert {"S-EPISODE", "S-ELIGIBLE", "S-CONSENT", "S-PLAN", "S-ORDER"} <= rules_of(error)
