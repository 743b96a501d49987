"""Nobody and nothing is in two visits at one time: held by the database, whoever writes and however they race."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from services.scheduling.service import scheduling as scheduling_service
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.outcome import Unprocessable
from shared.store.connection import open_connection, retry_conflicts
from tests.integration.services.course import START, about, appointment

DAY = START + timedelta(days=5)
HOUR = timedelta(hours=1)
PREP = codes.VISIT_PREP


@pytest.fixture
async def scheduling(bench):
    return await bench.open(scheduling_service)


def who(name):
    return {"resourceType": "Patient", "id": name}


def with_actors(name, *actors, start=DAY, **more):
    made = appointment(who(name), None, start, visit=PREP, **more)
    made["participant"] = [
        {"actor": {"reference": f"Patient/{name}"}, "status": "accepted"},
        *(
            {
                "actor": {"reference": reference},
                "status": "accepted",
                **({"type": [role.concept()]} if role is not None else {}),
            }
            for reference, role in actors
        ),
    ]
    return made


def rules_of(error):
    return {issue.rule for issue in error.value.issues}


async def test_of_fifty_who_book_one_slot_at_once_one_gets_it(scheduling):
    async def book(number):
        try:
            await retry_conflicts(
                lambda: scheduling.create(appointment(who(f"p{number}"), None, DAY, visit=PREP)), attempts=20
            )
        except Unprocessable as error:
            return {issue.rule for issue in error.issues}
        return None

    answers = await asyncio.gather(*(book(number) for number in range(50)))
    assert answers.count(None) == 1
    assert {rule for answer in answers if answer for rule in answer} == {"S-DOUBLE"}
    assert len(await scheduling.search("Appointment", status="booked")) == 1


async def test_the_database_itself_refuses_a_second_booking(bench, scheduling):
    await scheduling.create(appointment(who("a"), None, DAY, visit=PREP))
    connection = await open_connection(bench.addresses[-1], application="test")
    with pytest.raises(asyncpg.ExclusionViolationError):
        await connection.execute(
            "INSERT INTO booking SELECT tenant, 'Appointment/other', resource, lanes, during FROM booking"
        )
    await connection.close()


@pytest.mark.parametrize(
    "reference", ["Practitioner/t", "https://clinic.example/fhir/Practitioner/t", "Practitioner/t/_history/2"]
)
async def test_a_clinician_is_one_however_he_is_referred_to(scheduling, reference):
    await scheduling.create(with_actors("a", ("Practitioner/t", None)))
    with pytest.raises(Unprocessable) as error:
        await scheduling.create(with_actors("b", (reference, None)))
    assert rules_of(error) == {"S-DOUBLE"}


async def test_a_refusal_names_what_is_taken_and_nobody_else(scheduling):
    held = await scheduling.create(with_actors("secret", ("Practitioner/t", None)))
    with pytest.raises(Unprocessable) as error:
        await scheduling.create(with_actors("b", ("Practitioner/t", None), start=DAY + HOUR))
    (issue,) = error.value.issues
    assert issue.diagnostics.startswith(f"Practitioner/t is taken from {zulu(DAY)}")
    assert "secret" not in str(error.value.as_fhir())
    assert held["id"] not in str(error.value.as_fhir())


async def test_a_held_time_is_taken_until_it_is_let_go(scheduling):
    held = await scheduling.create(with_actors("a", ("Practitioner/t", None), status="pending"))
    with pytest.raises(Unprocessable):
        await scheduling.create(with_actors("b", ("Practitioner/t", None)))
    await scheduling.update({**held, "status": "cancelled"})
    await scheduling.create(with_actors("b", ("Practitioner/t", None)))


async def test_a_deleted_appointment_frees_its_time(scheduling):
    held = await scheduling.create(with_actors("a", ("Practitioner/t", None)))
    await scheduling.delete(held)
    await scheduling.create(with_actors("b", ("Practitioner/t", None)))


async def test_a_moved_appointment_takes_its_new_time_and_frees_the_old_one(scheduling):
    held = await scheduling.create(with_actors("a", ("Practitioner/t", None)))
    later = DAY + 5 * HOUR
    await scheduling.update({**held, "start": zulu(later), "end": zulu(later + HOUR)})
    await scheduling.create(with_actors("b", ("Practitioner/t", None)))
    with pytest.raises(Unprocessable):
        await scheduling.create(with_actors("c", ("Practitioner/t", None), start=later))


async def test_a_move_that_is_refused_keeps_the_old_time(scheduling):
    held = await scheduling.create(with_actors("a", ("Practitioner/t", None)))
    other = await scheduling.create(with_actors("b", ("Practitioner/t", None), start=DAY + 5 * HOUR))
    with pytest.raises(Unprocessable):
        await scheduling.update({**held, "start": other["start"], "end": other["end"]})
    with pytest.raises(Unprocessable):
        await scheduling.create(with_actors("c", ("Practitioner/t", None)))


async def test_a_monitor_watches_over_two_rooms_and_not_over_three(bench, scheduling):
    def booked(name, room):
        made = with_actors(name, ("Practitioner/m", codes.MONITOR), (f"Location/{room}", codes.ROOM))
        return {**made, "status": "arrived", "serviceType": [codes.VISIT_DOSING.concept()]}

    bench.clock.now = DAY
    for number in range(3):
        await scheduling.create(booked(f"p{number}", f"room{number}"))
    tasks = await scheduling.search("Task", code="double-booked")
    assert [task["for"]["reference"] for task in tasks] == ["Patient/p2"], (
        "a fact is recorded, and a person has to look"
    )
    assert "Practitioner/m" in tasks[0]["description"]


async def schedule(scheduling, *actors):
    return await scheduling.create(
        {"resourceType": "Schedule", "active": True, "actor": [{"reference": actor} for actor in actors]}
    )


def slot(of, start, end, status="busy-unavailable", **more):
    return {
        "resourceType": "Slot",
        "schedule": {"reference": f"Schedule/{of['id']}"},
        "status": status,
        "start": zulu(start),
        "end": zulu(end),
        **more,
    }


async def test_a_closed_time_is_not_booked_and_what_is_booked_in_it_stays_with_a_task(scheduling):
    held = await scheduling.create(with_actors("a", ("Practitioner/t", None)))
    own = await schedule(scheduling, "Practitioner/t")
    closed = await scheduling.create(slot(own, DAY - HOUR, DAY + 9 * HOUR))
    (task,) = await scheduling.search("Task", code="closed-and-booked")
    assert task["focus"]["reference"] == f"Appointment/{held['id']}"
    late = with_actors("b", ("Practitioner/t", None), start=DAY + 4 * HOUR)
    with pytest.raises(Unprocessable) as error:
        await scheduling.create(late)
    assert rules_of(error) == {"S-CLOSED"}
    await scheduling.update({**closed, "status": "entered-in-error"})
    await scheduling.create(late)


def group(of, places, visit=PREP):
    return slot(
        of,
        DAY,
        DAY + 2 * HOUR,
        "free",
        serviceType=[visit.concept(codes.GROUP_SESSION)],
        extension=[{"url": codes.EXT_GROUP_PLACES, "valuePositiveInt": places}],
    )


async def test_a_group_session_takes_its_room_once_and_as_many_patients_as_it_has_places(scheduling):
    own = await schedule(scheduling, "Practitioner/t", "Location/r")
    session = await scheduling.create(group(own, 3))
    members = [{"reference": f"Slot/{session['id']}"}]

    def member(name):
        made = with_actors(name, ("Practitioner/t", None), ("Location/r", None), slot=members)
        return {**made, "end": zulu(DAY + 2 * HOUR)}

    for name in ("a", "b", "c"):
        await scheduling.create(member(name))
    with pytest.raises(Unprocessable) as error:
        await scheduling.create(member("d"))
    assert rules_of(error) == {"S-DOUBLE"}
    with pytest.raises(Unprocessable):
        await scheduling.create(with_actors("e", ("Location/r", None)))
    with pytest.raises(Unprocessable, match="Patient/a is taken"):
        await scheduling.create(with_actors("a", ("Practitioner/other", None)))


@pytest.mark.parametrize(("places", "visit"), [(3, codes.VISIT_DOSING), (7, PREP), (0, PREP)])
async def test_a_group_has_no_more_places_than_its_staff_may_watch_over(scheduling, places, visit):
    own = await schedule(scheduling, "Practitioner/t", "Location/r")
    made = group(own, places, visit)
    if not places:
        del made["extension"]
    with pytest.raises(Unprocessable) as error:
        await scheduling.create(made)
    assert rules_of(error) == {"S-GROUP"}


async def test_a_free_slot_becomes_busy_with_a_booking_and_free_again(scheduling):
    own = await schedule(scheduling, "Practitioner/t")
    free = await scheduling.create(slot(own, DAY, DAY + HOUR, "free"))
    later = await scheduling.create(slot(own, DAY + 6 * HOUR, DAY + 7 * HOUR, "free"))
    held = await scheduling.create(with_actors("a", ("Practitioner/t", None)))
    assert (await scheduling.get("Slot", free["id"]))["status"] == "busy"
    assert (await scheduling.get("Slot", later["id"]))["status"] == "free"
    await scheduling.update({**held, "status": "cancelled"})
    assert (await scheduling.get("Slot", free["id"]))["status"] == "free"


NUMBER = {"system": "urn:staff", "value": "7|8, no. \\1"}


@pytest.fixture
async def doctor(bench, intake, scheduling):
    """References to one person: as himself, in his role, and by his number."""
    himself = await intake.create({"resourceType": "Practitioner", "identifier": [NUMBER]})
    role = await intake.create({"resourceType": "PractitionerRole", "practitioner": about(himself)})
    await bench.deliver(intake, scheduling)
    return about(himself), about(role), {"type": "Practitioner", "identifier": NUMBER}


def with_people(name, *actors, **more):
    made = with_actors(name, **more)
    return {**made, "participant": [*made["participant"], *({"actor": one, "status": "accepted"} for one in actors)]}


async def test_somebody_is_one_person_by_reference_by_number_and_by_his_role(scheduling, doctor):
    himself, *others = doctor
    await scheduling.create(with_people("ada", himself))
    for other in others:
        with pytest.raises(Unprocessable, match=f"{himself['reference']} is taken") as error:
            await scheduling.create(with_people("bo", other))
        assert rules_of(error) == {"S-DOUBLE"}


async def test_who_is_named_twice_in_a_visit_is_taken_once(scheduling, doctor):
    himself = doctor[0]
    held = await scheduling.create(with_people("ada", *doctor))
    assert len(held["participant"]) == 4
    with pytest.raises(Unprocessable, match=f"{himself['reference']} is taken"):
        await scheduling.create(with_people("bo", himself))


@pytest.mark.parametrize("named", [1, 2], ids=["by role", "by number"])
async def test_a_monitor_who_is_named_once_more_without_that_role_is_shared_with_nobody(
    bench, scheduling, doctor, named
):
    bench.clock.now = DAY
    for name, more in (("ada", [{"actor": doctor[named], "status": "accepted"}]), ("bo", [])):
        made = with_actors(name, (doctor[0]["reference"], codes.MONITOR), status="arrived")
        made["participant"] += more
        await scheduling.create({**made, "serviceType": [codes.VISIT_DOSING.concept()]})
    tasks = await scheduling.search("Task", code="double-booked")
    assert [task["for"]["reference"] for task in tasks] == ["Patient/bo"]


async def of_schedule(scheduling, *actors):
    return await scheduling.create({"resourceType": "Schedule", "active": True, "actor": list(actors)})


@pytest.mark.parametrize("named", [0, 1, 2], ids=["by reference", "by role", "by number"])
async def test_a_schedule_closes_whose_it_is_however_it_names_him(scheduling, doctor, named):
    held = await scheduling.create(with_people("ada", doctor[0]))
    own = await of_schedule(scheduling, doctor[named])
    await scheduling.create(slot(own, DAY - HOUR, DAY + 9 * HOUR))
    (task,) = await scheduling.search("Task", code="closed-and-booked")
    assert task["focus"]["reference"] == f"Appointment/{held['id']}"
    for one in doctor:
        with pytest.raises(Unprocessable) as error:
            await scheduling.create(with_people("bo", one, start=DAY + 4 * HOUR))
        assert rules_of(error) == {"S-CLOSED"}


async def test_a_group_whose_schedule_names_somebody_twice_takes_him_once_and_its_members_have_him(scheduling, doctor):
    own = await of_schedule(scheduling, *doctor, {"reference": "Location/r"})
    session = await scheduling.create(group(own, 3))
    for name, one in zip(("a", "b", "c"), doctor, strict=True):
        await scheduling.create(
            {
                **with_people(name, one, slot=[{"reference": f"Slot/{session['id']}"}]),
                "end": zulu(DAY + 2 * HOUR),
            }
        )
    with pytest.raises(Unprocessable, match=f"{doctor[0]['reference']} is taken"):
        await scheduling.create(with_people("e", doctor[1]))


@pytest.mark.parametrize("booked", [0, 1, 2], ids=["by reference", "by role", "by number"])
async def test_the_free_slots_of_somebodys_role_follow_his_bookings(scheduling, doctor, booked):
    own = [await of_schedule(scheduling, one) for one in doctor[:2]]
    free = [await scheduling.create(slot(one, DAY, DAY + HOUR, "free")) for one in own]

    async def shown():
        return [(await scheduling.get("Slot", one["id"]))["status"] for one in free]

    held = await scheduling.create(with_people("ada", doctor[booked]))
    assert await shown() == ["busy", "busy"]
    await scheduling.update({**held, "status": "cancelled"})
    assert await shown() == ["free", "free"]
