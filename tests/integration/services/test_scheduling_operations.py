"""A time is found for all a visit needs, held, booked, moved, cancelled; Slots follow."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from services.scheduling.service import scheduling as scheduling_service
from shared.fhir import codes
from shared.fhir.dates import interval, zulu
from shared.fhir.outcome import BadRequest, Unprocessable
from shared.runtime.policy import load_policy
from shared.store.connection import retry_conflicts
from tests.integration.services.at_scheduling import (
    actors_of,
    code,
    found,
    ref,
    rules_of,
    schedule,
    span,
    time,
)
from tests.integration.services.course import START, appointment

THAT_DAY = interval("2026-11-23")[0]
"""The morning of the first day that is offered: of visits further ahead nobody says that somebody is there."""


async def test_a_time_is_found_for_all_that_a_visit_needs_at_once_best_first(clinic):
    options = found(await clinic.ask("find", "Appointment", *span(0, 7), code("visit-type", "kap-dosing")))
    first = options[0]
    assert first["status"] == "proposed"
    assert first["start"] == "2026-11-23T08:00:00.000Z", "Monday, when they begin to work"
    assert interval(first["end"])[0] - interval(first["start"])[0] == timedelta(hours=3)
    roles = [one["type"][0]["coding"][0]["code"] for one in first["participant"]]
    assert roles == ["therapist", "monitor", "room"]
    ranks = [one["extension"][0]["valuePositiveInt"] for one in options]
    assert ranks == list(range(1, 21))


async def test_every_time_that_is_found_can_be_booked(clinic):
    for _ in range(5):
        options = found(await clinic.ask("find", "Appointment", *span(0, 3), code("service-type", "kap-prep")))
        await clinic.ask(
            "book", "Appointment", {"name": "appt-resource", "resource": options[0]}, ref("patient", f"Patient/p{_}")
        )
    starts = [(one["start"], *sorted(actors_of(one))) for one in await clinic.search("Appointment", status="booked")]
    assert len(set(starts)) == 5


async def test_what_is_booked_or_closed_or_cleaned_is_not_offered(clinic, clock):
    clock.now = THAT_DAY
    one_room = (*span(0, 2), code("visit-type", "kap-dosing"), ref("location", "Location/r1"))
    first = found(await clinic.ask("find", "Appointment", *one_room))[0]
    taken = {**first, "status": "arrived"}
    await clinic.create({**taken, "participant": [{**one, "status": "accepted"} for one in taken["participant"]]})
    next_ = found(await clinic.ask("find", "Appointment", *one_room))[0]
    assert next_["start"] == "2026-11-23T11:30:00.000Z", "three hours, and half an hour to clean the room"


async def test_a_shared_monitor_is_offered_for_as_many_rooms_as_policy_says(clinic, clock):
    clock.now = THAT_DAY
    names = set()
    for number in range(2):
        options = found(await clinic.ask("find", "Appointment", *span(0, 2), code("visit-type", "kap-dosing")))
        assert options[0]["start"] == "2026-11-23T08:00:00.000Z"
        names |= actors_of(options[0])
        made = {**options[0], "status": "arrived"}
        made["participant"] = [{**one, "status": "accepted"} for one in made["participant"]]
        made["participant"].append({"actor": {"reference": f"Patient/p{number}"}, "status": "accepted"})
        await clinic.create(made)
    assert names == {"Practitioner/t1", "Practitioner/t2", "Practitioner/m", "Location/r1", "Location/r2"}
    options = found(await clinic.ask("find", "Appointment", *span(0, 2), code("visit-type", "kap-dosing")))
    assert options[0]["start"] == "2026-11-23T11:00:00.000Z"


async def test_the_patients_own_time_counts_and_who_knows_him_goes_first(clinic):
    prep = (*span(0, 3), code("visit-type", "kap-prep"), ref("patient", "Patient/p"))
    mine = [one for one in found(await clinic.ask("find", "Appointment", *prep)) if "Practitioner/t2" in actors_of(one)]
    later = mine[0] if mine else None
    assert later is None, "t1 is offered wherever he is free, too"
    only = found(await clinic.ask("find", "Appointment", *prep, ref("practitioner", "Practitioner/t2")))[0]
    await clinic.ask("book", "Appointment", {"name": "appointment-resource", "resource": only})
    again = found(await clinic.ask("find", "Appointment", *prep))[0]
    assert "Practitioner/t2" in actors_of(again)
    assert again["start"] >= only["end"]


async def test_a_visit_by_video_needs_no_room(clinic):
    options = found(
        await clinic.ask(
            "find",
            "Appointment",
            *span(0, 2),
            code("visit-type", "kap-dosing"),
            {"name": "virtual", "valueBoolean": True},
        )
    )
    assert actors_of(options[0]) == {"Practitioner/t1"}


async def test_where_nothing_is_free_it_says_who_is_missing(scheduling):
    await scheduling.create(schedule("Practitioner/t1", "therapist"))
    answer = await scheduling.ask("find", "Appointment", *span(0, 5), code("visit-type", "kap-dosing"))
    assert answer["total"] == 0
    assert "monitor, room" in answer["entry"][0]["resource"]["issue"][0]["diagnostics"]


@pytest.mark.parametrize(
    "parameters",
    [
        (),
        (*span(0, 1),),
        (*span(1, 0), code("visit-type", "kap-prep")),
        (*span(0, 400), code("visit-type", "kap-prep")),
        (*span(0, 1), code("visit-type", "kap-magic")),
        (*span(0, 1), code("visit-type", "kap-prep"), {"name": "max", "valueInteger": 0}),
        (*span(0, 1), code("visit-type", "kap-prep"), {"name": "nothing", "valueString": "x"}),
        (*span(0, 1), code("visit-type", "kap-prep"), {"name": "patient", "valueString": "p"}),
        ({"name": "start", "valueDateTime": "soon"}, code("visit-type", "kap-prep")),
        ({"name": "start"}, code("visit-type", "kap-prep")),
    ],
)
async def test_what_cannot_be_understood_is_refused_and_named(clinic, parameters):
    with pytest.raises((BadRequest, Unprocessable)):
        await clinic.ask("find", "Appointment", *parameters)


async def prep_time(clinic, patient="Patient/p"):
    options = await clinic.ask(
        "find", "Appointment", *span(0, 3), code("visit-type", "kap-prep"), ref("patient", patient)
    )
    return found(options)[0]


async def test_a_held_time_is_kept_and_can_be_booked_once(clinic, clock):
    (held,) = found(await clinic.ask("hold", "Appointment", {"name": "resource", "resource": await prep_time(clinic)}))
    assert held["status"] == "pending"
    (booked,) = found(await clinic.ask("book", "Appointment", ref("appt-id", f"Appointment/{held['id']}")))
    assert (booked["id"], booked["status"]) == (held["id"], "booked")
    assert "extension" not in booked
    assert {one["status"] for one in booked["participant"]} == {"accepted"}
    with pytest.raises(Unprocessable) as error:
        await clinic.ask("book", "Appointment", ref("appointment-reference", f"Appointment/{held['id']}"))
    assert rules_of(error) == {"S-STATUS"}


async def test_a_hold_that_is_over_cannot_be_booked(clinic, clock):
    (held,) = found(await clinic.ask("hold", "Appointment", {"name": "resource", "resource": await prep_time(clinic)}))
    clock.forward(minutes=10)
    with pytest.raises(Unprocessable) as error:
        await clinic.ask("book", "Appointment", ref("appointment-reference", f"Appointment/{held['id']}"))
    assert rules_of(error) == {"S-HOLD"}


async def test_of_many_who_hold_one_time_one_gets_it(clinic):
    wanted = await prep_time(clinic, "Patient/none")
    wanted["participant"] = [one for one in wanted["participant"] if "Patient" not in one["actor"]["reference"]]

    async def hold(number):
        parameters = ({"name": "resource", "resource": wanted}, ref("patient", f"Patient/p{number}"))
        try:
            await retry_conflicts(lambda: clinic.ask("hold", "Appointment", *parameters), attempts=20)
        except Unprocessable:
            return 0
        return 1

    assert sum(await asyncio.gather(*(hold(number) for number in range(12)))) == 1


async def booked_prep(clinic):
    resource = await prep_time(clinic)
    (made,) = found(await clinic.ask("book", "Appointment", {"name": "resource", "resource": resource}))
    return made


async def test_a_visit_is_moved_and_its_old_time_is_free(clinic):
    made = await booked_prep(clinic)
    later = interval(made["start"])[0] + timedelta(hours=2)
    moved = await clinic.call("reschedule", made, time("start", later), ref("practitioner", "Practitioner/t2"))
    assert moved["start"] == zulu(later)
    assert interval(moved["end"])[0] - later == timedelta(hours=1)
    assert actors_of(moved) == {"Patient/p", "Practitioner/t2"}
    assert (await prep_time(clinic, "Patient/other"))["start"] == made["start"]


async def test_a_visit_is_not_moved_to_where_somebody_is_taken(clinic):
    made = await booked_prep(clinic)
    other = await prep_time(clinic, "Patient/other")
    (second,) = found(await clinic.ask("book", "Appointment", {"name": "resource", "resource": other}))
    (name,) = {one for one in actors_of(second) if one.startswith("Practitioner")}
    with pytest.raises(Unprocessable) as error:
        await clinic.call("reschedule", made, time("start", interval(second["start"])[0]), ref("practitioner", name))
    assert rules_of(error) == {"S-DOUBLE"}
    assert (await clinic.get("Appointment", made["id"]))["meta"]["versionId"] == "1"


async def test_a_visit_is_cancelled_with_a_reason_of_the_value_set(clinic):
    made = await booked_prep(clinic)
    with pytest.raises(BadRequest):
        await clinic.call("cancel", made, code("reason", "tired"))
    cancelled = await clinic.call("cancel", made, code("reason", "pat-lt"))
    assert cancelled["cancelationReason"]["coding"][0]["code"] == "pat-lt"
    with pytest.raises(Unprocessable) as error:
        await clinic.call("cancel", made, code("reason", "pat"))
    assert rules_of(error) == {"S-STATUS"}


async def test_who_came_is_checked_in_and_who_did_not_is_known_afterwards(clinic, clock):
    made = await booked_prep(clinic)
    with pytest.raises(Unprocessable):
        await clinic.call("no-show", made)
    clock.now = interval(made["start"])[0] + timedelta(minutes=20)
    assert (await clinic.call("check-in", made))["status"] == "checked-in"
    with pytest.raises(Unprocessable):
        await clinic.call("no-show", made)


async def test_slots_are_made_of_a_schedules_hours_once_and_follow_what_is_booked(clinic):
    (own,) = await clinic.search("Schedule", actor="Practitioner/t1")
    monday = (time("start", START + timedelta(hours=15)), time("end", START + timedelta(hours=39)))
    made = found(await clinic.call("generate", own, *monday))
    assert len(made) == 10
    assert found(await clinic.call("generate", own, *monday)) == []
    held = await booked_prep(clinic)
    busy = await clinic.search("Slot", schedule=f"Schedule/{own['id']}", status="busy")
    assert [one["start"] for one in busy] == [held["start"]]


@pytest.mark.parametrize(
    ("day", "first"),
    [
        ("2027-03-13", "2027-03-13T14:00"),  # Eastern standard time
        ("2027-03-14", "2027-03-14T13:00"),  # the clocks went forward in the night: nine o'clock is an hour earlier
        ("2027-11-06", "2027-11-06T13:00"),  # daylight saving time
        ("2027-11-07", "2027-11-07T14:00"),  # the clocks went back in the night
    ],
)
async def test_a_time_is_found_at_the_hour_of_the_wall_clock_on_each_side_of_a_change(scheduling, day, first):
    week = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    made = schedule("Practitioner/t", "therapist", days=week, hours=(("09:00:00", "17:00:00"),))
    zone = {"url": codes.EXT_TIMEZONE, "valueCode": "America/New_York"}
    await scheduling.create({**made, "extension": [zone, *made["extension"]]})
    low = interval(day)[0]
    asked = (time("start", low), time("end", low + timedelta(days=1)), code("visit-type", "kap-prep"))
    offered = found(await scheduling.ask("find", "Appointment", *asked))
    assert offered[0]["start"].startswith(first)


def of_group(slot):
    hour = {"start": zulu(START), "end": zulu(START + timedelta(hours=1))}
    return {"resourceType": "Slot", "status": "free", **hour, **slot}


async def test_what_is_named_and_is_not_there_is_refused_by_its_rule(scheduling):
    kind = code("visit-type", "kap-prep")

    async def refused(work, rule):
        with pytest.raises(Unprocessable) as error:
            await work
        assert rules_of(error) == {rule}

    await refused(scheduling.ask("find", "Appointment", *span(0, 3), code("visit-type", "kap-dance")), "S-KIND")
    await refused(scheduling.ask("find", "Appointment", *span(3, 1), kind), "S-WINDOW")
    visit = appointment({"resourceType": "Patient", "id": "a"}, None, START + timedelta(days=1), visit=codes.VISIT_PREP)
    await refused(scheduling.create({**visit, "slot": [{"reference": "Slot/none"}]}), "S-SLOT")
    away = {"schedule": {"reference": "Schedule/none"}, "status": "busy-unavailable"}
    await refused(scheduling.create(of_group(away)), "S-SLOT")
    wrong = schedule("Practitioner/t", "therapist")
    zone = {"url": codes.EXT_TIMEZONE, "valueCode": "Mars/Olympus"}
    await scheduling.create({**wrong, "extension": [zone, *wrong["extension"]]})
    await refused(scheduling.ask("find", "Appointment", *span(0, 3), kind), "S-HOURS")


WITH_A_PUMP = """
version: "1"
clinic: example
sections:
  scheduling:
    visits:
      kap-dosing:
        needs:
          - {role: therapist, kind: Practitioner}
          - {role: room, kind: Location, after: 30, by_video: false}
          - {role: equipment, kind: Device, after: 15, by_video: false}
        source: "Medical director, 2026-11-01: an infusion pump of its own for each dosing session"
        verified: true
"""


async def test_the_equipment_that_a_clinic_asks_for_is_found_taken_and_never_in_two_visits(bench, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text(WITH_A_PUMP, encoding="utf-8")
    bench.policy = load_policy(own)
    bench.clock.now = THAT_DAY
    scheduling = await bench.open(scheduling_service)
    for actor, role in (
        ("Practitioner/t1", "therapist"),
        ("Practitioner/t2", "therapist"),
        ("Location/r1", "room"),
        ("Location/r2", "room"),
        ("Device/pump", "equipment"),
    ):
        made = schedule(actor, "therapist", hours=(("08:00:00", "18:00:00"),))
        await scheduling.create({**made, "specialty": [codes.ROLES[role].concept()]})
    asked = (*span(0, 2), code("visit-type", "kap-dosing"))
    first = found(await scheduling.ask("find", "Appointment", *asked))[0]
    assert "Device/pump" in actors_of(first)
    taken = [{**one, "status": "accepted"} for one in first["participant"]]
    await scheduling.create({**first, "status": "arrived", "participant": taken})
    second = found(await scheduling.ask("find", "Appointment", *asked))[0]
    assert second["start"] == "2026-11-23T11:15:00.000Z", "three hours, and a quarter to clean the pump"
    clashing = appointment({"resourceType": "Patient", "id": "bo"}, None, interval(first["start"])[0])
    clashing["serviceType"] = [codes.VISIT_PREP.concept()]
    clashing["participant"][1:] = [{"actor": {"reference": "Device/pump"}, "status": "accepted"}]
    with pytest.raises(Unprocessable) as error:
        await scheduling.create(clashing)
    assert rules_of(error) == {"S-DOUBLE"}
