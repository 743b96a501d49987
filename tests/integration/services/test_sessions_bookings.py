"""Visits and their bookings: one planned for each, kept in step until it begins, and its legal states."""

from __future__ import annotations

from datetime import timedelta

import pytest

from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.outcome import Unprocessable
from tests.integration.services.bedside import rules_of
from tests.integration.services.course import about, appointment, order, planned
from tests.integration.services.three_services import (
    booked,
    pressure,
)


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


@pytest.mark.parametrize("order_first", [True, False])
async def test_the_visit_of_an_inpatient_by_his_order_is_planned_as_one(bedside, order_first):
    ordered = {**order(bedside.who), "id": "ward", "category": [codes.MEDICATION_INPATIENT.concept()]}
    booking = appointment(bedside.who, ordered, bedside.clock.now + timedelta(days=2))
    told = [("intake", ordered), ("scheduling", booking)]
    for source, one in told if order_first else reversed(told):
        made = await bedside.tell(source, one)
        booking = made if source == "scheduling" else booking
    (visit,) = await bedside.sessions.search("Encounter", appointment=f"Appointment/{booking['id']}")
    assert (visit["class"]["code"], visit["status"]) == ("IMP", "planned")
    assert bedside.visit["class"]["code"] == "AMB"
